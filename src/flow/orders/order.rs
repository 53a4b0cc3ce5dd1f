//! An order as it is asked for, and as it stands in a Kafka record: read from JSON, checked field by field, and written
//! again. Whoever accepts orders and whoever applies them read them here, so that nothing is accepted that cannot be
//! applied. Money is exact: no float comes near it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// The longest name of a customer or a product, in characters.
pub const ID_CHARS_MAX: usize = 64;
pub const QUANTITY_MAX: i32 = 1_000_000;

/// An amount of money in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    cents: i64,
}

/// What a customer wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish<'a> {
    pub customer_id: Cow<'a, str>,
    pub product_id: Cow<'a, str>,
    pub quantity: i32,
    pub amount: Amount,
}

/// A wish that was given a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    pub order_id: Uuid,
    pub wish: Wish<'a>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Empty where it is about the whole.
    pub field: &'static str,
    /// As it was written, shortened.
    value: Option<String>,
    rule: String,
}

impl Flaw {
    pub fn new(field: &'static str, rule: impl Into<String>) -> Self {
        Flaw { field, value: None, rule: rule.into() }
    }

    fn of(field: &'static str, value: &str, rule: impl Into<String>) -> Self {
        Flaw { field, value: Some(shown(value)), rule: rule.into() }
    }

    /// What is wrong, in the words for whoever wrote the value.
    pub fn told(&self) -> String {
        match &self.value {
            Some(value) => format!("is {value}; {}", self.rule),
            None => self.rule.clone(),
        }
    }

    /// The same for everybody else: a letter's reason is logged and listed, and repeats nothing of its record.
    pub fn discreet(&self) -> String {
        match self.field {
            "" => self.rule.clone(),
            field if self.value.is_some() => format!("{field}: {}", self.rule),
            field => format!("{field} {}", self.rule),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            "" => self.told().fmt(f),
            field => write!(f, "{field} {}", self.told()),
        }
    }
}

/// The fields as written. Each is looked at by itself, so that all flaws are told at once.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    order_id: Option<&'a RawValue>,
    #[serde(borrow)]
    customer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    product_id: Option<&'a RawValue>,
    #[serde(borrow)]
    quantity: Option<&'a RawValue>,
    #[serde(borrow)]
    amount: Option<&'a RawValue>,
}

impl<'a> Written<'a> {
    fn read(json: &'a [u8]) -> Result<Self, Vec<Flaw>> {
        // Of a list serde would take the fields in their order.
        let is_object = json.trim_ascii_start().starts_with(b"{");
        // Fields that are passed over would not be looked at.
        let text = std::str::from_utf8(json)
            .map_err(|error| vec![Flaw::new("", format!("is not UTF-8 behind byte {}", error.valid_up_to()))])?;
        let rule = match serde_json::from_str(text) {
            Ok(written) if is_object => return Ok(written),
            Err(error) if error.classify() != serde_json::error::Category::Data => format!("is not JSON: {error}"),
            // Its words repeat what was there in place of an object, however long that is.
            _ => "must be an object with each field once".to_owned(),
        };
        Err(vec![Flaw::new("", rule)])
    }

    fn wish(&self, flaws: &mut Vec<Flaw>) -> Option<Wish<'a>> {
        let mut note = |flaw: Flaw| flaws.push(flaw);
        let customer_id = id("customer_id", self.customer_id).map_err(&mut note).ok();
        let product_id = id("product_id", self.product_id).map_err(&mut note).ok();
        let quantity = quantity(self.quantity).map_err(&mut note).ok();
        let amount = Amount::read(self.amount).map_err(&mut note).ok();
        Some(Wish { customer_id: customer_id?, product_id: product_id?, quantity: quantity?, amount: amount? })
    }
}

impl<'a> Wish<'a> {
    /// Or everything that is wrong with it.
    pub fn read(json: &'a [u8]) -> Result<Self, Vec<Flaw>> {
        let mut flaws = Vec::new();
        Written::read(json)?.wish(&mut flaws).ok_or(flaws)
    }
}

