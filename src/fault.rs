//! An error as an order: what the caller must do next. Each outside system turns its own errors into
//! one of these in exactly one place (`pg/fault.rs`, `kafka/fault.rs`); nothing else decides it again.

use std::borrow::Cow;
use std::fmt;

/// Why, for people (`text`: the value and the rule) and for grouping (`code`: stable, few values).
/// Neither may hold a password or a payload: both are logged and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub code: Cow<'static, str>,
    pub text: String,
}

impl Cause {
    pub fn new(code: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Self {
        Cause { code: code.into(), text: text.into() }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.code)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The outside is at fault: do the same again after a pause, for as long as it takes.
    Retry(Cause),
    /// The record is at fault: set it aside as a letter and go on.
    Reject(Cause),
    /// Going on would lose or double something: halt this partition and call a person.
    Stop(Cause),
}

impl Fault {
    pub fn retry(code: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Self {
        Fault::Retry(Cause::new(code, text))
    }

    pub fn reject(code: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Self {
        Fault::Reject(Cause::new(code, text))
    }

    pub fn stop(code: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Self {
        Fault::Stop(Cause::new(code, text))
    }

    pub fn cause(&self) -> &Cause {
        match self {
            Fault::Retry(cause) | Fault::Reject(cause) | Fault::Stop(cause) => cause,
        }
    }

    pub fn into_cause(self) -> Cause {
        match self {
            Fault::Retry(cause) | Fault::Reject(cause) | Fault::Stop(cause) => cause,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause().fmt(f)
    }
}

impl std::error::Error for Fault {}

/// Why a verb did not do its work.
pub enum Failure {
    /// What the user wrote.
    Refused(String),
    /// What the world did.
    Failed(String),
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Failure::Failed(cause.to_string())
    }
}
