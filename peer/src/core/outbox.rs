//! The life of a message in its author's outbox (design section 5, inventory appendix 2).
//!
//! ```text
//! pending -> inflight -> relayed | sent -> delivered
//!    ^          |             |
//!    +-- retry -+             |      sent -> pending: a direct path died before the ack
//!    any of them past expires_at -> expired ; refused for good -> failed
//!    expired | failed -> delivered          the recipient's receipt has the last word
//!    pending | expired | failed -> aborted  requeued under a new id
//!    any open state -> aborted              its session has ended: goes to the member under a new id
//! ```
//!
//! Drive contract: a store asks [`advance`] before each change of state and refuses what it forbids;
//! the driver turns answers of a link into a [`Disposition`] and receipts into a state
//! ([`by_receipt`]). There is no limit on attempts: a message that is not refused lives until
//! `expires_at` (design section 5; differs from inventory A-114, whose 25 attempts would give up
//! on mail good for 7 days after 12 minutes of a broker's absence).

use std::fmt;
use std::str::FromStr;

use meshwire_signaling::frame::{ErrorFrame, MessageState, code};
use meshwire_signaling::receipt::{self, Receipt, Verdict};
use meshwire_transport::link::LinkError;
use serde::{Deserialize, Serialize};

/// First step of the back-off (inventory A-114).
pub const RETRY_BASE_MS: u64 = 500;
/// Longest back-off of our own (inventory A-114).
pub const RETRY_MAX_MS: u64 = 30_000;
/// Longest wait that a broker may ask for: it is not trusted to silence a node for good.
pub const RETRY_AFTER_MAX_MS: u64 = 300_000;
/// Longest stored reason, in bytes: brokers and peers choose the words.
pub const MAX_REASON: usize = receipt::MAX_REASON;

/// Why a row is pending that a direct path has, too: its ack is late, the relay is to take it as well.
pub const LATE: &str = "late_ack";

/// Where an outbox row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboxState {
    /// Waits for its next attempt.
    Pending,
    /// Handed to a path that has not answered yet.
    Inflight,
    /// The broker has it on disk.
    Relayed,
    /// A direct path took it; no receipt yet.
    Sent,
    /// The recipient's receipt says that it has it.
    Delivered,
    /// Its time ran out before a receipt came.
    Expired,
    /// Refused for good.
    Failed,
    /// Requeued: `superseded_by` names the message that goes on in its place.
    Aborted,
}

/// A word that is no [`OutboxState`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no outbox state")]
pub struct UnknownState(String);

impl OutboxState {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Inflight,
        Self::Relayed,
        Self::Sent,
        Self::Delivered,
        Self::Expired,
        Self::Failed,
        Self::Aborted,
    ];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Inflight => "inflight",
            Self::Relayed => "relayed",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    /// The word that API and command line use. An aborted row is `failed` for whoever asks for its
    /// old id.
    #[must_use]
    pub const fn public(self) -> MessageState {
        match self {
            Self::Pending | Self::Inflight => MessageState::Queued,
            Self::Relayed => MessageState::Relayed,
            Self::Sent => MessageState::Sent,
            Self::Delivered => MessageState::Delivered,
            Self::Expired => MessageState::Expired,
            Self::Failed | Self::Aborted => MessageState::Failed,
        }
    }

    /// Whether the author still tries, or waits for a receipt: such rows hold the floor down.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Inflight | Self::Relayed | Self::Sent)
    }

    /// Whether `requeue` may take the row's place. Not while a path has it, and not when it has
    /// arrived: either could deliver twice (inventory C-021).
    #[must_use]
    pub const fn may_requeue(self) -> bool {
        matches!(self, Self::Pending | Self::Expired | Self::Failed)
    }

    /// Whether another message, to a session's member, may take the row's place once the session is
    /// known to have ended: whatever path has it, nobody will open it.
    #[must_use]
    pub const fn may_redirect(self) -> bool {
        self.is_open()
    }
}

impl fmt::Display for OutboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for OutboxState {
    type Err = UnknownState;
    fn from_str(s: &str) -> Result<Self, UnknownState> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == s);
        found.ok_or_else(|| UnknownState(s.chars().take(40).collect()))
    }
}

/// Whether a row may go from one state to another. Staying is not going.
#[must_use]
pub const fn advance(from: OutboxState, to: OutboxState) -> bool {
    use OutboxState::{Aborted, Delivered, Expired, Failed, Inflight, Pending, Relayed, Sent};
    match (from, to) {
        // Final. An aborted message goes on under another id.
        (Delivered | Aborted, _) => false,
        // The recipient's own word replaces every guess of ours.
        (_, Delivered) => true,
        (Expired | Failed, to) => matches!(to, Aborted),
        // A late answer of a path whose loss has already put the row back is still true.
        (Pending, to) => !matches!(to, Pending),
        (Inflight, to) => matches!(to, Pending | Relayed | Sent | Expired | Failed),
        // Back to pending when the direct path dies, to relayed when the relay hedges it.
        (Sent, to) => matches!(to, Pending | Relayed | Expired | Failed),
        (Relayed, to) => matches!(to, Expired | Failed),
    }
}

/// What a request under an idempotency key meets (inventory A-110, the table of appendix 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// The same request again: answer with the row that is there.
    Duplicate,
    /// The key was used for another request.
    Mismatch,
    /// The same request, but it failed or expired: only a new key or a requeue tries again.
    Dead,
    /// The same request, but it was requeued under another id.
    Aborted,
}

