//! Objects of JSON, field by field, with values as they were written. Nothing is made of them here; but what is passed over is
//! checked to be JSON, so that what is broken anywhere in a message is a broken message.

use std::borrow::Cow;

/// What is no JSON, and where that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    pub line: usize,
    pub column: usize,
}

pub struct Scan<'a> {
    json: &'a str,
    at: usize,
    /// The object that was entered has shown no field yet.
    is_first: bool,
}

impl<'a> Scan<'a> {
    pub fn new(json: &'a str) -> Self {
        Scan { json, at: blank_end(json.as_bytes(), 0), is_first: false }
    }

    /// Where it is in the text.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn is_object(&self) -> bool {
        self.json.as_bytes().get(self.at) == Some(&b'{')
    }

    /// Its fields are next.
    pub fn enter(&mut self) -> Result<(), Broken> {
        self.pass(b'{')?;
        self.is_first = true;
        Ok(())
    }

    /// The next field's name, in front of its value; behind the object, where there is none.
    pub fn name(&mut self) -> Result<Option<Cow<'a, str>>, Broken> {
        let is_first = std::mem::take(&mut self.is_first);
        let bytes = self.json.as_bytes();
        self.at = blank_end(bytes, self.at);
        if bytes.get(self.at) == Some(&b'}') {
            self.at += 1;
            return Ok(None);
        }
        if !is_first {
            self.pass(b',')?;
        }
        let end = text_end(bytes, self.at).map_err(|at| self.broken(at))?;
        let name = &self.json[self.at..end];
        self.at = blank_end(bytes, end);
        self.pass(b':')?;
        let inner = &name[1..name.len() - 1];
        match inner.as_bytes().contains(&b'\\') {
            false => Ok(Some(Cow::Borrowed(inner))),
            true => serde_json::from_str(name).map(|name| Some(Cow::Owned(name))).map_err(|_| self.broken(self.at)),
        }
    }

    /// The value that is next.
    pub fn value(&mut self) -> Result<&'a str, Broken> {
        let end = value_end(self.json.as_bytes(), self.at).map_err(|at| self.broken(at))?;
        let value = &self.json[self.at..end];
        self.at = end;
        Ok(value)
    }

    /// Nothing is left.
    pub fn end(&self) -> Result<(), Broken> {
        let end = blank_end(self.json.as_bytes(), self.at);
        if end == self.json.len() { Ok(()) } else { Err(self.broken(end)) }
    }

    fn pass(&mut self, mark: u8) -> Result<(), Broken> {
        self.at = mark_end(self.json.as_bytes(), self.at, mark).map_err(|at| self.broken(at))?;
        Ok(())
    }

    fn broken(&self, at: usize) -> Broken {
        let before = &self.json.as_bytes()[..at.min(self.json.len())];
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Broken { line: lines + 1, column: before.len() - begin + 1 }
    }
}

/// Where one goes on, or the place that is no JSON.
type End = Result<usize, usize>;

fn blank_end(json: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\t' | b'\r') = json.get(at) {
        at += 1;
    }
    at
}

fn value_end(json: &[u8], mut at: usize) -> End {
    // What closes the objects and lists that are open.
    let mut open = Vec::new();
    loop {
        at = match json.get(at) {
            Some(b'{') => match blank_end(json, at + 1) {
                end if json.get(end) == Some(&b'}') => end + 1,
                end => {
                    open.push(b'}');
                    at = name_end(json, end)?;
                    continue;
                }
            },
            Some(b'[') => match blank_end(json, at + 1) {
                end if json.get(end) == Some(&b']') => end + 1,
                end => {
                    open.push(b']');
                    at = end;
                    continue;
                }
            },
            Some(b'"') => text_end(json, at)?,
            Some(b'-' | b'0'..=b'9') => number_end(json, at)?,
            Some(b'n') => word_end(json, at, b"null")?,
            Some(b't') => word_end(json, at, b"true")?,
            Some(b'f') => word_end(json, at, b"false")?,
            _ => return Err(at),
        };
        loop {
            let Some(close) = open.last() else { return Ok(at) };
            at = blank_end(json, at);
            match json.get(at) {
                Some(mark) if mark == close => {
                    open.pop();
                    at += 1;
                }
                Some(b',') => {
                    at = blank_end(json, at + 1);
                    if *close == b'}' {
                        at = name_end(json, at)?;
                    }
                    break;
                }
                _ => return Err(at),
            }
        }
    }
}

