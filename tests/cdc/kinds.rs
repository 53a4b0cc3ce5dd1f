//! A table for each family of types, with values that are hard to carry: ends of ranges, nothing, too much.

pub struct Table {
    pub name: &'static str,
    pub columns: &'static [Column],
}

/// Name, type, and values as PostgreSQL reads them. A list that ends starts again.
pub type Column = (&'static str, &'static str, &'static [&'static str]);

pub const SETUP: &str = "
    CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;
    CREATE TYPE mood AS ENUM ('sad', 'so so', 'it''s \"fine\"');
    CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
    CREATE DOMAIN price AS numeric(6,2);
    CREATE DOMAIN word AS varchar(30);
    CREATE DOMAIN short_word AS word CHECK (length(VALUE) < 10);
    CREATE TYPE pair AS (a integer, b text);";

pub const NUMBERS: Table = Table {
    name: "numbers",
    columns: &[
        ("small", "smallint", &["32767", "-32768", "0"]),
        ("int", "integer", &["2147483647", "-2147483648", "0"]),
        ("big", "bigint", &["9223372036854775807", "-9223372036854775808", "9007199254740993"]),
        ("single", "real", &["1.5", "-3.4028235e38", "1e-37", "NaN", "Infinity"]),
        ("double", "double precision", &["0.1", "1.7976931348623157e308", "-5e-324", "NaN", "-Infinity"]),
        ("num", "numeric", &["0", "123.4560", "-0.000001", "1e30", "12345678901234567890123456789.123456789"]),
        ("num_0", "numeric(18,0)", &["999999999999999999", "-1", "0"]),
        ("num_2", "numeric(10,2)", &["12345678.90", "-0.01", "0"]),
        ("num_wide", "numeric(38,10)", &["1234567890123456789012345678.0123456789", "-0.0000000001"]),
        ("num_coarse", "numeric(5,-2)", &["1234500", "-100"]),
        ("num_fine", "numeric(3,5)", &["0.00123", "-0.00999"]),
        ("cash", "money", &["12.34", "-0.01", "92233720368547758.07"]),
        ("yes", "boolean", &["true", "false"]),
        ("number", "oid", &["4294967295", "0"]),
        ("prices", "numeric(10,2)[]", &["{1.50,-2.25,NULL}", "{}"]),
        ("nums", "numeric[]", &["{1.5,100,NULL,-0.001}", "{}"]),
    ],
};

/// What no Decimal can say.
pub const SPECIALS: Table = Table {
    name: "specials",
    columns: &[
        ("num", "numeric", &["NaN", "Infinity", "-Infinity"]),
        ("num_2", "numeric(10,2)", &["NaN", "1.00"]),
        ("nums", "numeric[]", &["{1.5,2.25}", "{NaN}"]),
    ],
};

pub const TIMES: Table = Table {
    name: "times",
    columns: &[
        ("day", "date", &["2024-02-29", "1969-12-31", "1582-10-04", "0001-01-01", "9999-12-31"]),
        ("at", "time", &["12:34:56.789012", "00:00:00", "23:59:59.999999", "24:00:00"]),
        ("at_0", "time(0)", &["12:34:56", "00:00:00"]),
        ("at_3", "time(3)", &["12:34:56.789", "00:00:00.001"]),
        ("at_zone", "timetz", &["04:05:06.789012+02", "23:59:59.999999-11:30", "00:00:00+00"]),
        (
            "stamp",
            "timestamp",
            &[
                "2024-02-29 12:34:56.789012",
                "1969-12-31 23:59:59.999999",
                "1582-10-04 00:00:00",
                "0001-01-01 00:00:00",
                "9999-12-31 23:59:59.999999",
            ],
        ),
        ("stamp_0", "timestamp(0)", &["2024-02-29 12:34:56", "1900-01-01 00:00:00"]),
        ("stamp_3", "timestamp(3)", &["2024-02-29 12:34:56.789", "1969-12-31 23:59:59.999"]),
        ("stamp_6", "timestamp(6)", &["2024-02-29 12:34:56.789012"]),
        (
            "moment",
            "timestamptz",
            &[
                "2024-02-29 12:34:56.789012+00",
                "1969-12-31 23:59:59.999999+00",
                "1582-10-04 00:00:00+00",
                "0001-01-01 00:00:00+00",
                "9999-12-31 23:59:59.999999+00",
            ],
        ),
        ("moment_0", "timestamptz(0)", &["2024-02-29 12:34:56+05:30"]),
        ("moment_3", "timestamptz(3)", &["2024-02-29 12:34:56.789-08"]),
        ("days", "date[]", &["{2024-02-29,NULL,1969-12-31}", "{}"]),
        ("hours", "time[]", &["{12:34:56.789012,NULL}", "{}"]),
        ("stamps", "timestamp[]", &["{\"2024-02-29 12:34:56.789012\",NULL}", "{}"]),
        ("moments", "timestamptz[]", &["{\"2024-02-29 12:34:56.789012+00\",NULL}", "{}"]),
    ],
};

