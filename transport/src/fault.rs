//! Points where a test can stop a process, to kill it exactly there.
//!
//! With `MESHWIRE_TEST_PAUSE=POINT` in its environment, a process that comes to that point says
//! `paused at POINT` on a line of its standard error, and the task that came there waits for ever;
//! the others go on. It exists in debug builds only: release builds never look at the environment,
//! and [`pause_at`] is empty there.
//!
//! | point | between |
//! |---|---|
//! | [`CLAIMED`] | the broker's claim, committed, and the push |
//! | [`ENQUEUED`] | the outbox row, committed, and its envelope's way to the link |
//! | [`PUSHED`] | an envelope's arrival and its inbox row |
//! | [`STORED`] | the inbox row, committed, and the ack |

/// The broker has claimed deliveries and pushed none of them.
pub const CLAIMED: &str = "claimed";
/// The node has taken rows from its outbox and sent none of them.
pub const ENQUEUED: &str = "enqueued";
/// Envelopes have come in and none is stored.
pub const PUSHED: &str = "pushed";
/// Envelopes are stored and none is answered.
pub const STORED: &str = "stored";

/// Waits for ever if this is the point that the environment names.
#[cfg(debug_assertions)]
pub async fn pause_at(point: &str) {
    use std::io::Write as _;
    use std::sync::LazyLock;

    static CHOSEN: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("MESHWIRE_TEST_PAUSE").ok());
    if CHOSEN.as_deref() == Some(point) {
        // Who cannot be told waits in vain, and says so.
        let _ = writeln!(std::io::stderr(), "paused at {point}");
        std::future::pending::<()>().await;
    }
}

/// Nothing: release builds have no such points.
#[cfg(not(debug_assertions))]
pub async fn pause_at(_: &str) {}
