//! What goes into a [`super::Machine`] and what comes out of it.

use meshwire_signaling::UnixMillis;
use tokio::time::Instant;

use crate::path::history::Cause;

/// Names a try: 16 random bytes, chosen by who offers.
pub type AttemptId = [u8; 16];

/// Both clocks, and fresh randomness.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For waiting.
    pub at: Instant,
    /// For people.
    pub unix: UnixMillis,
    /// A fresh name for a try.
    pub fresh: AttemptId,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message for the pair would like a direct path.
    Wanted,
    /// Something was said over the direct path, by either side.
    Traffic,
    /// The peer offers.
    Offer(AttemptId),
    /// The peer answered our offer.
    Answer(AttemptId),
    /// A connection is up.
    Connected {
        /// Whose.
        attempt: AttemptId,
        /// Whether it goes through a TURN server.
        relayed: bool,
        /// What kind of path it is, in words.
        detail: String,
    },
    /// A try has failed.
    Failed {
        /// Which.
        attempt: AttemptId,
        /// Why.
        cause: Cause,
        /// More, for people.
        detail: String,
    },
    /// The path that is up goes another way now: through a TURN server or no longer.
    Moved {
        /// Whether it goes through a TURN server now.
        relayed: bool,
        /// What kind of path it is, in words.
        detail: String,
    },
    /// A better way was sought for the path that is up, in vain.
    Stayed {
        /// Why, for people.
        detail: String,
    },
    /// The path that was up is gone.
    Lost(Cause),
    /// The path is up but of no use: its acks are late.
    Demote,
    /// Our interfaces or addresses changed.
    NetworkChanged,
    /// The peer is there again: whatever it was like before is no guide.
    PeerBack,
    /// Offers can travel again.
    RelayUp,
    /// There must be no direct path to this peer.
    Forbid(Cause),
    /// Time has passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Gather candidates and offer.
    Offer(AttemptId),
    /// The same for a path that goes through no TURN server: one that does is up.
    Seek(AttemptId),
    /// Gather candidates and answer the peer's offer.
    Answer(AttemptId),
    /// Give a try up. With `tell`, say `bye`.
    Abandon {
        /// Which.
        attempt: AttemptId,
        /// Why.
        cause: Cause,
        /// Whether the peer does not know.
        tell: bool,
    },
    /// Let messages go over this try's connection; an older one ends once what it carries has left.
    Promote(AttemptId),
    /// End the path that is up.
    Close(Cause),
}

/// Where a pair stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No path, none sought.
    Idle,
    /// A try runs.
    Negotiating,
    /// The last try failed; the next one is due then.
    Waiting(Instant),
    /// A path is up; whether a fresh one is being made beside it.
    Up {
        /// A try runs, too.
        renewing: bool,
    },
}