/// Times that no calendar of four digits holds.
pub const EXTREMES: Table = Table {
    name: "extremes",
    columns: &[
        ("day", "date", &["infinity", "-infinity", "0044-03-15 BC", "4713-01-01 BC", "12345-06-07", "5874897-12-31"]),
        (
            "stamp",
            "timestamp",
            &[
                "infinity",
                "-infinity",
                "0044-03-15 12:00:00.000001 BC",
                "4713-01-01 00:00:00 BC",
                "12345-06-07 08:09:10.111213",
                "294276-12-31 23:59:59.999999",
            ],
        ),
        (
            "moment",
            "timestamptz",
            &[
                "infinity",
                "-infinity",
                "0044-03-15 12:00:00.000001+00 BC",
                "4713-01-01 00:00:00+00 BC",
                "12345-06-07 08:09:10.111213+00",
                "294276-12-31 23:59:59.999999+00",
            ],
        ),
    ],
};

pub const SPANS: Table = Table {
    name: "spans",
    columns: &[
        (
            "span",
            "interval",
            &[
                "1 year 2 mons 3 days 04:05:06.789012",
                "-1 years -2 mons +3 days -04:05:06",
                "0",
                "1 mon",
                "-00:00:00.000001",
                "1000 years",
            ],
        ),
        ("span_day", "interval day to second(2)", &["3 days 04:05:06.78"]),
        ("spans", "interval[]", &["{\"1 day\",NULL}", "{}"]),
    ],
};

pub const TEXTS: Table = Table {
    name: "texts",
    columns: &[
        (
            "plain",
            "text",
            &["plain", "", "\"quoted\" \\ back\n\tline \u{1} ünïcödé 😀 \u{fffd}", "NULL", "\\N", "\\x41", "{a}"],
        ),
        ("word", "varchar", &["word", ""]),
        ("word_20", "varchar(20)", &["a word of twenty let", ""]),
        ("fixed", "char(5)", &["ab", "abcde"]),
        ("letter", "char(1)", &["x", " "]),
        ("byte", "\"char\"", &["q"]),
        ("any_case", "citext", &["MiXed", "mixed"]),
        ("markup", "xml", &["<a b=\"c\">d &amp; e</a>", "<x/>"]),
        ("path", "ltree", &["Top.Science.Astronomy", "a"]),
        ("id_128", "uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"]),
        (
            "doc",
            "json",
            &["{\"b\":  1.0, \"a\": [null, \"\\u00e4\"], \"b\": 2}", "null", "\"text\"", "12345678901234567890.10"],
        ),
        ("docb", "jsonb", &["{\"b\": 1.00, \"a\": [null, \"ä\\n\"]}", "null", "[]"]),
        ("feeling", "mood", &["sad", "so so", "it's \"fine\""]),
        ("host", "inet", &["192.168.0.1", "10.1.2.3/8", "2001:db8::1/64"]),
        ("net", "cidr", &["192.168.100.128/25", "::/0"]),
        ("mac", "macaddr", &["08:00:2b:01:02:03"]),
        ("mac_8", "macaddr8", &["08:00:2b:01:02:03:04:05"]),
        ("found", "tsvector", &["'a':1A 'fat':2B,4C 'cat':5"]),
    ],
};

pub const BITS: Table = Table {
    name: "bits",
    columns: &[
        ("bytes", "bytea", &["\\x00ff10", "\\x", "\\xdeadbeef3f3e"]),
        ("bit_1", "bit", &["1", "0"]),
        ("bit_8", "bit(8)", &["10000001", "00000000"]),
        ("bit_10", "bit(10)", &["1000000101"]),
        ("bit_64", "bit(64)", &["1000000000000000000000000000000000000000000000000000000000000001"]),
        ("bit_70", "bit(70)", &["1110000000000000000000000000000000000000000000000000000000000000000101"]),
        ("bits_any", "varbit", &["101", "", "000000000001"]),
        ("bits_20", "varbit(20)", &["10101", "0"]),
        ("blobs", "bytea[]", &["{\"\\\\x0102\",NULL}", "{}"]),
    ],
};

pub const MAPS: Table = Table {
    name: "maps",
    columns: &[
        ("pairs", "hstore", &["a=>1, b=>NULL, \"q uote\"=>\"x\\\"y\\\\z\", \"ä\"=>\"\"", ""]),
        ("many", "hstore[]", &["{\"\\\"a\\\"=>\\\"1\\\"\",NULL}", "{}"]),
    ],
};

pub const SHAPES: Table =
    Table { name: "shapes", columns: &[("spot", "point", &["(1.5,-2.5)", "(0,0)", "(1e300,-1e-300)"])] };

pub const RANGES: Table = Table {
    name: "ranges",
    columns: &[
        ("ints", "int4range", &["[1,10)", "empty", "(,5)", "[3,)"]),
        ("bigs", "int8range", &["[1,9223372036854775807)", "(,)"]),
        ("nums", "numrange", &["[1.5,2.50]", "(1.5,)", "empty"]),
        ("stamps", "tsrange", &["[\"2024-01-01 00:00:00\",\"2024-06-01 12:00:00.5\")", "(,infinity]"]),
        ("moments", "tstzrange", &["[\"2024-01-01 00:00:00+00\",\"2024-06-01 12:00:00.5+00\")", "(,)"]),
        ("days", "daterange", &["[2024-01-01,2024-02-01)", "(,)"]),
    ],
};

