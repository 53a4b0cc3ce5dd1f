//! SQLSTATE to order, the one table. What the data is to blame for is set aside; all else is tried again:
//! a server that is down, a deadlock, a full disk or a missing table is never the record's fault.
//! A cause names codes, tables, columns and constraints. It never repeats a value: the server's own message
//! may, for the classes that are about data.

use postgres::error::{DbError, Error};

use crate::fault::Fault;

pub fn of(error: &Error) -> Fault {
    let Some(db) = error.as_db_error() else {
        return Fault::retry("pg.connection", with_sources(error));
    };
    let state = db.code().code();
    let code = format!("pg.{state}");
    match &state[..2] {
        // Cardinality violation; data exception; integrity constraint violation.
        "21" | "22" | "23" => Fault::reject(code, about_data(db)),
        // A value that is too long for an index on its column, or too deep.
        "54" if matches!(state, "54000" | "54001") => Fault::reject(code, about_data(db)),
        _ => Fault::retry(code, format!("{}: {}", db.severity().to_lowercase(), db.message())),
    }
}

fn about_data(db: &DbError) -> String {
    let mut text = format!("PostgreSQL refused the row with SQLSTATE {}", db.code().code());
    for (what, name) in [("constraint", db.constraint()), ("column", db.column()), ("table", db.table())] {
        if let Some(name) = name {
            text.push_str(&format!(", {what} \"{name}\""));
        }
    }
    text
}

/// The client's errors say little by themselves and the rest in their sources.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}
