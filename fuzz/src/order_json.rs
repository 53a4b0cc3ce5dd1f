//! An order as JSON: what is read and written is read again as the same, money is the decimal that was written, and
//! flaws are told in short lines whatever was sent.

use std::collections::HashMap;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use serde_json::value::RawValue;
use sluicegate::flow::field::{Amount, Flaw, ID_CHARS_MAX};
use sluicegate::flow::orders::order::{Order, QUANTITY_MAX, Wish};

use super::memory;

/// What a message about one field may be long, in bytes: a rule, and some characters of the value.
const FLAW_BYTES_MAX: usize = 400;

pub fn run(json: &[u8]) {
    let bytes_max = 8 * 1024 + 4 * json.len();
    let wish = memory::at_most(bytes_max, || Wish::read(json));
    let order = memory::at_most(bytes_max, || Order::read(json));
    for flaw in wish.as_ref().err().into_iter().chain(order.as_ref().err()).flatten() {
        is_short(flaw);
    }
    match (&wish, &order) {
        (Ok(wish), Ok(order)) => {
            assert_eq!(*wish, order.wish);
            is_read_again(order);
        }
        (Ok(_), Err(flaws)) => assert!(flaws.iter().all(|flaw| flaw.field == "order_id"), "{flaws:?}"),
        (Err(flaws), Err(more)) => assert!(flaws.iter().all(|flaw| more.contains(flaw)), "{flaws:?} {more:?}"),
        (Err(flaws), Ok(_)) => panic!("an order without its wish: {flaws:?}"),
    }
    // Seen once more, by serde_json alone. A field that is there twice is for the order to refuse.
    if let Ok(fields) = serde_json::from_slice::<HashMap<String, &RawValue>>(json) {
        let (flaws, read) = (wish.as_ref().err().map_or(&[][..], Vec::as_slice), wish.as_ref().ok());
        let raw = |field| fields.get(field).copied();
        told("amount", flaws, amount(raw("amount"), read));
        told("quantity", flaws, quantity(raw("quantity"), read));
        told("customer_id", flaws, id(raw("customer_id"), read.map(|wish| &*wish.customer_id)));
        told("product_id", flaws, id(raw("product_id"), read.map(|wish| &*wish.product_id)));
    } else {
        assert!(wish.is_err(), "serde_json reads no object");
    }
}

fn is_short(flaw: &Flaw) {
    let text = flaw.to_string();
    assert!(!text.is_empty() && text.len() <= FLAW_BYTES_MAX, "{} bytes: {text}", text.len());
    assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
}

fn is_read_again(order: &Order<'_>) {
    let mut written = Vec::new();
    order.write(&mut written);
    assert_eq!(Order::read(&written).as_ref(), Ok(order), "{}", String::from_utf8_lossy(&written));
    let mut again = Vec::new();
    Order::read(&written).expect("as before").write(&mut again);
    assert_eq!(written, again);
}

/// A flaw of the field is told where it has one, unless the whole is not looked at; and only there.
fn told(field: &str, flaws: &[Flaw], is_sound: bool) {
    let is_told = flaws.iter().any(|flaw| flaw.field == field);
    let is_whole = flaws.iter().any(|flaw| flaw.field.is_empty());
    assert!(is_whole || is_told != is_sound, "{field} is sound: {is_sound}, and told is {flaws:?}");
}

/// Whether it is an amount; and if the wish was read, that it is this one.
fn amount(raw: Option<&RawValue>, wish: Option<&Wish<'_>>) -> bool {
    let written = raw.map_or("", RawValue::get);
    let quoted = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let digits = quoted.unwrap_or(written);
    // No sign, and no exponent: it would be digits by the million.
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_bare = digits.is_empty() || digits.starts_with('.') || digits.ends_with('.');
    let decimal = (is_plain && !is_bare).then(|| BigDecimal::from_str(digits).ok()).flatten();
    let most = BigDecimal::from(99_999_999_999_999i64);
    let hundredths = decimal.map(|decimal| -> BigDecimal { decimal * 100 });
    let hundredths = hundredths.filter(|cents| cents.is_integer() && *cents <= most);
    if let Some(wish) = wish {
        let shown = BigDecimal::from_str(&wish.amount.to_string()).expect("a decimal") * 100;
        assert_eq!(Amount::of_numeric(&wish.amount.numeric().0[..wish.amount.numeric().1]), Some(wish.amount));
        assert_eq!((Some(&shown), Some(&(numeric(wish.amount) * 100))), (hundredths.as_ref(), hundredths.as_ref()));
    }
    hundredths.is_some()
}

/// PostgreSQL's binary `numeric`, read as it documents it. Trailing and leading groups of zeros are not canonical.
fn numeric(amount: Amount) -> BigDecimal {
    let (bytes, count) = amount.numeric();
    let bytes = &bytes[..count];
    let words: Vec<i16> = bytes.as_chunks::<2>().0.iter().map(|word| i16::from_be_bytes(*word)).collect();
    let [count, weight, sign, scale, digits @ ..] = &words[..] else { panic!("{bytes:?}") };
    assert!(bytes.len() % 2 == 0 && digits.len() == *count as usize && (*sign, *scale) == (0, 2), "{words:?}");
    assert!(digits.iter().all(|digit| (0..10_000).contains(digit)), "{words:?}");
    assert!(digits.first() != Some(&0) && digits.last() != Some(&0), "{words:?}");
    digits.iter().zip(0i64..).fold(BigDecimal::from(0), |sum, (digit, at)| {
        sum + BigDecimal::new((*digit).into(), 4 * (at - i64::from(*weight)))
    })
}

fn quantity(raw: Option<&RawValue>, wish: Option<&Wish<'_>>) -> bool {
    let number = raw.and_then(|raw| serde_json::from_str::<i32>(raw.get()).ok());
    let number = number.filter(|number| (1..=QUANTITY_MAX).contains(number));
    if let Some(wish) = wish {
        assert_eq!(Some(wish.quantity), number);
    }
    number.is_some()
}

fn id(raw: Option<&RawValue>, read: Option<&str>) -> bool {
    let text = raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    let text = text.filter(|text| {
        let chars = text.chars().count();
        (1..=ID_CHARS_MAX).contains(&chars) && text.trim() == text && !text.chars().any(char::is_control)
    });
    if read.is_some() {
        assert_eq!(read, text.as_deref());
    }
    text.is_some()
}
