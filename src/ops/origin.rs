//! Who may change something: a page of another site can make a browser send a request here, with the reach of
//! the person in front of it. Such requests are refused by what the browser itself says about them.

use super::api::Answer;

/// What a browser says about where a request comes from.
#[derive(Default)]
pub(super) struct Whence<'a> {
    pub host: Option<&'a str>,
    pub origin: Option<&'a str>,
    pub fetch_site: Option<&'a str>,
}

impl Whence<'_> {
    /// A page of another site can make a browser send a request that it may not read the answer of; what changes
    /// something must not be had in that way. Who is no browser says nothing, and is let through.
    pub fn check(&self, method: &str) -> Result<(), Answer> {
        if matches!(method, "GET" | "HEAD" | "OPTIONS") {
            return Ok(());
        }
        let is_own = match (self.fetch_site, self.origin) {
            (Some(site), _) => matches!(site, "same-origin" | "none"),
            (None, Some(origin)) => {
                let authority = origin.split_once("://").map(|(_, authority)| authority);
                authority.zip(self.host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
            }
            (None, None) => true,
        };
        if is_own {
            return Ok(());
        }
        let message = format!("a page of {} may not {method} here", self.origin.unwrap_or("another origin"));
        let cure = "send it from a page of this host, or from a client that is no browser and sends no Origin; \
                    a proxy in between must keep Host as it is";
        Err(Answer::error(403, "origin_foreign", message, cure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_origin_may_read_and_not_change() {
        for (passes, fetch_site, origin) in [
            (true, None, None),
            (true, None, Some("http://Gate:8080")),
            (true, None, Some("https://gate:8080")),
            (true, Some("same-origin"), Some("http://gate:8080")),
            // A proxy in between has another name for this host.
            (true, Some("same-origin"), Some("http://outside")),
            (true, Some("none"), None),
            (false, None, Some("null")),
            (false, None, Some("")),
            (false, None, Some("http://")),
            (false, None, Some("gate:8080")),
            (false, None, Some("http://gate")),
            (false, None, Some("http://gate:80")),
            (false, None, Some("http://gate:8080.evil.example")),
            (false, None, Some("http://evil.example://gate:8080")),
            (false, Some("cross-site"), None),
            (false, Some("cross-site"), Some("http://gate:8080")),
            (false, Some("same-site"), Some("http://gate:3000")),
            (false, Some(""), None),
        ] {
            let whence = Whence { host: Some("gate:8080"), origin, fetch_site };
            for method in ["POST", "PUT", "DELETE", "post", "get"] {
                let status = whence.check(method).map_or_else(|answer| answer.status, |()| 200);
                assert_eq!(status, if passes { 200 } else { 403 }, "{method} {fetch_site:?} {origin:?}");
            }
            for method in ["GET", "HEAD", "OPTIONS"] {
                assert!(whence.check(method).is_ok());
            }
        }
        assert!(Whence { origin: Some("http://gate"), ..Whence::default() }.check("POST").is_err());
    }
}
