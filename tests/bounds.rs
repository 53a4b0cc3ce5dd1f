//! How much memory the program takes when records are as large as they can be: while PostgreSQL is away, and when
//! record sets unfold to a thousand times their size.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

#[path = "bounds/away.rs"]
mod away;
#[path = "bounds/bombs.rs"]
mod bombs;
mod support;

use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// The program itself with its threads, and what the allocator keeps between its blocks.
const BASE_MB: f64 = 64.0;