pub const ARRAYS: Table = Table {
    name: "arrays",
    columns: &[
        ("smalls", "smallint[]", &["{1,-2,NULL}", "{}"]),
        ("ints", "integer[]", &["{1,2,3}", "{}", "{NULL}"]),
        ("bigs", "bigint[]", &["{9223372036854775807}", "{}"]),
        ("yes", "boolean[]", &["{t,f,NULL}"]),
        ("singles", "real[]", &["{1.5,NaN}", "{-Infinity}"]),
        ("doubles", "double precision[]", &["{0.1,1e308}", "{NaN,NULL}"]),
        ("texts", "text[]", &["{a,\"b c\",\"\",NULL,\"NULL\",\"q\\\"u\\\\o,te{}\",ä}", "{}"]),
        ("words", "varchar(10)[]", &["{one,two}"]),
        ("fixed", "char(3)[]", &["{a,abc}"]),
        ("ids", "uuid[]", &["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}"]),
        ("docs", "json[]", &["{\"{\\\"a\\\": 1}\",NULL}"]),
        ("docbs", "jsonb[]", &["{\"{\\\"a\\\": [1, null]}\"}"]),
        ("hosts", "inet[]", &["{192.168.0.1,10.0.0.0/8}"]),
        ("nets", "cidr[]", &["{10.0.0.0/8}"]),
        ("macs", "macaddr[]", &["{08:00:2b:01:02:03}"]),
        ("feelings", "mood[]", &["{sad,\"so so\"}", "{}"]),
    ],
};

/// Arrays of two dimensions, of which the connector makes an array of nothing.
pub const GRIDS: Table = Table { name: "grids", columns: &[("grid", "integer[]", &["{{1,2},{3,4}}", "{1}"])] };

pub const DOMAINS: Table = Table {
    name: "domains",
    columns: &[
        ("count", "positive", &["1", "2147483647"]),
        ("cost", "price", &["1234.50", "-0.01"]),
        ("name", "word", &["a word", ""]),
        ("short", "short_word", &["short", ""]),
    ],
};

/// The connector leaves these out, unless it is told to send them as bytes.
pub const UNKNOWN: Table = Table {
    name: "unknown",
    columns: &[
        ("line", "line", &["{1,2,3}"]),
        ("part", "lseg", &["[(1,2),(3,4)]"]),
        ("box", "box", &["(3,4),(1,2)"]),
        ("way", "path", &["[(1,2),(3,4)]"]),
        ("area", "polygon", &["((1,2),(3,4),(5,6))"]),
        ("disc", "circle", &["<(1,2),3>"]),
        ("place", "pg_lsn", &["16/B374D848"]),
        ("search", "tsquery", &["'fat' & 'cat'"]),
        ("query", "jsonpath", &["$.\"a\"[*]"]),
        ("pair", "pair", &["(1,\"a b\")"]),
        ("spans", "int4multirange", &["{[1,3),[5,8)}"]),
    ],
};

pub const ALL: &[Table] =
    &[NUMBERS, SPECIALS, TIMES, EXTREMES, SPANS, TEXTS, BITS, MAPS, SHAPES, RANGES, ARRAYS, GRIDS, DOMAINS, UNKNOWN];

impl Table {
    pub fn create(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|(name, kind, _)| format!("\"{name}\" {kind}")).collect();
        format!("CREATE TABLE {} (id integer PRIMARY KEY, {});", self.name, columns.join(", "))
    }

    /// As many rows as the longest list has values.
    pub fn rows(&self) -> usize {
        self.columns.iter().map(|(_, _, values)| values.len()).max().unwrap_or_default()
    }

    /// The literals of one row.
    pub fn values(&self, row: usize) -> String {
        self.columns.iter().map(|column| literal(column, row)).collect::<Vec<_>>().join(", ")
    }

    pub fn insert(&self, id: usize, row: usize) -> String {
        format!("INSERT INTO {} VALUES ({id}, {})", self.name, self.values(row))
    }

    /// Nothing in any column.
    pub fn insert_nulls(&self, id: usize) -> String {
        format!("INSERT INTO {} (id) VALUES ({id})", self.name)
    }

    pub fn update(&self, id: usize, row: usize) -> String {
        let columns: Vec<String> = self.columns.iter().map(|(name, _, _)| format!("\"{name}\"")).collect();
        format!("UPDATE {} SET ({}) = ROW({}) WHERE id = {id}", self.name, columns.join(", "), self.values(row))
    }
}

/// What a row has in one column.
pub fn literal((_, kind, values): &Column, row: usize) -> String {
    format!("'{}'::{kind}", values[row % values.len()].replace('\'', "''"))
}