impl<'a> Order<'a> {
    /// From the payload of a record; or everything that is wrong with it.
    pub fn read(json: &'a [u8]) -> Result<Self, Vec<Flaw>> {
        let written = Written::read(json)?;
        let mut flaws = Vec::new();
        let order_id = order_id(written.order_id).map_err(|flaw| flaws.push(flaw)).ok();
        let wish = written.wish(&mut flaws);
        match (order_id, wish) {
            (Some(order_id), Some(wish)) => Ok(Order { order_id, wish }),
            _ => Err(flaws),
        }
    }

    /// Appends the payload of its record.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Wish { customer_id, product_id, quantity, amount } = &self.wish;
        out.extend_from_slice(b"{\"order_id\":\"");
        out.extend_from_slice(self.order_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
        out.extend_from_slice(b"\",\"customer_id\":");
        text(out, customer_id);
        out.extend_from_slice(b",\"product_id\":");
        text(out, product_id);
        out.extend_from_slice(format!(",\"quantity\":{quantity},\"amount\":{amount}}}").as_bytes());
    }
}

/// Appends a JSON string.
pub(super) fn text(out: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(out, value).expect("a string is JSON, and a vector takes everything");
}

fn order_id(raw: Option<&RawValue>) -> Result<Uuid, Flaw> {
    let text: Cow<'_, str> = string("order_id", raw)?;
    Uuid::try_parse(&text).map_err(|_| Flaw::of("order_id", &text, "a UUID is expected"))
}

fn id<'a>(field: &'static str, raw: Option<&'a RawValue>) -> Result<Cow<'a, str>, Flaw> {
    let text = string(field, raw)?;
    let chars = text.chars().count();
    if chars == 0 || chars > ID_CHARS_MAX {
        return Err(Flaw::new(field, format!("has {chars} characters; 1 to {ID_CHARS_MAX} are allowed")));
    }
    if text.trim().len() != text.len() || text.chars().any(char::is_control) {
        let rule = "it may neither begin nor end with a space, nor hold control characters";
        return Err(Flaw::of(field, &text, rule));
    }
    Ok(text)
}

/// The text of a JSON string, borrowed where nothing in it is escaped.
fn string<'a>(field: &'static str, raw: Option<&'a RawValue>) -> Result<Cow<'a, str>, Flaw> {
    let json = raw.ok_or_else(|| Flaw::new(field, "is missing"))?.get();
    let plain = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|text| !text.contains('\\'));
    match plain {
        Some(text) => Ok(Cow::Borrowed(text)),
        None => serde_json::from_str(json).map(Cow::Owned).map_err(|_| Flaw::of(field, json, "a string is expected")),
    }
}

fn quantity(raw: Option<&RawValue>) -> Result<i32, Flaw> {
    let json = raw.ok_or_else(|| Flaw::new("quantity", "is missing"))?.get();
    let number = json.parse().ok().filter(|number| (1..=QUANTITY_MAX).contains(number));
    let rule = || format!("a whole number from 1 to {QUANTITY_MAX} is expected");
    number.ok_or_else(|| Flaw::of("quantity", json, rule()))
}

/// A value in a message: short, and without control characters.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let plain: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).take(CHARS_MAX).collect();
    if text.chars().nth(CHARS_MAX).is_some() { format!("{plain}…") } else { plain }
}

impl Amount {
    /// As much as a `numeric(14, 2)` holds.
    pub const MAX: Amount = Amount { cents: 99_999_999_999_999 };

    /// None above `MAX`, and below nothing.
    pub fn from_cents(cents: i64) -> Option<Amount> {
        (0..=Amount::MAX.cents).contains(&cents).then_some(Amount { cents })
    }

