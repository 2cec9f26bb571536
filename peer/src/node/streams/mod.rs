//! Streams of a node: bytes in order between two identities, whatever path they take (`docs/protocol.md`
//! section 25).
//!
//! ```text
//! open_stream ── open (envelope) ══ relay or direct path ══► inbound ── remembered on disk ──► waiting
//!      │                                                                                          │ accept_stream,
//!      ▼                                                                                          ▼ or refused after 5 s
//!  PeerStream ◄─► Live ◄──────── records, over each link that is up ────────► Live ◄─► PeerStream
//!                  ├── RelayLink::carry                  the broker's socket, always
//!                  └── RecordCarrier of the direct path  while it is up and not silent
//! ```
//!
//! A living stream has a task ([`tend`]) that puts it on its links and takes it out of the table when it is over.
//! The acceptor's side puts it on a direct path; the opener's side finds it when the path brings it. A path that is silent
//! carries nothing, so that the stream is on the relay before the path is given up. Nothing of a stream is kept on
//! disk but the id of its open: a node that starts anew has no streams, and an open that is repeated changes nothing.

mod accept;
mod ask;
mod handle;
mod open;
mod table;
mod tend;
#[cfg(test)]
mod tests;

pub(super) use accept::take;
pub use handle::{PeerStream, StreamHandle, StreamInfo, StreamStats};
pub(crate) use table::Streams;
pub(super) use tend::{close, keep, serve};

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use meshwire_signaling::PublicKey;
use meshwire_signaling::stream::{MAX_NAME, MIN_WINDOW};
use meshwire_transport::stream::{Budget, Windows};
use tokio::sync::Notify;
use tokio::time::Duration;

use super::invalid;
use crate::api::ApiError;

/// Bytes of records that all streams of a node hold together, for sending and for those who read: what was granted to
/// other sides counts.
const BUDGET: u64 = 256 << 20;
/// What of it streams that grow leave to new ones.
const SPARE: u64 = 128 << 20;
/// A new stream begins with this part of what its member may still take, at most: a thousand may come at once.
const SHARE: u64 = 1_024;
/// How long an open waits for somebody who accepts it.
const ACCEPT_WAIT: Duration = Duration::from_secs(5);

/// What the streams of all meshes share.
#[derive(Debug)]
pub(crate) struct Common {
    budget: Budget,
    /// Each member's part of it, with those of its sessions, while it has something.
    parts: Mutex<HashMap<PublicKey, Budget>>,
    /// An open waits; or who accepts is to look whether it still may.
    arrived: Notify,
}

impl Default for Common {
    fn default() -> Self {
        let budget = Budget::with_spare(BUDGET, SPARE);
        Self { budget, parts: Mutex::default(), arrived: Notify::new() }
    }
}

impl Common {
    /// What streams with `member` may take: never all that there is.
    fn part(&self, member: &PublicKey) -> Budget {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|key, part| key == member || part.used() > 0);
        parts.entry(*member).or_insert_with(|| self.budget.part()).clone()
    }

    /// Lets all who accept look whether there is something, and whether they still may.
    pub(super) fn look(&self) {
        self.arrived.notify_waiters();
    }
}

/// What a new stream begins with that takes from `budget`.
fn windows(budget: &Budget) -> Windows {
    let usual = Windows::default();
    Windows { initial: (budget.room() / SHARE).clamp(MIN_WINDOW, usual.initial), ..usual }
}

/// Refuses what no stream can be called.
fn check_name(name: &str) -> Result<(), ApiError> {
    if (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let text = format!("a stream's name has 1 to {MAX_NAME} bytes and no control characters");
    Err(invalid("bad_stream_name", text))
}
