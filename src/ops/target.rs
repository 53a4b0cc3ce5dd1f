//! The target of a request line: a path and the parameters of its query, percent-decoded.

/// `/path?name=value&…`, decoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    pub path: String,
    pub query: Vec<(String, String)>,
}

impl Target {
    /// Or what is wrong with it.
    pub fn parse(target: &str) -> Result<Target, String> {
        let path = parts(target).0;
        let path = if path.is_empty() { "/".into() } else { decode(path, false)? };
        Ok(Target { path, query: query(target)? })
    }
}

/// The path and the query as written.
fn parts(target: &str) -> (&str, &str) {
    // The absolute form, which every server has to understand (RFC 9112, 3.2.2).
    let target = match target.split_once("://") {
        Some(("http" | "https", rest)) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        _ => target,
    };
    target.split_once('?').unwrap_or((target, ""))
}

/// What stands between the slashes of the path, each decoded by itself. The first is empty: it comes before a slash.
pub fn segments(target: &str) -> Result<Vec<String>, String> {
    parts(target).0.split('/').map(|segment| decode(segment, false)).collect()
}

pub fn query(target: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = parts(target).1.split('&').filter(|pair| !pair.is_empty());
    let decoded = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name, true)?, decode(value, true)?))
    });
    decoded.collect()
}

fn decode(text: &str, plus_is_space: bool) -> Result<String, String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(format!("a percent sign without two hexadecimal digits: {text:?}")),
            },
            b'+' if plus_is_space => b' ',
            _ => byte,
        });
    }
    String::from_utf8(decoded).map_err(|_| format!("not UTF-8 once decoded: {text:?}"))
}

fn hex(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str, query: &[(&str, &str)]) -> Result<Target, String> {
        let query = query.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Ok(Target { path: path.into(), query })
    }

    #[test]
    fn decodes_paths_and_parameters() {
        assert_eq!(Target::parse("/a?count=1&flow=x"), target("/a", &[("count", "1"), ("flow", "x")]));
        assert_eq!(Target::parse("/%61+b?c%6Funt=%31+2"), target("/a+b", &[("count", "1 2")]));
        assert_eq!(Target::parse("/a?"), target("/a", &[]));
        assert_eq!(Target::parse("/a?&&x&y=&=z&a=b=c"), target("/a", &[("x", ""), ("y", ""), ("", "z"), ("a", "b=c")]));
        assert_eq!(Target::parse("http://host:1/a?b=c"), target("/a", &[("b", "c")]));
        assert_eq!(Target::parse("http://host"), target("/", &[]));
        assert_eq!(Target::parse("http://host?b=c"), target("/", &[("b", "c")]));
        assert_eq!(Target::parse("*"), target("*", &[]));
    }

    #[test]
    fn refuses_what_does_not_decode() {
        for odd in ["/%", "/%4", "/%4g", "/%+1", "/?a=%", "/?%zz=1", "/?a=%ff", "/%C3"] {
            assert!(Target::parse(odd).is_err(), "{odd}");
        }
    }
}
