//! Every type of the connector in every mode, and what each must not take.

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::BigInt;
use proptest::prelude::*;

use super::*;

fn kind(schema: &str) -> Kind {
    Field::read(&serde_json::from_str(schema).unwrap()).unwrap().kind
}

/// Of a plain type.
fn plain(name: &str) -> Kind {
    kind(&format!(r#"{{"field":"f","type":"{name}","optional":true}}"#))
}

/// Of a semantic type on a plain one.
fn semantic(plain: &str, name: &str) -> Kind {
    kind(&format!(r#"{{"field":"f","type":"{plain}","optional":true,"name":"{name}"}}"#))
}

fn with(plain: &str, name: &str, parameters: &str) -> Kind {
    kind(&format!(r#"{{"field":"f","type":"{plain}","name":"{name}","parameters":{{{parameters}}}}}"#))
}

fn said(kind: &Kind, json: &str, modes: &Modes) -> String {
    let mut out = b"before".to_vec();
    match kind.write(json, modes, &mut out) {
        Ok(Written::Value) => String::from_utf8(out.split_off(6)).unwrap(),
        other => {
            assert_eq!(out, b"before", "{json} of {kind:?} has written something");
            other.map_or_else(|cause| cause.code.into_owned(), |written| format!("{written:?}"))
        }
    }
}

fn text(kind: &Kind, json: &str) -> String {
    said(kind, json, &Modes::default())
}

fn texts(kind: &Kind, pairs: &[(&str, &str)]) {
    for (json, expected) in pairs {
        assert_eq!(text(kind, json), *expected, "{json} of {}", kind.sql_type());
    }
}

const VALUE: &str = "cdc.value";

#[test]
fn a_field_is_its_name_and_whether_it_may_be_null() {
    let schema = serde_json::json!({"field": "Täg \"x\"", "type": "int32", "optional": true});
    let field = Field::read(&schema).unwrap();
    assert_eq!((&*field.name, field.is_optional, field.kind.sql_type()), ("Täg \"x\"", true, "integer"));
    for odd in [r#"{"type":"int32"}"#, r#"{"field":"f"}"#, r#"{"field":"f","type":"int128"}"#, "3", "[]"] {
        assert_eq!(Field::read(&serde_json::from_str(odd).unwrap()).unwrap_err().code, "cdc.schema", "{odd}");
    }
    assert!(Field::read(&serde_json::json!({"field": "f", "type": "array"})).is_err());
}

#[test]
fn numbers_are_copied_and_kept_to_their_size() {
    texts(
        &plain("int16"),
        &[("-32768", "-32768"), ("32768", VALUE), ("1.0", VALUE), ("true", VALUE), ("null", "Null")],
    );
    texts(&plain("int32"), &[("2147483647", "2147483647"), ("2147483648", VALUE), ("\"7\"", VALUE)]);
    texts(&plain("int64"), &[("-9223372036854775808", "-9223372036854775808"), ("9223372036854775808", VALUE)]);
    texts(
        &plain("float"),
        &[("1.0E10", "1.0E10"), ("\"NaN\"", "NaN"), ("1e39", VALUE), ("1e-60", VALUE), ("0e-99", "0e-99")],
    );
    let double = plain("double");
    texts(&double, &[("\"-Infinity\"", "-Infinity"), ("4.9E-324", "4.9E-324"), ("1e309", VALUE), ("\"nan\"", VALUE)]);
    texts(&plain("boolean"), &[("true", "true"), ("false", "false"), ("1", VALUE)]);
    let types = ["boolean", "int8", "int16", "int32", "int64", "float", "double", "string", "bytes"].map(plain);
    let columns = ["boolean", "smallint", "smallint", "integer", "bigint", "real", "double precision", "text", "bytea"];
    assert_eq!(types.each_ref().map(Kind::sql_type), columns);
}

#[test]
fn texts_lose_their_quotes_and_escapes_and_nothing_else() {
    let text = plain("string");
    texts(&text, &[(r#""""#, ""), (r#""äö 'x'""#, "äö 'x'"), (r#""a\n\t\"\\\/\b\f\r""#, "a\n\t\"\\/\u{8}\u{c}\r")]);
    texts(&text, &[(r#""\u00e4\ud83d\ude00""#, "ä😀"), (r#""a\u0000b""#, "cdc.nul"), (r#""\ud83d""#, VALUE)]);
    texts(
        &text,
        &[(r#""\ude00""#, VALUE), (r#""\ud83dx""#, VALUE), (r#""__debezium_unavailable_value""#, "Unchanged")],
    );
    let mut out = Vec::new();
    let cause = text.write(r#""secret\u0000""#, &Modes::default(), &mut out).unwrap_err();
    assert!(!cause.to_string().contains("secret"), "{cause}");
}

#[test]
fn bytes_come_in_four_ways() {
    let bytes = plain("bytes");
    texts(
        &bytes,
        &[("\"AQL/\"", "\\x0102ff"), ("\"\"", "\\x"), ("\"AQ==\"", "\\x01"), ("\"A\"", VALUE), ("\"%%%%\"", VALUE)],
    );
    texts(&bytes, &[("\"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==\"", "Unchanged"), ("\"AQ=A\"", VALUE)]);
    let coded = plain("string").fitted("bytea");
    let mode = |binary| Modes { binary, ..Modes::default() };
    assert_eq!(said(&coded, "\"0102fF\"", &mode(Binary::Hex)), "\\x0102fF");
    assert_eq!(said(&coded, "\"010\"", &mode(Binary::Hex)), VALUE);
    assert_eq!(said(&coded, "\"-_8=\"", &mode(Binary::Base64Url)), "\\xfbff");
    assert_eq!(said(&coded, "\"+/8=\"", &mode(Binary::Base64)), "\\xfbff");
    // Types that the connector does not know are the bytes of their text.
    assert_eq!(text(&bytes.fitted("polygon"), "\"KCgxLDIpKQ==\""), "((1,2))");
    assert_eq!(text(&bytes.fitted("polygon"), "\"/w==\""), VALUE);
}

#[test]
fn decimals_are_unscaled_bytes_with_a_scale() {
    let name = "org.apache.kafka.connect.data.Decimal";
    let decimal = with("bytes", name, r#""scale":"2","connect.decimal.precision":"10""#);
    assert_eq!(decimal.sql_type(), "numeric(10,2)");
    texts(
        &decimal,
        &[("\"AeI6\"", "1234.50"), ("\"/w==\"", "-0.01"), ("\"AA==\"", "0.00"), ("\"\"", VALUE), ("1.5", "1.5")],
    );
    let wide = with("bytes", name, r#""scale":"-3""#);
    assert_eq!(wide.sql_type(), "numeric");
    texts(&wide, &[("\"Bw==\"", "7000"), ("\"AA==\"", "0")]);
    assert_eq!(text(&with("bytes", name, r#""scale":"999999""#), "\"Bw==\""), VALUE);
    let variable = semantic("struct", "io.debezium.data.VariableScaleDecimal");
    texts(&variable, &[(r#"{"scale":3,"value":"Bw=="}"#, "0.007"), (r#"{"value":"Bw=="}"#, VALUE), ("[]", VALUE)]);
    texts(
        &plain("double").fitted("money"),
        &[("1.25E3", "1250"), ("-1.5e-2", "-0.015"), ("7", "7"), ("1e99999999", VALUE)],
    );
    texts(
        &plain("string").fitted("numeric(10,2)"),
        &[
            ("\"12.50\"", "12.50"),
            ("\"NAN\"", "NaN"),
            ("\"POSITIVE_INFINITY\"", "Infinity"),
            ("\"-1.2300\"", "-1.2300"),
            ("\"1.234\"", VALUE),
            ("\"-0.000\"", "-0.000"),
            ("\"125e-2\"", "125e-2"),
            ("\"1250E-3\"", "1250E-3"),
            ("\"125e-3\"", VALUE),
            ("\"1.234e1\"", "1.234e1"),
            ("\"a word\"", "a word"),
        ],
    );
}

#[test]
fn times_are_counts_since_1970_in_the_unit_of_their_type() {
    let date = semantic("int32", "io.debezium.time.Date");
    texts(
        &date,
        &[
            ("0", "1970-01-01"),
            ("-1", "1969-12-31"),
            ("19782", "2024-02-29"),
            ("-719528", "0001-01-01 BC"),
            ("-719529", "0002-12-31 BC"),
        ],
    );
    texts(
        &date,
        &[("-2440588", "4714-11-24 BC"), ("-2440589", VALUE), ("2145042905", "5874897-12-31"), ("2145042906", VALUE)],
    );
    texts(
        &date,
        &[("-2147472692", "infinity"), ("-622191234", "infinity"), ("-2147472691", "-infinity"), ("1.5", VALUE)],
    );
    for (name, unit) in [("Timestamp", "1"), ("MicroTimestamp", "1000"), ("NanoTimestamp", "1000000")] {
        let kind = semantic("int64", &format!("io.debezium.time.{name}"));
        assert_eq!(text(&kind, unit), "1970-01-01 00:00:00.001000", "{name}");
        assert_eq!(text(&kind, &format!("-{unit}")), "1969-12-31 23:59:59.999000", "{name}");
        assert_eq!(text(&kind.fitted("timestamp(3) with time zone"), unit), "1970-01-01 00:00:00.001000+00", "{name}");
    }
    let micro = semantic("int64", "io.debezium.time.MicroTimestamp");
    texts(
        &micro,
        &[("1709210096789012", "2024-02-29 12:34:56.789012"), ("-63517780799999999", "0044-03-15 12:00:00.000001 BC")],
    );
    texts(
        &micro,
        &[
            ("9223372036825200000", "infinity"),
            ("-9223372036832400000", "-infinity"),
            ("327416976550111213", "12345-06-07 08:09:10.111213"),
        ],
    );
    // Where 64 bits end the connector sends their end, or what comes after it.
    texts(&micro, &[("9223372036854775807", VALUE), ("-9223372036853775810", VALUE), ("-210866803200000001", VALUE)]);
    let milli = semantic("int64", "org.apache.kafka.connect.data.Timestamp");
    texts(
        &milli,
        &[
            ("9223372036825200", "infinity"),
            ("9224318015999999", "294276-12-31 23:59:59.999000"),
            ("9224318016000000", VALUE),
        ],
    );
    texts(
        &semantic("int64", "io.debezium.time.NanoTimestamp"),
        &[("-29575808000", "infinity"), ("1999", "1970-01-01 00:00:00.000001")],
    );
    texts(
        &semantic("int32", "io.debezium.time.Time"),
        &[("45296789", "12:34:56.789000"), ("86400000", "24:00:00"), ("86400001", VALUE)],
    );
    texts(&semantic("int64", "io.debezium.time.MicroTime"), &[("1", "00:00:00.000001"), ("-1", VALUE)]);
    texts(&semantic("int64", "io.debezium.time.NanoTime"), &[("86399999999999", "23:59:59.999999")]);
}

#[test]
fn texts_of_iso_8601_are_given_the_era_that_postgresql_reads() {
    let moment = semantic("string", "io.debezium.time.ZonedTimestamp");
    texts(
        &moment,
        &[
            ("\"2024-02-29T12:34:56.789Z\"", "2024-02-29T12:34:56.789Z"),
            ("\"infinity\"", "infinity"),
            ("\"-infinity\"", "-infinity"),
        ],
    );
    texts(
        &moment,
        &[
            ("\"-0043-03-15T12:00:00Z\"", "0044-03-15 12:00:00+00 BC"),
            ("\"0000-12-30T00:00:00Z\"", "0001-12-30 00:00:00+00 BC"),
        ],
    );
    texts(&moment, &[("\"+12345-06-07T08:09:10Z\"", "12345-06-07T08:09:10Z"), ("7", VALUE), ("\"-9x-1\"", VALUE)]);
    let date = semantic("string", "io.debezium.time.IsoDate");
    texts(
        &date,
        &[
            ("\"2024-02-29Z\"", "2024-02-29"),
            ("\"-0043-03-15Z\"", "0044-03-15 BC"),
            ("\"-5877611-06-21Z\"", "infinity"),
        ],
    );
    texts(&semantic("string", "io.debezium.time.IsoTime"), &[("\"12:34:56.789Z\"", "12:34:56.789")]);
    texts(&semantic("string", "io.debezium.time.IsoTimestamp"), &[("\"2024-02-29T12:34:56Z\"", "2024-02-29T12:34:56")]);
    texts(&semantic("string", "io.debezium.time.ZonedTime"), &[("\"12:34:56Z\"", "12:34:56Z")]);
}

#[test]
fn intervals_are_hours_or_what_the_text_says() {
    let micro = semantic("int64", "io.debezium.time.MicroDuration");
    texts(&micro, &[("273906780000", "76:05:06.780000"), ("-1", "-00:00:00.000001"), ("0", "00:00:00")]);
    texts(&micro, &[("-9223372036854775807", "-2562047788:00:54.775807"), ("-9223372036854775808", VALUE)]);
    texts(&semantic("string", "io.debezium.time.Interval"), &[("\"P1Y2M3DT4H5M6.7S\"", "P1Y2M3DT4H5M6.7S")]);
}

#[test]
fn bits_come_the_least_first() {
    let ten = with("bytes", "io.debezium.data.Bits", r#""length":"10""#);
    assert_eq!(ten.sql_type(), "bit(10)");
    texts(&ten, &[("\"AQI=\"", "1000000001"), ("\"\"", "0000000000"), ("\"AQQ=\"", VALUE)]);
    let any = with("bytes", "io.debezium.data.Bits", r#""length":"2147483647""#);
    assert_eq!(any.sql_type(), "bit varying");
    texts(&any, &[("\"BQ==\"", "101"), ("\"\"", "")]);
    texts(&plain("boolean").fitted("bit(1)"), &[("true", "1"), ("false", "0")]);
}

#[test]
fn json_is_taken_out_of_its_text() {
    let json = semantic("string", "io.debezium.data.Json");
    texts(
        &json,
        &[
            (r#""{\"a\":[1]}""#, r#"{"a":[1]}"#),
            (r#""{\"a\":\"\\u0000\"}""#, "cdc.nul"),
            (r#""{\"a\":\"\\\\u0000\"}""#, r#"{"a":"\\u0000"}"#),
        ],
    );
    texts(&json.fitted("json"), &[(r#""{\"a\":\"\\u0000\"}""#, r#"{"a":"\u0000"}"#)]);
    let map = kind(r#"{"field":"f","type":"map","keys":{"type":"string"},"values":{"type":"string"}}"#);
    texts(&map, &[(r#"{"a":null}"#, r#"{"a":null}"#)]);
    let hstore = r#"{"a \"b\"":"c\\d","e":null}"#;
    texts(&map.fitted("hstore"), &[(hstore, r#""a \"b\""=>"c\\d", "e"=>NULL"#), ("{}", "")]);
    texts(
        &json.fitted("public.hstore"),
        &[
            (r#""{\"a\":\"1\"}""#, r#""a"=>"1""#),
            (r#""{\"__debezium_unavailable_value\":\"__debezium_unavailable_value\"}""#, "Unchanged"),
        ],
    );
    // Where the server has no such type it is JSON, which may come in a text.
    let named = with("string", "io.debezium.data.Json", r#""__debezium.source.column.type":"HSTORE""#);
    assert_eq!(named.sql_type(), "hstore");
    let plain = named.without_extension();
    texts(&plain, &[(r#""{\"a\":\"1\"}""#, r#"{"a":"1"}"#), (r#"{"a":"1"}"#, r#"{"a":"1"}"#)]);
}

#[test]
fn shapes_are_coordinates_or_hexadecimal() {
    let point = semantic("struct", "io.debezium.data.geometry.Point");
    texts(&point, &[(r#"{"x":1.0,"y":-2.5E-3,"wkb":"AQ==","srid":null}"#, "(1.0,-2.5E-3)"), (r#"{"x":1}"#, VALUE)]);
    let shape = semantic("struct", "io.debezium.data.geometry.Geometry");
    let wkb = "AQEAAAAAAAAAAADwPwAAAAAAAABA";
    let with_srid = format!(r#"{{"wkb":"{wkb}","srid":4326}}"#);
    assert_eq!((shape.sql_type(), shape.extension()), ("geometry", Some("postgis")));
    assert_eq!(text(&shape, &with_srid), "0101000020e6100000000000000000f03f0000000000000040");
    assert_eq!(
        text(&shape, &format!(r#"{{"wkb":"{wkb}","srid":null}}"#)),
        "0101000000000000000000f03f0000000000000040"
    );
    assert_eq!(text(&shape, r#"{"wkb":"AQ==","srid":1}"#), VALUE);
    let bytes = shape.without_extension();
    assert_eq!((bytes.sql_type(), &text(&bytes, &with_srid)[..6]), ("bytea", "\\x0101"));
    texts(
        &semantic("struct", "io.debezium.data.geometry.Circle"),
        &[(r#"{"center":{"x":1,"y":2},"radius":3}"#, "<(1,2),3>")],
    );
    texts(&semantic("struct", "io.debezium.data.geometry.Line"), &[(r#"{"a":1,"b":2,"c":3}"#, "{1,2,3}")]);
    let sparse = semantic("struct", "io.debezium.data.SparseVector");
    texts(
        &sparse,
        &[
            (r#"{"dimensions":9,"vector":[[7,2.5],[1,1.0]]}"#, "{1:1.0,7:2.5}/9"),
            (r#"{"dimensions":9,"vector":{"7":2.5}}"#, "{7:2.5}/9"),
        ],
    );
    let vector =
        kind(r#"{"field":"f","type":"array","items":{"type":"double"},"name":"io.debezium.data.DoubleVector"}"#);
    texts(&vector, &[("[1.5,2]", "[1.5,2]"), ("[null]", VALUE)]);
    assert_eq!(vector.without_extension().sql_type(), "double precision[]");
    texts(&vector.without_extension(), &[("[1.5,null]", "{1.5,NULL}")]);
}

fn list(element: &str) -> Kind {
    kind(&format!(r#"{{"field":"f","type":"array","items":{element}}}"#))
}

#[test]
fn lists_are_quoted_where_they_must() {
    let texts_kind = list(r#"{"type":"string","optional":true}"#);
    assert_eq!(texts_kind.sql_type(), "text[]");
    texts(
        &texts_kind,
        &[("[]", "{}"), (r#"["a",null,"","NULL","q\"u\\o,{}"]"#, r#"{"a",NULL,"","NULL","q\"u\\o,{}"}"#)],
    );
    texts(
        &texts_kind,
        &[(r#"["__debezium_unavailable_value"]"#, "Unchanged"), (r#"["a\u0000"]"#, "cdc.nul"), ("{}", VALUE)],
    );
    let ints = list(r#"{"type":"int32"}"#);
    texts(
        &ints,
        &[
            ("[1,null,-3]", "{1,NULL,-3}"),
            ("[[1,2],[3,4]]", "{{1,2},{3,4}}"),
            ("[1.5]", VALUE),
            ("[[[[[[[1]]]]]]]", VALUE),
        ],
    );
    texts(
        &ints,
        &[(
            "[95,95,100,101,98,101,122,105,117,109,95,117,110,97,118,97,105,108,97,98,108,101,95,118,97,108,117,101]",
            "Unchanged",
        )],
    );
    texts(&list(r#"{"type":"bytes"}"#), &[("[\"AQI=\",null]", r#"{"\\x0102",NULL}"#)]);
    texts(&list(r#"{"type":"string","name":"io.debezium.data.Json"}"#), &[(r#"["{\"a\":1}"]"#, r#"{"{\"a\":1}"}"#)]);
    let stamps = list(r#"{"type":"int64","name":"io.debezium.time.MicroTimestamp"}"#);
    assert_eq!(stamps.sql_type(), "timestamp without time zone[]");
    texts(&stamps, &[("[0,9223372036825200000]", r#"{"1970-01-01 00:00:00","infinity"}"#)]);
    let nested = list(r#"{"type":"array","items":{"type":"int32"}}"#);
    assert_eq!(nested.sql_type(), "integer[]");
    texts(&nested, &[("[[1],[2]]", "{{1},{2}}")]);
    texts(&list(r#"{"type":"map","values":{"type":"string"}}"#), &[(r#"[{"a":"b"}]"#, r#"{"{\"a\":\"b\"}"}"#)]);
}

#[test]
fn no_text_is_cut_by_a_type_that_would_do_so_in_silence() {
    let (long, short) = (format!("\"{}\"", "x".repeat(64)), format!("\"{}\"", "x".repeat(63)));
    for kind in [plain("string"), Kind::guess("f", "\"x\"", None).unwrap()] {
        texts(&kind.fitted("name"), &[(&long, VALUE), (&short, &"x".repeat(63)), ("\"\"", "")]);
        texts(&kind.fitted("\"char\""), &[("\"ab\"", VALUE), ("\"a\"", "a")]);
    }
}

#[test]
fn a_list_does_not_unfold_beyond_all_measure() {
    let items =
        serde_json::json!({"type": "bytes", "name": "io.debezium.data.Bits", "parameters": {"length": "8388608"}});
    let bits = kind(&serde_json::json!({"field": "f", "type": "array", "items": items}).to_string());
    let of = |count: usize| format!("[{}]", vec!["\"AA==\""; count].join(","));
    assert_eq!(text(&bits, &of(2)).len(), 2 * (8 << 20) + 3);
    let mut out = Vec::new();
    assert_eq!(bits.write(&of(1_000), &Modes::default(), &mut out).unwrap_err().code, VALUE);
    assert!(out.capacity() < 256 << 20, "{}", out.capacity());
    let items = serde_json::json!({"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "-131000"}});
    let decimals = kind(&serde_json::json!({"field": "f", "type": "array", "items": items}).to_string());
    let many = format!("[{}]", vec!["\"AQ==\""; 2_000].join(","));
    assert_eq!(decimals.write(&many, &Modes::default(), &mut Vec::new()).unwrap_err().code, VALUE);
}

#[test]
fn a_propagated_type_makes_the_column_of_the_source() {
    let source = |plain: &str, name: &str, more: &str| {
        let parameters = format!(r#""__debezium.source.column.type":"{name}"{more}"#);
        kind(&format!(r#"{{"field":"f","type":"{plain}","parameters":{{{parameters}}}}}"#)).sql_type().to_owned()
    };
    assert_eq!(source("string", "INET", ""), "inet");
    assert_eq!(source("string", "VARCHAR", r#","__debezium.source.column.length":"20""#), "character varying(20)");
    assert_eq!(source("string", "VARCHAR", r#","__debezium.source.column.length":"2147483647""#), "character varying");
    assert_eq!(source("string", "MOOD", ""), "text");
    assert_eq!(source("string", "x; DROP TABLE y", ""), "text");
    let numeric = r#","__debezium.source.column.length":"10","__debezium.source.column.scale":"2""#;
    assert_eq!(source("string", "NUMERIC", numeric), "numeric(10,2)");
    assert_eq!(source("double", "MONEY", ""), "money");
    let boolean = r#"{"field":"f","type":"boolean","parameters":{"__debezium.source.column.type":"BIT","__debezium.source.column.length":"1"}}"#;
    assert_eq!((kind(boolean).sql_type(), &*text(&kind(boolean), "true")), ("bit(1)", "1"));
    let list = r#"{"field":"f","type":"array","items":{"type":"string"},"parameters":{"__debezium.source.column.type":"_INET"}}"#;
    assert_eq!(kind(list).sql_type(), "inet[]");
}

#[test]
fn without_a_schema_the_first_value_the_name_and_the_column_say_what_it_is() {
    let guess = |name: &str, json: &str| Kind::guess(name, json, Some(&NameRules::default()));
    let column = |name: &str, json: &str| guess(name, json).map(|kind| kind.sql_type().to_owned());
    for (json, expected) in [
        ("true", "boolean"),
        ("7", "bigint"),
        ("1.5", "double precision"),
        ("\"a\"", "text"),
        ("[1]", "jsonb"),
        ("{}", "jsonb"),
    ] {
        assert_eq!(column("x", json).as_deref(), Some(expected));
    }
    assert_eq!(column("x", "99999999999999999999").as_deref(), Some("numeric"));
    assert_eq!(column("price", "null"), None);
    assert_eq!(text(&guess("price", "\"AeI6\"").unwrap(), "\"AeI6\""), "1234.50");
    assert_eq!(text(&guess("price", "\"12.5\"").unwrap(), "\"12.5\""), "12.5");
    let digits = Modes { decimals: Decimals::Digits, ..Modes::default() };
    assert_eq!(said(&guess("price", "\"1234\"").unwrap(), "\"1234\"", &digits), "1234");
    assert_eq!(text(&guess("total", "\"AeI6\"").unwrap().fitted("numeric(12,3)"), "\"AeI6\""), "123.450");
    assert_eq!(Kind::guess("price", "\"AeI6\"", None).unwrap().sql_type(), "text");
    // A word may be base64 as well, which a column of text tells.
    assert_eq!(text(&guess("price", "\"free\"").unwrap(), "\"free\""), "83045.42");
    for column in ["text", "character varying(20)"] {
        texts(&guess("price", "\"free\"").unwrap().fitted(column), &[("\"free\"", "free"), ("12.5", "12.5")]);
    }
    let at = guess("created_at", "1709210096789012").unwrap();
    texts(
        &at,
        &[("1709210096789012", "2024-02-29 12:34:56.789012"), ("\"2024-02-29T12:34:56Z\"", "2024-02-29T12:34:56")],
    );
    texts(&at.fitted("timestamp(3) without time zone"), &[("1", "1970-01-01 00:00:00.001000")]);
    texts(&at.fitted("bigint"), &[("17", "17")]);
    texts(
        &guess("__deleted", "\"true\"").unwrap(),
        &[("\"true\"", "true"), ("\"false\"", "false"), ("false", "false")],
    );
    let list = guess("x", "[1]").unwrap();
    texts(&list.fitted("text[]"), &[(r#"["a",null]"#, r#"{"a",NULL}"#)]);
    texts(&list.fitted("bytea[]"), &[(r#"["AQ=="]"#, r#"{"\\x01"}"#)]);
    texts(
        &guess("x", "{}").unwrap().fitted("jsonb"),
        &[(r#""{\"a\":1}""#, r#"{"a":1}"#), (r#""plain""#, r#""plain""#), ("7", "7")],
    );
    // What was seen first does not bind a column that holds more.
    texts(&guess("x", "1").unwrap().fitted("double precision"), &[("1.5", "1.5")]);
}

#[test]
fn columns_are_widened_where_nothing_can_be_lost() {
    use Widening::{Fits, No, Perhaps, To};
    let to = |name: &str| To(name.to_owned());
    let check = |kind: &Kind, have: &str, expected: Widening| assert_eq!(kind.widening(have), expected, "{have}");
    let [int, long, real, double, text, boolean] =
        ["int32", "int64", "float", "double", "string", "boolean"].map(plain);
    check(&int, "integer", Fits);
    check(&int, "bigint", Fits);
    check(&int, "smallint", to("integer"));
    check(&int, "numeric(12,4)", to("numeric(14,4)"));
    check(&int, "double precision", Fits);
    check(&int, "real", to("double precision"));
    check(&int, "text", Fits);
    check(&int, "uuid", No);
    check(&int, "boolean", No);
    check(&long, "double precision", No);
    check(&real, "double precision", Fits);
    check(&double, "real", to("double precision"));
    check(&double, "bigint", to("numeric"));
    check(&double, "numeric(10,2)", Perhaps("numeric".into()));
    check(&text, "character varying(20)", Perhaps("text".into()));
    check(&text, "inet", Fits);
    check(&text, "integer", No);
    check(&text, "integer[]", No);
    check(&boolean, "bit(1)", Fits);
    check(&boolean, "bigint", No);
    let wide = text.fitted("character varying(50)");
    check(&wide, "character varying(20)", to("character varying(50)"));
    check(&wide, "character varying(60)", Fits);
    check(&wide, "character(60)", Fits);
    let decimal =
        with("bytes", "org.apache.kafka.connect.data.Decimal", r#""scale":"2","connect.decimal.precision":"10""#);
    check(&decimal, "numeric(12,2)", Fits);
    check(&decimal, "numeric(9,4)", to("numeric(12,4)"));
    check(&decimal, "bigint", to("numeric(21,2)"));
    check(&decimal, "double precision", No);
    check(&semantic("struct", "io.debezium.data.VariableScaleDecimal"), "numeric(9,4)", to("numeric"));
    let of_scale = |scale: &str| with("bytes", "org.apache.kafka.connect.data.Decimal", scale);
    check(&of_scale(r#""scale":"2""#), "numeric(9,2)", Perhaps("numeric".into()));
    check(&of_scale(r#""scale":"3""#), "numeric(9,2)", to("numeric"));
    let micro = semantic("int64", "io.debezium.time.MicroTimestamp");
    check(&micro, "date", to("timestamp without time zone"));
    check(&micro, "timestamp(3) without time zone", Perhaps("timestamp without time zone".into()));
    check(&micro, "timestamp with time zone", Fits);
    check(&micro, "bigint", Fits);
    check(&micro, "time without time zone", No);
    check(&with("bytes", "io.debezium.data.Bits", r#""length":"10""#), "bit(8)", to("bit varying(10)"));
    check(&list(r#"{"type":"int64"}"#), "integer[]", to("bigint[]"));
    check(&list(r#"{"type":"int64"}"#), "bigint", No);
    check(&list(r#"{"type":"int64"}"#), "jsonb", Fits);
    check(&semantic("string", "io.debezium.data.Json"), "json", Fits);
    let guess = |json: &str| Kind::guess("x", json, None).unwrap();
    check(&guess("7"), "smallint", Fits);
    check(&guess("7"), "timestamp with time zone", Fits);
    check(&guess("1.5"), "bigint", to("numeric"));
    check(&guess("[]"), "text[]", Fits);
    check(&guess("\"a\""), "bigint", No);
}

/// Year, month and day by going from year to year: slow, and without the arithmetic of the other.
fn walked(mut day: i64) -> (i64, i64, i64) {
    let is_leap = |year: i64| year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    let length = |year: i64| 365 + i64::from(is_leap(year));
    let mut year = 1970;
    while day < 0 {
        year -= 1;
        day += length(year);
    }
    while day >= length(year) {
        day -= length(year);
        year += 1;
    }
    let months = [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= months[month] {
        day -= months[month];
        month += 1;
    }
    (year, month as i64 + 1, day + 1)
}

fn base64(bytes: &[u8]) -> String {
    format!("\"{}\"", super::text::to_base64(bytes))
}

proptest! {
    #[test]
    fn moments_are_those_of_a_calendar_that_is_walked(us in -210_866_803_200_000_000i64..400_000_000_000_000_000) {
        let (day, rest) = (us.div_euclid(86_400_000_000), us.rem_euclid(86_400_000_000));
        let (year, month, day) = walked(day);
        let (second, fraction) = (rest / 1_000_000, rest % 1_000_000);
        let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
        let point = if fraction > 0 { format!(".{fraction:06}") } else { String::new() };
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        let expected = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{point}{era}");
        let kind = semantic("int64", "io.debezium.time.MicroTimestamp");
        prop_assert_eq!(text(&kind, &us.to_string()), expected);
    }

    #[test]
    fn decimals_are_those_of_another_library(bytes in prop::collection::vec(any::<u8>(), 1..60), scale in -40i64..400) {
        let kind = with("bytes", "org.apache.kafka.connect.data.Decimal", &format!(r#""scale":"{scale}""#));
        let written: BigDecimal = text(&kind, &base64(&bytes)).parse().unwrap();
        prop_assert_eq!(written, BigDecimal::new(BigInt::from_signed_bytes_be(&bytes), scale));
    }

    #[test]
    fn small_decimals_show_all_their_digits(cents in any::<i64>()) {
        let kind = with("bytes", "org.apache.kafka.connect.data.Decimal", r#""scale":"2""#);
        let exact = BigDecimal::new(cents.into(), 2);
        prop_assert_eq!(text(&kind, &base64(&cents.to_be_bytes())), exact.to_plain_string());
    }

    #[test]
    fn any_text_comes_back_out_of_json_and_out_of_a_list(words in prop::collection::vec("[^\0]*", 0..4)) {
        let kind = plain("string");
        for word in &words {
            prop_assert_eq!(&text(&kind, &serde_json::to_string(word).unwrap()), word);
        }
        let written = text(&list(r#"{"type":"string"}"#), &serde_json::to_string(&words).unwrap());
        let quoted: Vec<String> =
            words.iter().map(|word| format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))).collect();
        prop_assert_eq!(written, format!("{{{}}}", quoted.join(",")));
    }

    #[test]
    fn any_bytes_come_back_out_of_base64(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        prop_assert_eq!(text(&plain("bytes"), &base64(&bytes)), format!("\\x{hex}"));
    }
}
