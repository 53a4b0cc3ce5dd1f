//! Source and target, row by row, where messages have no schema, or rows come without their envelope.

use crate::kinds::{self, Table};
use crate::modes::{self, Mode, Target};
use crate::replica::Replica;
use crate::rows;
use crate::support::connect::Connect;
use crate::support::{connect, loudly};

/// What is told by the values alone, or by a name. Everything else needs a schema, or a column that is there.
pub const TOLD: Table = Table {
    name: "told",
    columns: &[
        ("yes", "boolean", &["true", "false"]),
        ("small", "smallint", &["32767", "-32768"]),
        ("int", "integer", &["2147483647", "-2147483648"]),
        ("big", "bigint", &["9223372036854775807", "-9223372036854775808", "9007199254740993"]),
        ("number", "oid", &["4294967295", "0"]),
        ("single", "real", &["1.5", "-3.4028235e38", "1e-37"]),
        ("double", "double precision", &["0.1", "1.7976931348623157e308", "-5e-324", "7"]),
        ("price", "numeric(10,2)", &["12345678.90", "-0.01", "0", "1234.50"]),
        ("made_at", "timestamp", &["2024-02-29 12:34:56.789012", "1969-12-31 23:59:59.999999"]),
        ("moment", "timestamptz", &["2024-02-29 12:34:56.789012+00", "infinity"]),
        ("hour", "timetz", &["04:05:06.789012+02", "00:00:00+00"]),
        ("span", "interval", &["1 year 2 mons 3 days 04:05:06.789012", "-00:00:00.000001"]),
        ("plain", "text", &["plain", "", "\"quoted\" \\ back\n\tline \u{1} ünïcödé 😀 \u{fffd}", "NULL", "{}", "12"]),
        ("word_20", "varchar(20)", &["a word of twenty let", ""]),
        ("fixed", "char(5)", &["ab", "abcde"]),
        ("any_case", "citext", &["MiXed", "mixed"]),
        ("id_128", "uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
        ("doc", "json", &["{\"b\":  1.0, \"a\": [null, \"\\u00e4\"]}", "null", "12345678901234567890.10"]),
        ("docb", "jsonb", &["{\"b\": 1.00, \"a\": [null, \"ä\\n\"]}", "null", "[]"]),
        ("markup", "xml", &["<a b=\"c\">d &amp; e</a>", "<x/>"]),
        ("path", "ltree", &["Top.Science.Astronomy", "a"]),
        ("found", "tsvector", &["'a':1A 'fat':2B,4C 'cat':5"]),
        ("feeling", "mood", &["sad", "so so", "it's \"fine\""]),
        ("host", "inet", &["192.168.0.1", "10.1.2.3/8", "2001:db8::1/64"]),
        ("mac", "macaddr", &["08:00:2b:01:02:03"]),
        ("days", "daterange", &["[2024-01-01,2024-02-01)", "(,)"]),
        ("pairs", "hstore", &["a=>1, b=>NULL, \"q uote\"=>\"x\\\"y\\\\z\"", ""]),
        ("ints", "integer[]", &["{1,2,3}", "{}", "{NULL}"]),
        ("texts", "text[]", &["{a,\"b c\",\"\",NULL,\"q\\\"u\\\\o,te{}\"}", "{}"]),
        ("spot", "point", &["(1.5,-2.5)", "(0,0)"]),
    ],
};

/// Without a schema nobody knows what a domain is made of.
fn is_known(table: &Table) -> bool {
    table.name != "domains"
}

#[test]
fn rows_without_schemas_or_envelopes_are_in_the_target_as_they_are_in_the_source() {
    let worker = Connect::start("shapes");
    let mut source = connect(&worker.url);
    let mut tables: Vec<&Table> = kinds::ALL.iter().filter(|table| is_known(table)).collect();
    tables.push(&TOLD);
    rows::fill(&mut source, &tables);
    source
        .batch_execute(
            "CREATE TABLE large (id integer PRIMARY KEY, number integer, body text);
             ALTER TABLE large ALTER body SET STORAGE EXTERNAL;
             INSERT INTO large SELECT n, n, repeat('large ' || n, 500) FROM generate_series(1, 20) AS n",
        )
        .expect("a table");
    let modes: Vec<&Mode> = modes::ALL.iter().filter(|mode| !mode.is_usual()).collect();
    let mut replicas: Vec<Replica> = modes.iter().map(|mode| mode.prepare(Replica::new(&worker, "shapes"))).collect();
    for (mode, replica) in modes.iter().zip(&replicas) {
        let mut target = connect(&replica.url);
        for table in tables.iter().filter(|table| mode.target == Target::Tables && table.name != TOLD.name) {
            target.batch_execute(&table.create()).expect(table.name);
        }
    }
    let instances: Vec<_> = replicas.iter().map(Replica::start).collect();
    for (mode, replica) in modes.iter().zip(&replicas) {
        worker.put(&replica.prefix, &worker.configuration(&replica.prefix, "public\\..*", &mode.options()));
    }
    replicas.iter().for_each(|replica| worker.wait_streaming(&replica.prefix));
    rows::change(&mut source, &tables);
    source
        .batch_execute(
            "UPDATE large SET number = 0 WHERE id < 10; UPDATE large SET id = id + 100 WHERE id > 5; DELETE FROM large WHERE id = 1;
             UPDATE large SET body = 'small' WHERE id = 2; UPDATE large SET id = 1 WHERE id = 3",
        )
        .expect("changes");
    let mut found = Vec::new();
    for (mode, replica) in modes.iter().zip(&mut replicas) {
        replica.settle();
        for table in &tables {
            let differences = replica.differences(table.name, &mode.read(&[table]), &mode.lost(&[table]));
            found.extend(differences.into_iter().map(|line| format!("{}: {line}", mode.name)));
        }
        found.extend(replica.differences("large", &[], &[]).into_iter().map(|line| format!("{}: {line}", mode.name)));
        found.extend(replica.letters().into_iter().map(|letter| format!("{}: letter: {letter}", mode.name)));
    }
    if !found.is_empty() {
        loudly(&found.join("\n"));
    }
    assert!(found.is_empty(), "{} differences", found.len());
    drop(instances);

    // Of one value in one column another one, and it is seen.
    let (mode, replica) = (modes[0], &replicas[0]);
    connect(&replica.url).batch_execute("UPDATE told SET plain = plain || 'x' WHERE id = 1").expect("spoilt");
    assert_eq!(replica.differences(TOLD.name, &mode.read(&[&TOLD]), &mode.lost(&[&TOLD])).len(), 2);
}
