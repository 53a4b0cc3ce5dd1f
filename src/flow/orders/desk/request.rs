//! What a request says, or everything that is wrong with it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::flow::field::Flaw;
use crate::flow::orders::order::Wish;
use crate::ops::Answer;
use crate::ops::service::Call;

/// Orders in one list.
pub const BATCH_MAX: usize = 1000;
const RESTOCK_MAX: i64 = 1_000_000_000;

/// A flaw, and in a list whose it is.
struct Found {
    index: Option<usize>,
    flaw: Flaw,
}

pub fn order_id(call: &Call) -> Result<Uuid, Answer> {
    Uuid::try_parse(&call.param).map_err(|_| {
        let message = format!("{:?} is no UUID", call.param);
        Answer::error(400, "order_id_invalid", message, "give an order_id as it came when the order was accepted")
    })
}

pub fn wish(call: &Call) -> Result<Wish<'_>, Answer> {
    call.expect_json()?;
    Wish::read(&call.body).map_err(|flaws| {
        let found: Vec<Found> = flaws.into_iter().map(|flaw| Found { index: None, flaw }).collect();
        invalid("the order is not taken", &found)
    })
}

/// All of them, or what is wrong with each.
pub fn wishes(call: &Call) -> Result<Vec<Wish<'_>>, Answer> {
    call.expect_json()?;
    let whole = |rule: String| invalid("no order is taken", &[Found { index: None, flaw: Flaw::new("", rule) }]);
    let written: Vec<&RawValue> = serde_json::from_slice(&call.body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => whole("must be a list of orders".into()),
        _ => whole(format!("is not JSON: {error}")),
    })?;
    if !(1..=BATCH_MAX).contains(&written.len()) {
        return Err(whole(format!("has {} orders; 1 to {BATCH_MAX} are taken at once", written.len())));
    }
    let (mut wishes, mut found) = (Vec::with_capacity(written.len()), Vec::new());
    for (index, json) in written.iter().enumerate() {
        match Wish::read(json.get().as_bytes()) {
            Ok(wish) => wishes.push(wish),
            Err(flaws) => found.extend(flaws.into_iter().map(|flaw| Found { index: Some(index), flaw })),
        }
    }
    if found.is_empty() {
        return Ok(wishes);
    }
    let orders = written.len() - wishes.len();
    Err(invalid(&format!("{orders} of {} orders are not as they have to be; none is taken", written.len()), &found))
}

pub fn restock_quantity(call: &Call) -> Result<i64, Answer> {
    #[derive(Deserialize)]
    struct Restock<'a> {
        #[serde(borrow)]
        quantity: Option<&'a RawValue>,
    }
    call.expect_json()?;
    let restock: Option<Restock<'_>> = serde_json::from_slice(&call.body).ok();
    let written = restock.and_then(|restock| restock.quantity).map_or("", RawValue::get);
    written.parse().ok().filter(|quantity| (1..=RESTOCK_MAX).contains(quantity)).ok_or_else(|| {
        let rule = format!("must be a whole number from 1 to {RESTOCK_MAX}, in an object");
        invalid("nothing is added", &[Found { index: None, flaw: Flaw::new("quantity", rule) }])
    })
}

fn invalid(message: &str, found: &[Found]) -> Answer {
    #[derive(Serialize)]
    struct Line<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        index: Option<usize>,
        field: &'a str,
        rule: String,
    }
    #[derive(Serialize)]
    struct Lines<'a> {
        flaws: Vec<Line<'a>>,
    }
    let lines = found.iter().map(|Found { index, flaw }| Line { index: *index, field: flaw.field, rule: flaw.told() });
    let lines = Lines { flaws: lines.collect() };
    let cure = "put right what is listed under flaws, and send it again";
    Answer::error_with(400, "request_invalid", message, cure, &lines)
}
