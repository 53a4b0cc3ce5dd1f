//! Which service takes which request. Paths are compared segment by segment, each decoded by itself, so that a slash
//! inside of a name is no border.

use std::sync::Arc;

use super::body::{Body, Room};
use super::service::{Call, Endpoint, Service};
use super::target;

/// What the bodies of all requests may take up: sixty-four of the largest that a service of ours takes.
const BODIES_BYTES_MAX: usize = 64 << 20;

pub struct Directory {
    services: Vec<Arc<dyn Service>>,
    room: Arc<Room>,
}

impl Directory {
    pub fn new(services: Vec<Arc<dyn Service>>) -> Directory {
        Directory { services, room: Room::new(BODIES_BYTES_MAX) }
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    pub fn endpoints(&self) -> impl Iterator<Item = (usize, &'static Endpoint)> {
        let services = self.services.iter().enumerate();
        services.flat_map(|(service, known)| known.endpoints().iter().map(move |endpoint| (service, endpoint)))
    }

    pub fn service(&self, call: &Call) -> &dyn Service {
        &*self.services[call.service]
    }

    /// The call that this becomes, without what comes in headers and body. None where no service takes it, or where
    /// the target cannot be decoded, which is for others to tell.
    pub fn find(&self, method: &str, target: &str) -> Option<Call> {
        if self.is_empty() {
            return None;
        }
        let segments = target::segments(target).ok()?;
        let takes = |endpoint: &Endpoint| method == endpoint.method || method == "HEAD" && endpoint.method == "GET";
        let mut taking = self.endpoints().filter(|(_, endpoint)| takes(endpoint));
        let (service, endpoint, param) =
            taking.find_map(|(service, endpoint)| Some((service, endpoint, param(endpoint.path, &segments)?)))?;
        let query = target::query(target).ok()?;
        Some(Call { service, param: param.to_owned(), query, body: Body::new(&self.room), ..Call::new(endpoint) })
    }

    /// The methods that this target could be asked with.
    pub fn methods(&self, target: &str) -> Vec<&'static str> {
        let Ok(segments) = target::segments(target) else { return Vec::new() };
        let here = |(_, endpoint): (usize, &'static Endpoint)| {
            param(endpoint.path, &segments).is_some().then_some(endpoint.method)
        };
        self.endpoints().filter_map(here).collect()
    }
}

/// What stands for the name in braces, or nothing where there is none. None where the path is another one.
fn param<'a>(path: &str, segments: &'a [String]) -> Option<&'a str> {
    let mut param = "";
    let mut wanted = path.split('/');
    for segment in segments {
        match wanted.next()? {
            name if name.starts_with('{') && !segment.is_empty() => param = segment,
            literal if literal == segment => {}
            _ => return None,
        }
    }
    wanted.next().is_none().then_some(param)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::service::{Pace, Reply};

    struct Shop;

    const fn endpoint(method: &'static str, path: &'static str) -> Endpoint {
        Endpoint { method, path, body_bytes_max: 10, pace: Pace::Prompt, line: "a test" }
    }

    impl Service for Shop {
        fn endpoints(&self) -> &'static [Endpoint] {
            const ENDPOINTS: &[Endpoint] = &[
                endpoint("GET", "/a/{id}"),
                endpoint("POST", "/a/{id}"),
                endpoint("POST", "/a/{id}/b"),
                endpoint("PUT", "/c"),
            ];
            ENDPOINTS
        }

        fn call(&self, _: Call, _: Reply) {}
    }

    #[test]
    fn a_request_finds_the_endpoint_that_it_names() {
        let directory = Directory::new(vec![Arc::new(Shop)]);
        let found = |method: &str, target: &str| {
            directory
                .find(method, target)
                .map(|call| format!("{} {} {}", call.endpoint.method, call.endpoint.path, call.param))
        };
        for (method, target, expected) in [
            ("GET", "/a/7?x=1", "GET /a/{id} 7"),
            ("HEAD", "/a/7", "GET /a/{id} 7"),
            ("POST", "/a/7", "POST /a/{id} 7"),
            ("POST", "/%61/x%2Fy%20z/b", "POST /a/{id}/b x/y z"),
            ("POST", "http://host:1/a/b/b", "POST /a/{id}/b b"),
            ("PUT", "/c", "PUT /c "),
        ] {
            assert_eq!(found(method, target).as_deref(), Some(expected), "{method} {target}");
        }
        for (method, target) in [
            ("PUT", "/a/7"),
            ("get", "/a/7"),
            ("GET", "/a/"),
            ("GET", "/a//"),
            ("GET", "/a"),
            ("GET", "/a/7/"),
            ("GET", "a/7"),
            ("POST", "//a/7/b"),
            ("PUT", "/c/"),
            ("PUT", "/c/%"),
            ("GET", "/a/%ff"),
            ("GET", "/a/7?%"),
        ] {
            assert_eq!(found(method, target), None, "{method} {target}");
        }
        assert_eq!(directory.find("PUT", "/c?x=1&x=2").unwrap().parameter("x"), Some("1"));
        assert_eq!((directory.methods("/a/7"), directory.methods("/%")), (vec!["GET", "POST"], vec![]));
    }
}