impl Repeat {
    /// The table: the existing row's state, and whether the fingerprints are equal.
    #[must_use]
    pub const fn of(state: OutboxState, same_fingerprint: bool) -> Self {
        match (state, same_fingerprint) {
            (_, false) => Self::Mismatch,
            (OutboxState::Failed | OutboxState::Expired, true) => Self::Dead,
            (OutboxState::Aborted, true) => Self::Aborted,
            (_, true) => Self::Duplicate,
        }
    }
}

/// The word of the inventory's table for a refused repeat, such as
/// `outbox_pending_fingerprint_mismatch`.
#[must_use]
pub const fn conflict_word(state: OutboxState, same_fingerprint: bool) -> &'static str {
    use OutboxState::{Aborted, Delivered, Expired, Failed, Inflight, Pending, Relayed, Sent};
    match (state, same_fingerprint) {
        (Pending, true) => "outbox_pending_fingerprint_match",
        (Pending, false) => "outbox_pending_fingerprint_mismatch",
        (Inflight, true) => "outbox_inflight_fingerprint_match",
        (Inflight, false) => "outbox_inflight_fingerprint_mismatch",
        (Relayed | Sent | Delivered, true) => "outbox_done_fingerprint_match",
        (Relayed | Sent | Delivered, false) => "outbox_done_fingerprint_mismatch",
        (Expired | Failed, true) => "outbox_dead_fingerprint_match",
        (Expired | Failed, false) => "outbox_dead_fingerprint_mismatch",
        (Aborted, true) => "outbox_aborted_fingerprint_match",
        (Aborted, false) => "outbox_aborted_fingerprint_mismatch",
    }
}

/// How long to wait before the next attempt, in milliseconds: min(30 s, 500 ms × 2^min(attempts, 12))
/// (inventory A-114), of which the upper half is random so that a broker's return is no stampede,
/// and never less than the broker asked for.
///
/// `attempts` counts those made, `jitter` is any random number.
#[must_use]
pub fn retry_delay_ms(attempts: u32, retry_after_ms: Option<u64>, jitter: u64) -> u64 {
    let whole = (RETRY_BASE_MS << attempts.min(12)).min(RETRY_MAX_MS);
    let ours = whole / 2 + jitter % (whole / 2 + 1);
    let asked = retry_after_ms.unwrap_or(0).min(RETRY_AFTER_MAX_MS);
    ours.max(asked)
}

/// What to do with a row whose path did not take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Try again after [`retry_delay_ms`], at least after this time.
    Retry {
        /// What the broker asked for, in milliseconds.
        after_ms: Option<u64>,
        /// Why it was not taken.
        reason: String,
    },
    /// Not the row's fault: it goes as soon as there is a path again.
    Wait,
    /// Its time ran out.
    Expire,
    /// Refused for good.
    Fail {
        /// The word.
        reason: String,
    },
}

/// Judges a link's error.
#[must_use]
pub fn judge(error: &LinkError) -> Disposition {
    match error {
        LinkError::Down | LinkError::Closed => Disposition::Wait,
        LinkError::TooLarge { .. } => Disposition::Fail { reason: code::TOO_LARGE.into() },
        LinkError::Refused(frame) => judge_frame(frame),
        other => Disposition::Retry { after_ms: None, reason: bounded(&other.to_string()) },
    }
}

/// Judges the broker's refusal of an envelope. Known codes decide by themselves; for newer ones the
/// frame's own flag does.
fn judge_frame(frame: &ErrorFrame) -> Disposition {
    let reason = bounded(&frame.code);
    let permanent = match frame.code.as_str() {
        code::EXPIRED => return Disposition::Expire,
        // About this envelope: the same bytes would be refused again (inventory A-114).
        code::MALFORMED
        | code::UNKNOWN_TYPE
        | code::UNAUTHORIZED
        | code::BAD_KEY
        | code::BAD_SIGNATURE
        | code::TOO_LARGE
        | code::BAD_ENVELOPE
        | code::UNKNOWN_TARGET
        | code::TARGET_GONE
        | code::CONFLICT
        | code::FORBIDDEN
        | code::UNSUPPORTED => true,
        // About the moment, or the connection (a session's key that is not bound yet, A-115).
        code::RATE_LIMITED
        | code::QUEUE_FULL
        | code::UNAVAILABLE
        | code::CAPACITY
        | code::NOT_YOURS
        | code::NO_HELLO
        // About the batches, not the envelope: each try begins with the first one.
        | code::BAD_BATCH => false,
        _ => frame.permanent,
    };
    if permanent {
        Disposition::Fail { reason }
    } else {
        Disposition::Retry { after_ms: frame.retry_after_ms, reason }
    }
}

/// The state, and its reason, that a verified receipt gives.
#[must_use]
pub fn by_receipt(receipt: &Receipt) -> (OutboxState, Option<String>) {
    let reason = receipt.reason.as_deref().map(bounded);
    match receipt.verdict {
        Verdict::Delivered => (OutboxState::Delivered, None),
        Verdict::Gone => (OutboxState::Failed, Some(code::TARGET_GONE.to_owned())),
        Verdict::Refused if receipt.reason.as_deref() == Some(receipt::reason::EXPIRED) => {
            (OutboxState::Expired, reason)
        }
        Verdict::Refused => (OutboxState::Failed, reason.or_else(|| Some("refused".to_owned()))),
    }
}

/// The start of a word that somebody else chose, without control characters.
#[must_use]
pub fn bounded(reason: &str) -> String {
    let mut out = String::new();
    for c in reason.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > MAX_REASON {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
