//! An order as JSON: what is read and written is read again as the same, money is the decimal that was written, and
//! flaws are told in short lines whatever was sent.

use std::sync::LazyLock;

use sluicegate::decode::schema::JsonSchema;
use sluicegate::flow::orders::order::{Order, QUANTITY_MAX, Wish};

use super::fields::{amount, id, is_short, object, told, whole};
use super::memory;

/// What we ship for whoever writes orders.
static SCHEMA: LazyLock<JsonSchema> =
    LazyLock::new(|| JsonSchema::new(include_str!("../../schema/order.schema.json")).expect("a schema"));

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
    if let Some(fields) = object(json) {
        let (flaws, read) = (wish.as_ref().err().map_or(&[][..], Vec::as_slice), wish.as_ref().ok());
        let raw = |field| fields.get(field).copied();
        told("amount", flaws, amount(raw("amount"), read.map(|wish| wish.amount)));
        told("quantity", flaws, whole(raw("quantity"), 1..=QUANTITY_MAX.into(), read.map(|wish| wish.quantity.into())));
        told("customer_id", flaws, id(raw("customer_id"), read.map(|wish| &*wish.customer_id)));
        told("product_id", flaws, id(raw("product_id"), read.map(|wish| &*wish.product_id)));
    } else {
        assert!(wish.is_err(), "serde_json reads no object");
    }
}

fn is_read_again(order: &Order<'_>) {
    let mut written = Vec::new();
    order.write(&mut written);
    assert_eq!(Order::read(&written).as_ref(), Ok(order), "{}", String::from_utf8_lossy(&written));
    let mut again = Vec::new();
    Order::read(&written).expect("as before").write(&mut again);
    assert_eq!(written, again);
    assert_eq!(SCHEMA.check(&written), Ok(()));
}
