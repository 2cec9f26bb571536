//! The life of a message in its author's outbox (design section 5, inventory appendix 2).
//!
//! ```text
//! pending -> inflight -> relayed | sent -> delivered
//!    ^          |             |
//!    +-- retry -+             |      sent -> pending: a direct path died before the ack
//!    any of them past expires_at -> expired ; refused for good -> failed
//!    expired | failed -> delivered          the recipient's receipt has the last word
//!    pending | expired | failed -> aborted  requeued under a new id
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
        | code::NO_HELLO => false,
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
mod tests {
    use super::*;
    use OutboxState::*;

    #[test]
    fn words_round_trip() {
        for state in OutboxState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("done".parse::<OutboxState>().is_err());
    }

    #[test]
    fn every_legal_transition_is_listed_and_no_other_is_legal() {
        let legal: &[(OutboxState, &[OutboxState])] = &[
            (Pending, &[Inflight, Relayed, Sent, Delivered, Expired, Failed, Aborted]),
            (Inflight, &[Pending, Relayed, Sent, Delivered, Expired, Failed]),
            (Relayed, &[Delivered, Expired, Failed]),
            (Sent, &[Pending, Relayed, Delivered, Expired, Failed]),
            (Delivered, &[]),
            (Expired, &[Delivered, Aborted]),
            (Failed, &[Delivered, Aborted]),
            (Aborted, &[]),
        ];
        for (from, to) in legal {
            for state in OutboxState::ALL {
                assert_eq!(advance(*from, state), to.contains(&state), "{from} -> {state}");
            }
        }
    }

    #[test]
    fn delivered_replaces_expired_and_failed_and_is_never_replaced() {
        assert!(advance(Expired, Delivered) && advance(Failed, Delivered));
        assert!(OutboxState::ALL.into_iter().all(|to| !advance(Delivered, to)));
    }

    #[test]
    fn requeue_is_legal_exactly_where_aborted_is_reachable() {
        for state in OutboxState::ALL {
            assert_eq!(state.may_requeue(), advance(state, Aborted), "{state}");
        }
    }

    #[test]
    fn the_eleven_rows_of_the_idempotency_table() {
        // Row 1, no row: the store inserts. The other ten:
        let table = [
            (Pending, Repeat::Duplicate, "outbox_pending_fingerprint_mismatch"),
            (Inflight, Repeat::Duplicate, "outbox_inflight_fingerprint_mismatch"),
            (Relayed, Repeat::Duplicate, "outbox_done_fingerprint_mismatch"),
            (Sent, Repeat::Duplicate, "outbox_done_fingerprint_mismatch"),
            (Delivered, Repeat::Duplicate, "outbox_done_fingerprint_mismatch"),
            (Failed, Repeat::Dead, "outbox_dead_fingerprint_mismatch"),
            (Expired, Repeat::Dead, "outbox_dead_fingerprint_mismatch"),
            (Aborted, Repeat::Aborted, "outbox_aborted_fingerprint_mismatch"),
        ];
        for (state, same, word) in table {
            assert_eq!(Repeat::of(state, true), same, "{state}");
            assert_eq!(Repeat::of(state, false), Repeat::Mismatch, "{state}");
            assert_eq!(conflict_word(state, false), word);
            assert_eq!(conflict_word(state, true), word.replace("mismatch", "match"));
        }
    }

    #[test]
    fn back_off_doubles_to_thirty_seconds_with_half_of_it_random() {
        assert_eq!(retry_delay_ms(0, None, 0), 250);
        assert_eq!(retry_delay_ms(0, None, 250), 500);
        assert_eq!(retry_delay_ms(3, None, 0), 2_000);
        for attempts in 0..100 {
            for jitter in [0, 1, 12_345, u64::MAX] {
                let whole = (500u64 << attempts.min(12)).min(30_000);
                let got = retry_delay_ms(attempts, None, jitter);
                assert!((whole / 2..=whole).contains(&got), "{attempts} {jitter} {got}");
            }
        }
        assert_eq!(retry_delay_ms(u32::MAX, None, 0), 15_000);
    }

    #[test]
    fn a_broker_may_ask_for_patience_but_not_for_silence() {
        assert_eq!(retry_delay_ms(0, Some(60_000), 0), 60_000);
        assert_eq!(retry_delay_ms(0, Some(u64::MAX), 0), RETRY_AFTER_MAX_MS);
        assert_eq!(retry_delay_ms(9, Some(1), 0), 15_000);
    }

    #[test]
    fn refusals_are_judged_by_code_and_unknown_codes_by_their_flag() {
        let judged = |f: ErrorFrame| judge(&LinkError::Refused(Box::new(f)));
        for code in [code::UNKNOWN_TARGET, code::TARGET_GONE, code::FORBIDDEN, code::CONFLICT] {
            // The flag does not soften a code that we know.
            let frame = ErrorFrame::transient(code, "", 5);
            assert_eq!(judged(frame), Disposition::Fail { reason: code.into() });
        }
        for code in [code::RATE_LIMITED, code::QUEUE_FULL, code::UNAVAILABLE, code::NOT_YOURS] {
            let mut frame = ErrorFrame::transient(code, "", 5);
            frame.permanent = true;
            let retry = Disposition::Retry { after_ms: Some(5), reason: code.into() };
            assert_eq!(judged(frame), retry);
        }
        assert_eq!(judged(ErrorFrame::permanent(code::EXPIRED, "")), Disposition::Expire);
        let newer = judged(ErrorFrame::permanent("word_of_2031", ""));
        assert_eq!(newer, Disposition::Fail { reason: "word_of_2031".into() });
        assert!(matches!(
            judged(ErrorFrame::transient("word_of_2031", "", 1)),
            Disposition::Retry { .. }
        ));
        assert_eq!(judge(&LinkError::Down), Disposition::Wait);
        let large = judge(&LinkError::TooLarge { len: 2, max: 1 });
        assert_eq!(large, Disposition::Fail { reason: "too_large".into() });
    }

    #[test]
    fn receipts_give_states() {
        use meshwire_signaling::{Hash, PublicKey};
        let receipt = |verdict, reason: Option<&str>| Receipt {
            verdict,
            reason: reason.map(str::to_owned),
            by: PublicKey([1; 32]),
            mac: Hash([0; 32]),
        };
        let got = |v, r| by_receipt(&receipt(v, r));
        assert_eq!(got(Verdict::Delivered, None), (Delivered, None));
        assert_eq!(got(Verdict::Refused, Some("blocked")), (Failed, Some("blocked".into())));
        assert_eq!(got(Verdict::Refused, Some("expired")), (Expired, Some("expired".into())));
        assert_eq!(got(Verdict::Gone, None), (Failed, Some("target_gone".into())));
    }

    #[test]
    fn reasons_of_others_are_bounded_and_printable() {
        assert_eq!(bounded("a\nb"), "a b");
        let long = bounded(&"é".repeat(500));
        assert!(long.len() <= MAX_REASON && long.len() > MAX_REASON - 2);
    }
}