/// Behind a mark and what is blank there.
fn mark_end(json: &[u8], at: usize, mark: u8) -> End {
    if json.get(at) == Some(&mark) { Ok(blank_end(json, at + 1)) } else { Err(at) }
}

/// Behind a name and its colon.
fn name_end(json: &[u8], at: usize) -> End {
    mark_end(json, blank_end(json, text_end(json, at)?), b':')
}

fn word_end(json: &[u8], at: usize, word: &[u8]) -> End {
    if json[at..].starts_with(word) { Ok(at + word.len()) } else { Err(at) }
}

fn number_end(json: &[u8], at: usize) -> End {
    let digits_end = |begin: usize| {
        let mut at = begin;
        // Moments have a dozen digits and more.
        while let Some(eight) = json[at..].first_chunk() {
            let eight = u64::from_le_bytes(*eight) ^ (ONES * u64::from(b'0'));
            let others = (eight.wrapping_add(ONES * (0x80 - 10)) | eight) & (ONES << 7);
            at += (others.trailing_zeros() / 8) as usize;
            if others != 0 {
                return if at == begin { Err(at) } else { Ok(at) };
            }
        }
        at += json[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if at == begin { Err(at) } else { Ok(at) }
    };
    let begin = at + usize::from(json[at] == b'-');
    let mut at = digits_end(begin)?;
    if json[begin] == b'0' && at > begin + 1 {
        return Err(begin);
    }
    if json.get(at) == Some(&b'.') {
        at = digits_end(at + 1)?;
    }
    if let Some(b'e' | b'E') = json.get(at) {
        let is_signed = matches!(json.get(at + 1), Some(b'+' | b'-'));
        at = digits_end(at + 1 + usize::from(is_signed))?;
    }
    Ok(at)
}

const ONES: u64 = u64::MAX / 255;

/// The highest bit of each byte that is zero; above the first of them, of others too.
fn zeros(bytes: u64) -> u64 {
    bytes.wrapping_sub(ONES) & !bytes & (ONES << 7)
}

/// From the quote that begins a text to behind the one that ends it.
fn text_end(json: &[u8], begin: usize) -> End {
    if json.get(begin) != Some(&b'"') {
        return Err(begin);
    }
    let mut at = begin + 1;
    loop {
        while let Some(eight) = json[at..].first_chunk() {
            let eight = u64::from_le_bytes(*eight);
            let controls = eight.wrapping_sub(ONES * 0x20) & !eight & (ONES << 7);
            let marks = controls | zeros(eight ^ (ONES * u64::from(b'"'))) | zeros(eight ^ (ONES * u64::from(b'\\')));
            at += (marks.trailing_zeros() / 8) as usize;
            if marks != 0 {
                break;
            }
        }
        match json.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => {
                at = match json.get(at + 1) {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at + 2,
                    Some(b'u')
                        if json[at + 2..].iter().take(4).filter(|byte| byte.is_ascii_hexdigit()).count() == 4 =>
                    {
                        at + 6
                    }
                    _ => return Err(at),
                }
            }
            Some(0x20..) => at += 1,
            Some(0..0x20) | None => return Err(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    type Fields = Vec<(String, String)>;

    fn scanned(json: &str) -> Option<Fields> {
        let mut fields = Fields::new();
        let mut scan = Scan::new(json);
        scan.enter().ok()?;
        while let Some(name) = scan.name().ok()? {
            fields.push((name.into_owned(), scan.value().ok()?.to_owned()));
        }
        scan.end().ok()?;
        Some(fields)
    }

    /// What the library reads.
    fn read(json: &str) -> Option<Fields> {
        struct Read(Fields);
        impl<'de> serde::Deserialize<'de> for Read {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Each;
                impl<'de> serde::de::Visitor<'de> for Each {
                    type Value = Fields;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<M: serde::de::MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                        let mut fields = Fields::new();
                        while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                            fields.push((name, value.get().to_owned()));
                        }
                        Ok(fields)
                    }
                }
                deserializer.deserialize_map(Each).map(Read)
            }
        }
        serde_json::from_str(json).ok().map(|Read(fields)| fields)
    }

    /// Pieces that make JSON now and then, and nearly JSON mostly.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\"a\"",
            "\"b\":",
            "\"\\u00e9\"",
            "\"\\ud83d\"",
            "\"\\x\"",
            "null",
            "true",
            "fals",
            "0",
            "-",
            "-0",
            "01",
            "1.5",
            "1.",
            ".5",
            "1e9",
            "1E+",
            "-2.5e-7",
            " ",
            "\n",
            "\t",
            "\u{1}",
            "\u{7f}",
            "é",
            "{\"a\":1}",
            "[1,{}]",
            "\"12345678\\\"\"",
            "\"1234567\\u12\"",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// Objects as they come, with or without blanks.
    fn object() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(|number| serde_json::json!(number)),
            ".{0,20}".prop_map(Into::into),
        ];
        let value = leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::hash_map(".{0,10}", inner, 0..5).prop_map(|map| map.into_iter().collect()),
            ]
        });
        let object = prop::collection::hash_map(".{0,10}", value, 0..6)
            .prop_map(|map| serde_json::Value::Object(map.into_iter().collect()));
        (object, any::<bool>())
            .prop_map(|(object, is_wide)| if is_wide { format!("{object:#}") } else { object.to_string() })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn objects_are_read_as_the_library_reads_them(json in object()) {
            prop_assert!(read(&json).is_some());
            prop_assert_eq!(scanned(&json), read(&json));
        }

        #[test]
        fn what_is_broken_is_broken_for_the_library_too(json in object(), at: prop::sample::Index, piece in pieces()) {
            let at = (0..=at.index(json.len() + 1)).rev().find(|at| json.is_char_boundary(*at)).unwrap_or(0);
            for broken in [&json[..at], &format!("{}{piece}{}", &json[..at], &json[at..]), &format!("{{\"k\":{piece}}}"), &piece] {
                prop_assert_eq!(scanned(broken), read(broken), "{:?}", broken);
            }
        }
    }

    /// Eight bytes are looked at together.
    #[test]
    fn any_byte_at_any_place_of_a_text_or_a_number_is_what_the_library_takes_it_for() {
        for (byte, at) in (0..128).flat_map(|byte| (0..20).map(move |at| (byte, at))) {
            for value in ["\"text of many bytes\"", "12345678901234567890", "-0.12345678901234567e9"] {
                let mut json = format!("{{\"a\":{value}}}");
                json.replace_range(5 + at..6 + at, &char::from(byte).to_string());
                assert_eq!(scanned(&json), read(&json), "{json:?}");
            }
        }
    }

    #[test]
    fn what_is_broken_is_told_by_its_place() {
        let mut scan = Scan::new("{\"a\": 1,\n \"b\": tru}");
        scan.enter().unwrap();
        assert_eq!((&*scan.name().unwrap().unwrap(), scan.value()), ("a", Ok("1")));
        assert_eq!(&*scan.name().unwrap().unwrap(), "b");
        assert_eq!(scan.value(), Err(Broken { line: 2, column: 7 }));
    }

    #[test]
    fn depth_takes_no_stack() {
        let json = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(scanned(&json).map(|fields| fields.len()), Some(1));
    }
}
