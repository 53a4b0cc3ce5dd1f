//! Values at known places of JSON, found in one pass over the text. The whole of it is checked on the way; a value is
//! given as it was written. What it means is not asked here.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Deeper than this nothing that is meant goes, and a reader that recurses may run out of its stack.
const DEPTH_MAX: usize = 500;
/// Places that are looked for.
pub const PATHS_MAX: usize = 64;

/// Places in JSON, each with a number.
#[derive(Default)]
pub struct Paths {
    root: Node,
    /// The number of the whole, which need not be looked for.
    whole: Option<usize>,
    count: usize,
}

#[derive(Default)]
struct Node {
    /// The number of the place that ends here.
    number: Option<usize>,
    children: Vec<(String, Node)>,
}

/// What was found, by the numbers of the places.
pub type Places<'a> = [Option<&'a str>; PATHS_MAX];

impl Paths {
    /// The number of a place. None where there are too many.
    pub fn add(&mut self, parts: &[String]) -> Option<usize> {
        let mut node = &mut self.root;
        for part in parts {
            let index = node.children.iter().position(|(name, _)| name == part).unwrap_or_else(|| {
                node.children.push((part.clone(), Node::default()));
                node.children.len() - 1
            });
            node = &mut node.children[index].1;
        }
        let place = if parts.is_empty() { &mut self.whole } else { &mut node.number };
        let number = *place.get_or_insert(self.count);
        self.count = self.count.max(number + 1);
        (number < PATHS_MAX).then_some(number)
    }

    /// Of a name that is given twice the last one counts, as in PostgreSQL. The error repeats nothing of the text.
    pub fn read<'a>(&self, json: &'a [u8]) -> Result<Places<'a>, String> {
        let text = simdutf8::basic::from_utf8(json).map_err(|_| "is not UTF-8".to_owned())?;
        if is_too_deep(json) {
            return Err(format!("is nested more than {DEPTH_MAX} deep"));
        }
        let mut found = [None; PATHS_MAX];
        let mut reader = serde_json::Deserializer::from_str(text);
        let looked = Look { node: &self.root, found: &mut found }.deserialize(&mut reader).and_then(|()| reader.end());
        looked.map_err(|error| format!("is not JSON: line {} column {}", error.line(), error.column()))?;
        if let Some(number) = self.whole {
            found[number] = Some(text.trim_ascii());
        }
        Ok(found)
    }
}

/// A level takes two bytes at least, so that most texts need not be looked at.
fn is_too_deep(json: &[u8]) -> bool {
    if json.len() <= 2 * DEPTH_MAX {
        return false;
    }
    let (mut depth, mut is_text, mut is_escaped) = (0usize, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => depth += 1,
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// One value, with what is looked for in it.
struct Look<'n, 'f, 'a> {
    node: &'n Node,
    found: &'f mut Places<'a>,
}

impl<'de> DeserializeSeed<'de> for Look<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        match self.node.number {
            Some(number) => {
                let raw = <&RawValue>::deserialize(reader)?.get();
                self.found[number] = Some(raw);
                match self.node.children.is_empty() {
                    true => Ok(()),
                    false => {
                        let mut inner = serde_json::Deserializer::from_str(raw);
                        inner.deserialize_any(self).map_err(serde::de::Error::custom)
                    }
                }
            }
            None if self.node.children.is_empty() => IgnoredAny::deserialize(reader).map(drop),
            None => reader.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Look<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(child) = map.next_key_seed(Child(self.node))? {
            match child {
                Some(node) => map.next_value_seed(Look { node, found: self.found })?,
                None => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        for index in 0usize.. {
            let child = self.node.children.iter().find(|(name, _)| name.parse() == Ok(index));
            let next = match child {
                Some((_, node)) => list.next_element_seed(Look { node, found: self.found })?,
                None => list.next_element::<IgnoredAny>()?.map(drop),
            };
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }

    // Nothing is in what has no parts.
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A name, and what is looked for under it.
struct Child<'n>(&'n Node);

impl<'de, 'n> DeserializeSeed<'de> for Child<'n> {
    type Value = Option<&'n Node>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Option<&'n Node>, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'n> Visitor<'_> for Child<'n> {
    type Value = Option<&'n Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<&'n Node>, E> {
        Ok(self.0.children.iter().find(|(child, _)| child == name).map(|(_, node)| node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(texts: &[&str]) -> Paths {
        let mut paths = Paths::default();
        for text in texts {
            let parts: Vec<String> = text.split('/').skip(1).map(str::to_owned).collect();
            paths.add(&parts).unwrap();
        }
        paths
    }

    fn found<'a>(paths: &Paths, json: &'a str) -> Vec<Option<&'a str>> {
        let found = paths.read(json.as_bytes()).unwrap();
        found[..paths.count].to_vec()
    }

    #[test]
    fn each_place_is_found_as_it_was_written() {
        let paths = paths(&["", "/user/id", "/user", "/tags/1", "/none/at/all", "/user/id"]);
        let json = r#" {"user": {"name": "\u0041", "id": 1.50}, "tags": ["a", {"b": []}, 7], "x": [{}, null]} "#;
        assert_eq!(
            found(&paths, json),
            [Some(json.trim()), Some("1.50"), Some(r#"{"name": "\u0041", "id": 1.50}"#), Some(r#"{"b": []}"#), None]
        );
        assert_eq!(found(&paths, r#"{"us\u0065r":{"id":1,"id":2},"tags":true}"#)[1], Some("2"));
        assert_eq!(found(&paths, "[7]"), [Some("[7]"), None, None, None, None]);
    }

    #[test]
    fn what_is_no_json_is_refused_wherever_the_fault_is_and_not_repeated() {
        let paths = paths(&["/a/b"]);
        let deep = |count| format!("{{\"x\":{}{}}}", "[".repeat(count), "]".repeat(count));
        for bad in ["", "{", "{\"x\": canary}", "{\"a\": {\"b\": 1}} canary", "{\"a\":{\"b\":}}", &deep(600)] {
            let error = paths.read(bad.as_bytes()).err().unwrap_or_else(|| panic!("{bad}"));
            assert!(!error.contains("canary"), "{error}");
        }
        assert!(paths.read(b"{\"x\": \"\xff\"}").is_err());
        assert!(paths.read(deep(499).as_bytes()).is_ok());
        assert!(paths.read(format!("\"{}\"", "[".repeat(2_000)).as_bytes()).is_ok());
    }
}
