//! What happened to a pair's direct path, for those who ask why there is none.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use meshwire_signaling::UnixMillis;
use serde::{Deserialize, Serialize};

use super::tally::Tally;

/// Entries kept per pair.
pub const MAX_ENTRIES: usize = 32;
/// Longest detail of an entry, in bytes.
pub const MAX_DETAIL: usize = 200;

/// Why a try failed, or a path ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The peer did not answer the offer in time.
    NoAnswer,
    /// No pair of addresses let anything through.
    NoPair,
    /// Addresses were found, but no connection came about.
    Handshake,
    /// Nothing was heard for the liveness bound.
    Silent,
    /// Two acks in a row were late.
    LateAcks,
    /// Nothing was said for five minutes.
    Idle,
    /// It was an hour old and its renewal had failed.
    TooOld,
    /// Another connection took its place.
    Replaced,
    /// The peer ended it.
    PeerEnded,
    /// The peer refused the offer.
    PeerRefused,
    /// The peer's own offer goes first (glare).
    Glare,
    /// The peer's node makes no direct paths.
    PeerCannot,
    /// The peer is away.
    PeerAway,
    /// The broker could not carry the offer.
    Signaling,
    /// Our network changed.
    NetworkChanged,
    /// Our owner wants none.
    Forbidden,
    /// The peer is no member any more.
    Revoked,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 17] = [
        Self::NoAnswer,
        Self::NoPair,
        Self::Handshake,
        Self::Silent,
        Self::LateAcks,
        Self::Idle,
        Self::TooOld,
        Self::Replaced,
        Self::PeerEnded,
        Self::PeerRefused,
        Self::Glare,
        Self::PeerCannot,
        Self::PeerAway,
        Self::Signaling,
        Self::NetworkChanged,
        Self::Forbidden,
        Self::Revoked,
    ];

    /// Its word, also a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::NoPair => "no_pair",
            Self::Handshake => "handshake",
            Self::Silent => "silent",
            Self::LateAcks => "late_acks",
            Self::Idle => "idle",
            Self::TooOld => "too_old",
            Self::Replaced => "replaced",
            Self::PeerEnded => "peer_ended",
            Self::PeerRefused => "peer_refused",
            Self::Glare => "glare",
            Self::PeerCannot => "peer_cannot",
            Self::PeerAway => "peer_away",
            Self::Signaling => "signaling",
            Self::NetworkChanged => "network_changed",
            Self::Forbidden => "forbidden",
            Self::Revoked => "revoked",
        }
    }

    /// In words for people, to follow "because".
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoAnswer => "the peer did not answer the offer",
            Self::NoPair => "no pair of addresses let anything through",
            Self::Handshake => "addresses were found, but the connection did not come about",
            Self::Silent => "nothing was heard any more",
            Self::LateAcks => "acknowledgements came late",
            Self::Idle => "nothing was said for five minutes",
            Self::TooOld => "it was an hour old and could not be renewed",
            Self::Replaced => "a fresh connection took its place",
            Self::PeerEnded => "the peer ended it",
            Self::PeerRefused => "the peer refused",
            Self::Glare => "the peer's own offer came first",
            Self::PeerCannot => "the peer's node makes no direct paths",
            Self::PeerAway => "the peer was away",
            Self::Signaling => "the broker could not carry the offer",
            Self::NetworkChanged => "our network changed",
            Self::Forbidden => "this node is set to use the relay alone",
            Self::Revoked => "the peer is no member any more",
        }
    }

    /// Whether the path, or the try, says something about the networks: only then is it held against
    /// them and the next try put off.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::NoAnswer
                | Self::NoPair
                | Self::Handshake
                | Self::PeerRefused
                | Self::PeerCannot
                | Self::Signaling
        )
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// We offered.
    Offered,
    /// We answered the peer's offer.
    Answered,
    /// A direct path is up.
    Up,
    /// The path goes another way now: no longer through a TURN server, or through one again.
    Moved,
    /// A better way was sought for the path, in vain.
    Stayed,
    /// A try failed.
    Failed(Cause),
    /// The path ended.
    Down(Cause),
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, Unix milliseconds.
    pub at: UnixMillis,
    /// What.
    pub what: What,
    /// More, for people: which kind of path, or what exactly failed. May be empty.
    pub detail: String,
}

/// The last [`MAX_ENTRIES`] of a pair, oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    entries: VecDeque<Entry>,
    tally: Arc<Tally>,
}

impl History {
    /// An empty one, whose events are counted in `tally`, too.
    #[must_use]
    pub fn new(tally: Arc<Tally>) -> Self {
        Self { entries: VecDeque::new(), tally }
    }

    /// Notes that something happened; `detail` is cut to [`MAX_DETAIL`].
    pub fn note(&mut self, at: UnixMillis, what: What, detail: &str) {
        self.tally.note(what);
        if self.entries.len() == MAX_ENTRIES {
            self.entries.pop_front();
        }
        let mut end = detail.len().min(MAX_DETAIL);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        let detail = detail.get(..end).unwrap_or_default().to_owned();
        self.entries.push_back(Entry { at, what, detail });
    }

    /// All that is kept, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The last failure or end that a fresh path did not follow.
    #[must_use]
    pub fn last_trouble(&self) -> Option<&Entry> {
        let last = self
            .entries
            .iter()
            .rev()
            .find(|e| !matches!(e.what, What::Offered | What::Answered))?;
        matches!(last.what, What::Failed(_) | What::Down(_)).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_last_and_cuts_between_characters() {
        let mut h = History::default();
        for at in 0..40 {
            h.note(at, What::Offered, &"ü".repeat(150));
        }
        let kept: Vec<_> = h.entries().collect();
        assert_eq!((kept.len(), kept[0].at), (MAX_ENTRIES, 8));
        assert_eq!(kept[0].detail, "ü".repeat(100));
    }

    #[test]
    fn trouble_is_over_when_a_path_is_up() {
        let mut h = History::default();
        h.note(1, What::Failed(Cause::NoPair), "");
        h.note(2, What::Offered, "");
        assert_eq!(h.last_trouble().map(|e| e.at), Some(1));
        h.note(3, What::Up, "host");
        assert_eq!(h.last_trouble(), None);
        h.note(4, What::Down(Cause::Silent), "");
        assert_eq!(h.last_trouble().map(|e| e.at), Some(4));
    }

    #[test]
    fn every_cause_has_its_own_word() {
        let words: std::collections::BTreeSet<_> = Cause::ALL.map(Cause::as_str).into();
        assert_eq!(words.len(), Cause::ALL.len());
    }
}
