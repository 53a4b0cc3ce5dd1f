//! The engine between a topic and a table in memory: how a decoder is tested with neither Kafka nor PostgreSQL.
//! `cargo run --example in_memory`

use sluicegate::fault::Fault;
use sluicegate::memory::{self, Table, Topic};
use sluicegate::record::Record;

/// What is under test: a reading is `sensor=degrees`, keyed by anything.
fn reading(record: &Record<'_>) -> Result<(String, f64), Fault> {
    let flaw = |rule: &str| Fault::reject("readings.invalid", rule);
    let text = std::str::from_utf8(record.payload.unwrap_or_default()).map_err(|_| flaw("must be text"))?;
    let (sensor, degrees) = text.split_once('=').ok_or_else(|| flaw("must be sensor=degrees"))?;
    let degrees = degrees.parse().map_err(|_| flaw("degrees must be a number"))?;
    Ok((sensor.to_owned(), degrees))
}

fn main() {
    let topic = Topic::new("readings", 2);
    for number in 0..6 {
        topic.append(number % 2, None, format!("sensor-{number}={}.5", 20 + number).as_bytes());
    }
    topic.append(0, None, b"sensor-7=warm");

    let table = Table::new(reading);
    // Its server is away at first; nothing is lost by that, and nothing doubled.
    table.fail(3);
    memory::run(&topic, &table);

    for partition in 0..2 {
        for (sensor, degrees) in table.rows(partition) {
            println!("partition {partition}: {sensor} {degrees}");
        }
        for letter in table.letters(partition) {
            println!("partition {partition}: offset {} is set aside: {}", letter.offset, letter.reason);
        }
    }
}
