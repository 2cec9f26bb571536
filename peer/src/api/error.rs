//! Why a request fails.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Message;

/// What kind of failure it was; the command line maps each to a stable exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request makes no sense.
    Invalid,
    /// No such peer, mesh, message or invite.
    NotFound,
    /// More than one fits.
    Ambiguous,
    /// The broker cannot be reached.
    Unreachable,
    /// The other side refused: membership, signature, role.
    Denied,
    /// A token or invite is missing, wrong or over.
    Auth,
    /// It is there already, or was used for something else.
    Exists,
    /// What was waited for did not happen in time.
    Timeout,
    /// Too much at once: nothing was done, the same request may be made again.
    Busy,
    /// A file or database fails.
    Io,
    /// A fault of meshwire.
    Internal,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Which kind.
    pub kind: ErrorKind,
    /// A word for programs, such as `invite_expired`.
    pub code: String,
    /// What is wrong, what would be valid, and the nearest valid thing.
    pub message: String,
    /// For an idempotency key that was used before: for what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Box<Conflict>>,
}

impl ApiError {
    /// An error.
    #[must_use]
    pub fn new(kind: ErrorKind, code: &str, message: impl Into<String>) -> Self {
        Self { kind, code: code.to_owned(), message: message.into(), conflict: None }
    }
}

/// What an idempotency key was used for (inventory A-110).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Conflict {
    /// The message that the key belongs to.
    pub existing: Message,
    /// The first 8 bytes, as hex, of the fingerprint of the request that made it.
    pub fingerprint_prefix: String,
}
