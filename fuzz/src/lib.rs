//! What is fuzzed: one function from bytes to nothing for each target, which panics when a promise is broken. The
//! binaries in `bin/` give them to libFuzzer, and `tests/corpus.rs` gives them what `corpus/` keeps, in every test run.
//!
//! A further target is a file here, its name in the list below, and a binary like the others.

mod fields;
mod memory;
mod rows;
mod said;

/// Declares the targets, and lists them by name.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(pub mod $name;)*
        pub const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::run)),*];
    };
}

targets! {
    avro_bytes,
    avro_differential,
    config_env,
    config_file,
    config_url,
    debezium,
    event_json,
    gate,
    json_schema,
    order_json,
    ticket_json,
}
