//! Which letters somebody wants, in the words of the command line, of a query or of a JSON body, and what is wrong with
//! these words.

use std::fmt;
use std::time::SystemTime;

use serde::Deserialize;

use super::moment;
use crate::pg::letters::kept::{Filter, State};

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wish {
    pub flow: Vec<String>,
    pub reason: Option<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    pub topic: Option<String>,
    pub key: Option<String>,
    /// `all` asks for nothing.
    pub state: Option<String>,
    pub id: Vec<i64>,
    /// Without a filter: that all are meant has to be said where something is done to them.
    pub all: bool,
    pub limit: Option<i64>,
    /// Only letters behind this id.
    pub after: i64,
    pub dry_run: bool,
}

/// A word that is not as it has to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Flaw {
    pub field: &'static str,
    pub value: String,
    pub rule: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {}", self.field, self.value, self.rule)
    }
}

impl Wish {
    pub fn of_query(query: &[(String, String)]) -> Result<Wish, Flaw> {
        let mut wish = Wish::default();
        let mut seen = Vec::new();
        for (name, value) in query {
            let flaw = |field, rule: &str| Flaw { field, value: value.clone(), rule: rule.to_owned() };
            let number = |field| value.parse::<i64>().map_err(|_| flaw(field, "must be a whole number"));
            if seen.contains(&name) {
                return Err(Flaw { field: "parameter", value: name.clone(), rule: "is given twice".into() });
            }
            seen.push(name);
            match name.as_str() {
                "flow" => wish.flow = value.split(',').map(str::to_owned).collect(),
                "reason" => wish.reason = Some(value.clone()),
                "since" => wish.since = Some(value.clone()),
                "until" => wish.until = Some(value.clone()),
                "topic" => wish.topic = Some(value.clone()),
                "key" => wish.key = Some(value.clone()),
                "state" => wish.state = Some(value.clone()),
                "id" => {
                    let ids = value.split(',').map(|id| id.parse().map_err(|_| flaw("id", "must be whole numbers")));
                    wish.id = ids.collect::<Result<_, _>>()?;
                }
                "limit" => wish.limit = Some(number("limit")?),
                "after" => wish.after = number("after")?,
                _ => {
                    let rule = "is none; there are flow, reason, since, until, topic, key, state, id, limit, after";
                    return Err(Flaw { field: "parameter", value: name.clone(), rule: rule.into() });
                }
            }
        }
        Ok(wish)
    }

    /// `flows`: the names that there are.
    pub fn filter(&self, flows: &[String], now: SystemTime) -> Result<Filter, Flaw> {
        let flaw = |field, value: &str, rule| Flaw { field, value: value.to_owned(), rule };
        if let Some(flow) = self.flow.iter().find(|flow| !flows.contains(flow)) {
            return Err(flaw("flow", flow, format!("is not a flow; the flows are {}", flows.join(", "))));
        }
        let moment = |field, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| moment::parse(text, now).map_err(|rule| flaw(field, text, rule))).transpose()
        };
        let state = match self.state.as_deref() {
            None | Some("all") => None,
            Some(name) => {
                let unknown = || flaw("state", name, "must be open, replayed, dropped or all".into());
                Some(State::ALL.into_iter().find(|state| state.name() == name).ok_or_else(unknown)?)
            }
        };
        if self.limit.is_some_and(|limit| limit < 1) {
            return Err(flaw("limit", &self.limit.unwrap_or_default().to_string(), "must be at least 1".into()));
        }
        Ok(Filter {
            flows: self.flow.clone(),
            reason: self.reason.clone(),
            since: moment("since", &self.since)?,
            until: moment("until", &self.until)?,
            topic: self.topic.clone(),
            key: self.key.clone(),
            state,
            ids: self.id.clone(),
        })
    }

    /// The same for letters that something is to be done to: only open ones, and all of them only where that is said.
    pub fn filter_of_open(&self, flows: &[String], now: SystemTime) -> Result<Filter, Flaw> {
        if let Some(state) = &self.state {
            let rule = "only open letters are replayed and dropped; leave it out".to_owned();
            return Err(Flaw { field: "state", value: state.clone(), rule });
        }
        let filter = self.filter(flows, now)?;
        let is_any = filter == Filter::default();
        if is_any != self.all {
            let rule = match is_any {
                true => "no filter is given; if all open letters are meant, say all",
                false => "all is for want of a filter, and there is one; leave one of both out",
            };
            return Err(Flaw { field: "all", value: self.all.to_string(), rule: rule.into() });
        }
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn of_query(query: &[(&str, &str)]) -> Result<Wish, Flaw> {
        let query: Vec<_> = query.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Wish::of_query(&query)
    }

    #[test]
    fn a_query_says_the_same_as_a_body() {
        let query = [
            ("flow", "status,orders"),
            ("reason", "avro.short"),
            ("since", "1970-01-01T00:00:07Z"),
            ("topic", "t"),
            ("key", "k"),
            ("state", "dropped"),
            ("id", "7,8"),
            ("limit", "5"),
            ("after", "3"),
        ];
        let wish = of_query(&query).unwrap();
        let body = r#"{"flow":["status","orders"],"reason":"avro.short","since":"1970-01-01T00:00:07Z","topic":"t",
                       "key":"k","state":"dropped","id":[7,8],"limit":5,"after":3}"#;
        assert_eq!(wish, serde_json::from_str(body).unwrap());
        let filter = wish.filter(&["orders".into(), "status".into()], NOW).unwrap();
        assert_eq!(filter.since, Some(NOW + Duration::from_secs(7)));
        assert_eq!((filter.state, filter.ids, filter.flows.len()), (Some(State::Dropped), vec![7, 8], 2));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value_and_its_rule() {
        let said = |query: &[(&str, &str)]| {
            let wish = of_query(query).map_err(|flaw| flaw.to_string())?;
            wish.filter(&["status".into()], NOW).map(drop).map_err(|flaw| flaw.to_string())
        };
        assert_eq!(said(&[("state", "all"), ("limit", "1")]), Ok(()));
        for (query, expected) in [
            (("flow", "statsu"), "flow \"statsu\": is not a flow; the flows are status"),
            (("limit", "0"), "limit \"0\": must be at least 1"),
            (("limit", "x"), "limit \"x\": must be a whole number"),
            (("id", "1,x"), "id \"1,x\": must be whole numbers"),
            (("state", "shut"), "state \"shut\": must be open, replayed, dropped or all"),
            (("color", "red"), "parameter \"color\": is none; there are flow,"),
            (("since", "2x"), "since \"2x\": must be a moment such as"),
        ] {
            let error = said(&[query]).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(said(&[("key", "a"), ("key", "b")]).unwrap_err().contains("is given twice"));
    }

    #[test]
    fn everything_is_meant_only_where_that_is_said() {
        let of = |wish: Wish| wish.filter_of_open(&[], NOW).map(drop).map_err(|flaw| flaw.field);
        let key = Some("k".to_owned());
        assert_eq!(of(Wish::default()), Err("all"));
        assert_eq!(of(Wish { limit: Some(1), ..Wish::default() }), Err("all"), "a limit is no filter");
        assert_eq!(of(Wish { all: true, ..Wish::default() }), Ok(()));
        assert_eq!(of(Wish { key: key.clone(), ..Wish::default() }), Ok(()));
        assert_eq!(of(Wish { key, all: true, ..Wish::default() }), Err("all"));
        assert_eq!(of(Wish { state: Some("open".into()), all: true, ..Wish::default() }), Err("state"));
    }
}