    /// A JSON number, or a string that holds one: both are common for money.
    pub fn read(raw: Option<&RawValue>) -> Result<Amount, Flaw> {
        let json = raw.ok_or_else(|| Flaw::new("amount", "is missing"))?.get();
        let digits = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(json);
        Amount::parse(digits).ok_or_else(|| {
            let rule = format!("0 to {} with at most two places is expected", Amount::MAX);
            Flaw::of("amount", json, rule)
        })
    }

    /// Plain digits with at most two places that are not zero. No sign and no exponent: nobody writes money so.
    fn parse(text: &str) -> Option<Amount> {
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(places) {
            return None;
        }
        let places = places.trim_end_matches('0');
        let hundredths = match places.len() {
            0 => 0,
            1 => places.parse::<i64>().ok()? * 10,
            2 => places.parse().ok()?,
            _ => return None,
        };
        Amount::from_cents(whole.parse::<i64>().ok()?.checked_mul(100)?.checked_add(hundredths)?)
    }

    /// As PostgreSQL's `numeric` is sent in binary, and how many of the bytes count: a number of digits, the weight of
    /// the first, a sign, a scale, then the digits, which are groups of four decimal ones around the point.
    pub fn numeric(self) -> ([u8; 16], usize) {
        let mut whole = self.cents / 100;
        let mut groups = [0i16; 4];
        let mut first = groups.len() - 1;
        groups[first] = (self.cents % 100) as i16 * 100;
        while whole > 0 {
            first -= 1;
            groups[first] = (whole % 10_000) as i16;
            whole /= 10_000;
        }
        let last = groups.iter().rposition(|group| *group != 0).map_or(first, |last| last + 1);
        let digits = groups.get(first..last).unwrap_or(&[]);
        let (positive, scale) = (0, 2);
        let mut bytes = [0; 16];
        let words = [digits.len() as i16, 2 - first as i16, positive, scale];
        for (place, word) in bytes.chunks_exact_mut(2).zip(words.iter().chain(digits)) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        (bytes, 8 + 2 * digits.len())
    }

