//! What the API answers when it cannot do what was asked: one shape for HTTP bodies and for streams.

use std::error::Error;

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// The kinds of refusal; a client maps each to an exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The request, or an object in it, is not right.
    Invalid,
    /// The object is not there.
    NotFound,
    /// It contradicts what is there: a name that is taken, an image in use.
    Conflict,
    /// It is right and may not be done.
    Refused,
    /// A wait took longer than the request allowed.
    TimedOut,
    /// The agent cannot do it now: it is starting or stopping.
    Unavailable,
    /// A command in a container is there and cannot be executed.
    NotExecutable,
    /// A command in a container is not there.
    NoCommand,
    /// It was attempted and did not work.
    Failed,
}

/// A refusal: why, in words for a person, and what they can do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The kind of refusal.
    pub reason: Reason,
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// One line that says what a person can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// A refusal without a hint.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), hint: None }
    }

    /// A refusal from an error and all its causes.
    pub fn of(reason: Reason, error: &dyn Error) -> Self {
        Self::new(reason, crate::api::problem::chain(error))
    }

    /// Adds what a person can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The object is not there.
    pub fn not_found(kind: &str, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("there is no {kind} {name}"))
    }

    /// The HTTP status that goes with the reason.
    pub const fn status(&self) -> StatusCode {
        match self.reason {
            Reason::Invalid => StatusCode::BAD_REQUEST,
            Reason::NotFound => StatusCode::NOT_FOUND,
            Reason::Conflict => StatusCode::CONFLICT,
            Reason::Refused => StatusCode::FORBIDDEN,
            Reason::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Reason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Reason::NotExecutable | Reason::NoCommand => StatusCode::UNPROCESSABLE_ENTITY,
            Reason::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl axum::response::IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        (self.status(), axum::Json(self)).into_response()
    }
}
