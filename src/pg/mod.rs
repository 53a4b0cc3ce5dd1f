//! PostgreSQL's words: connections, COPY, the ledger, letters. What a table means is a flow's affair.

pub mod copy;
pub mod url;