    /// What `numeric` made.
    pub fn of_numeric(bytes: &[u8]) -> Option<Amount> {
        let mut words = bytes.chunks_exact(2).map(|word| i16::from_be_bytes([word[0], word[1]]));
        let (_, weight) = (words.next()?, words.next()?);
        let mut cents = 0i64;
        for (index, digits) in words.skip(2).enumerate() {
            cents += match i32::from(weight) - index as i32 {
                -1 => i64::from(digits / 100),
                place @ 0..=2 => i64::from(digits) * 10_000i64.pow(place as u32) * 100,
                _ => return None,
            };
        }
        Amount::from_cents(cents)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.cents / 100, self.cents % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaws(json: &str) -> Vec<String> {
        Wish::read(json.as_bytes()).map_or_else(|flaws| flaws.iter().map(Flaw::to_string).collect(), |_| Vec::new())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let wish = Wish::read(
            br#"{"customer_id":"CUST\u00e9 \"1\"","product_id":"PROD001","quantity":5,"amount":6499.95,"note":{}}"#,
        )
        .unwrap();
        assert_eq!((&*wish.customer_id, wish.quantity, wish.amount.cents), ("CUST\u{e9} \"1\"", 5, 649_995));
        let order = Order { order_id: Uuid::from_u128(7), wish };
        let mut json = Vec::new();
        order.write(&mut json);
        assert_eq!(Order::read(&json).unwrap(), order);
        assert!(String::from_utf8(json).unwrap().ends_with("\"quantity\":5,\"amount\":6499.95}"));
    }

    #[test]
    fn every_flaw_is_told_at_once_with_its_value_and_rule() {
        assert_eq!(
            flaws(r#"{"customer_id":"","product_id":7,"quantity":0,"amount":-1}"#),
            [
                "customer_id has 0 characters; 1 to 64 are allowed",
                "product_id is 7; a string is expected",
                "quantity is 0; a whole number from 1 to 1000000 is expected",
                "amount is -1; 0 to 999999999999.99 with at most two places is expected",
            ]
        );
        let flaws_of = r#"{"customer_id":" a","product_id":7,"quantity":"b","amount":"c","order_id":"d"}"#;
        let discreet: Vec<String> = Order::read(flaws_of.as_bytes()).unwrap_err().iter().map(Flaw::discreet).collect();
        let expected = [
            "order_id: a UUID is expected",
            "customer_id: it may neither begin nor end with a space, nor hold control characters",
            "product_id: a string is expected",
            "quantity: a whole number from 1 to 1000000 is expected",
            "amount: 0 to 999999999999.99 with at most two places is expected",
        ];
        assert_eq!(discreet, expected, "nothing of the record is in what others are told");
        assert_eq!(flaws("{}").len(), 4);
        for (json, begin) in [
            ("[]", "must be an object"),
            (r#"["018f3f2e-7a2b-7c3d-8e4f-5a6b7c8d9e0f", "a", "b", 1, 1]"#, "must be an object"),
            ("", "is not JSON"),
            ("{\"quantity\":1,\"quantity\":2}", "must be an object with each field once"),
            ("{\"quantity\":1", "is not JSON"),
        ] {
            assert!(flaws(json)[0].starts_with(begin), "{json} {:?}", flaws(json));
        }
        let long = flaws(&format!("\"{}\"", "x".repeat(1000)));
        assert!(long[0].len() < 100, "{long:?}");
        assert!(Order::read(b"{\"order_id\":\"x\"}").unwrap_err()[0].to_string().contains("is x; a UUID is expected"));
    }

    #[test]
    fn nothing_that_is_not_exactly_money_passes() {
        for (text, cents) in
            [("0", 0), ("12", 1200), ("12.3", 1230), ("12.340", 1234), ("999999999999.99", 99_999_999_999_999)]
        {
            assert_eq!(Amount::parse(text).map(|amount| amount.cents), Some(cents), "{text}");
        }
        for text in
            ["", ".", "1.", ".5", "1.005", "-1", "+1", "1e2", "1000000000000", "99999999999999999999", "NaN", " 1"]
        {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
        for cents in [0, 1, 10, 100, 12_345, 1_000_000, 1_000_001, 100_000_000, 99_999_999_999_999] {
            let (bytes, len) = Amount { cents }.numeric();
            assert_eq!(Amount::of_numeric(&bytes[..len]), Some(Amount { cents }));
        }
        let amount =
            |json: &str| flaws(&format!(r#"{{"customer_id":"a","product_id":"b","quantity":1,"amount":{json}}}"#));
        assert!(amount("\"12.30\"").is_empty() && amount("12.30").is_empty());
        assert_eq!(amount("true").len(), 1);
    }

    #[test]
    fn ids_are_names_and_quantities_whole() {
        let one = |field: &str, json: &str| {
            let fields = [("customer_id", "\"a\""), ("product_id", "\"b\""), ("quantity", "1"), ("amount", "1")];
            let written =
                fields.map(|(name, value)| format!("\"{name}\":{}", if name == field { json } else { value }));
            flaws(&format!("{{{}}}", written.join(","))).len()
        };
        let (longest, longer) = (format!("\"{}\"", "é".repeat(64)), format!("\"{}\"", "é".repeat(65)));
        for (json, flaws) in
            [(&*longest, 0), (&*longer, 1), ("\" a\"", 1), ("\"a\\u0000b\"", 1), ("null", 1), ("\"a b\"", 0)]
        {
            assert_eq!((one("customer_id", json), one("product_id", json)), (flaws, flaws), "{json}");
        }
        for (json, flaws) in [("1000000", 0), ("1000001", 1), ("1.0", 1), ("1e1", 1), ("\"1\"", 1), ("99999999999", 1)]
        {
            assert_eq!(one("quantity", json), flaws, "{json}");
        }
    }
}
