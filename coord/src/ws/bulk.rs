//! Carries records of streams from one socket to another, as they are, and tells senders what has left.
//!
//! ```text
//! reader of the sender --take--> Desk of the recipient --next--> its socket
//!                                      |
//!         Desk of the sender <--credit-+
//! ```

mod routes;
mod take;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::SinkExt as _;
use meshwire_signaling::stream::carry::Carry;
use meshwire_signaling::{MeshId, PublicKey, StreamId};
use meshwire_transport::stream::{Budget, Reservation};
use tokio::sync::Notify;
use tokio::time::{Duration, sleep};
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

pub(super) use routes::Routes;
pub(super) use take::{Taken, concerns, take};

use super::write::Sink;
use crate::config::Policy;
use crate::core::bulk::{Owed, Popped, Queue, Quota, admits};
use crate::core::presence::{ConnId, Identity};
use crate::core::rate::RateLimiter;
use crate::metrics::{Cause, Metrics};

/// Longest time that credit waits for more to come with it.
const LINGER: Duration = Duration::from_millis(50);
/// What a member may have looked up, or carried of `unknown`s, at once, in seconds of its rate: all ways of a node that
/// comes back.
const HINTS_BURST_SECS: u64 = 4;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The memory that all waiting records share, and each member's part in it.
pub(crate) struct Exchange {
    memory: Budget,
    /// Bytes per second and member.
    rate: u64,
    /// Look-ups per second and member.
    hints: u64,
    members: Mutex<HashMap<Identity, Weak<Member>>>,
}

/// One member, over all its sockets.
struct Member {
    /// What waits of it; no limit of its own, see [`admits`].
    memory: Budget,
    quota: Mutex<Quota>,
    hints: Mutex<RateLimiter<()>>,
}

impl Member {
    /// Takes a look-up of a way, or an `unknown`.
    fn take_hint(&self, now: u64) -> bool {
        lock(&self.hints).take(&(), now).is_ok()
    }
}

impl Exchange {
    /// With what the policy says of streams, and as many look-ups as requests.
    pub(crate) fn new(policy: &Policy) -> Self {
        let (memory, hints) = (Budget::new(policy.stream_memory), policy.rate);
        Self { memory, rate: policy.stream_rate, hints, members: Mutex::default() }
    }

    /// The desk of a new connection.
    pub(super) fn desk(&self, conn: ConnId, mesh: MeshId, key: PublicKey) -> Arc<Desk> {
        let mut members = lock(&self.members);
        let known = members.get(&(mesh, key)).and_then(Weak::upgrade);
        let member = known.unwrap_or_else(|| {
            members.retain(|_, m| m.strong_count() > 0);
            let burst = self.hints.saturating_mul(HINTS_BURST_SECS);
            let fresh = Arc::new(Member {
                memory: Budget::new(self.memory.limit()),
                quota: Mutex::new(Quota::new(self.rate)),
                hints: Mutex::new(RateLimiter::with_burst(self.hints, burst, 1)),
            });
            members.insert((mesh, key), Arc::downgrade(&fresh));
            fresh
        });
        Arc::new(Desk {
            conn,
            key,
            member,
            queue: Mutex::default(),
            owed: Mutex::default(),
            overfull: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }

    /// Room for a record of `member`.
    fn reserve(&self, member: &Member, bytes: u64) -> Option<[Reservation; 2]> {
        let (own, all) = (&member.memory, &self.memory);
        if !admits(own.used(), bytes, all.used(), all.limit()) {
            return None;
        }
        Some([own.reserve(bytes)?, all.reserve(bytes)?])
    }
}

/// A record on its way, and the memory that it takes.
pub(super) struct Parcel {
    pub(super) message: Bytes,
    /// It was not charged to its member's quota.
    free: bool,
    _held: [Reservation; 2],
}

/// What waits to be written to one socket.
pub(crate) struct Desk {
    conn: ConnId,
    /// The member behind it.
    key: PublicKey,
    member: Arc<Member>,
    queue: Mutex<Queue<Arc<Desk>, Parcel>>,
    owed: Mutex<Owed<Bytes>>,
    overfull: AtomicBool,
    wake: Notify,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("conn", &self.conn).finish_non_exhaustive()
    }
}

impl Desk {
    /// So many bytes of a stream that came from this socket have left, or were dropped.
    fn give(&self, stream: StreamId, to: PublicKey, bytes: u64, free: bool) {
        let mut owed = lock(&self.owed);
        let news = owed.give(stream, to, bytes, free);
        if owed.is_overfull() {
            self.overfull.store(true, Ordering::Relaxed);
        }
        drop(owed);
        if news {
            self.wake.notify_one();
        }
    }

    fn notice(&self, notice: Bytes) {
        if lock(&self.owed).notice(notice) {
            self.wake.notify_one();
        }
    }

    /// The connection has ended: what waits is dropped.
    pub(super) fn close(&self, metrics: &Metrics) {
        let waited = {
            let mut queue = lock(&self.queue);
            metrics.stream_bytes_queued.dec_by(gauge(queue.bytes()));
            queue.close()
        };
        metrics.streams_waiting.dec_by(gauge(u64::try_from(waited.len()).unwrap_or(u64::MAX)));
        for (line, sender, bytes) in waited {
            metrics.dropped_records(Cause::ENDED).inc();
            sender.give(line.stream, line.to, bytes, false);
        }
    }

    /// Waits until something is to be written; whether that is all credit, even if it is little.
    pub(super) async fn ready(&self, tick: impl Fn() -> u64) -> bool {
        loop {
            if lock(&self.queue).streams() > 0 {
                return false;
            }
            let wait = Duration::from_millis(lock(&self.member.quota).wait(tick()));
            let paid = wait.is_zero();
            let (now, later) = {
                let owed = lock(&self.owed);
                if owed.has_notices() || owed.is_due(paid) {
                    return false;
                }
                (owed.is_any(paid), owed.is_any(true))
            };
            let woken = self.wake.notified();
            if !later {
                woken.await;
                continue;
            }
            tokio::select! {
                () = woken => {}
                () = sleep(if now { LINGER } else { wait }) => return true,
            }
        }
    }

    /// Writes notices, and credit that is worth it, or all that may be told.
    pub(super) async fn tell(&self, sink: &mut Sink, now: u64, all: bool) -> Result<(), WsError> {
        let paid = lock(&self.member.quota).wait(now) == 0;
        let (notices, credit) = {
            let mut owed = lock(&self.owed);
            let due = all || owed.is_due(paid);
            (owed.notices(), due.then(|| owed.take(paid)))
        };
        for notice in notices {
            sink.feed(Message::Binary(notice)).await?;
        }
        for (stream, to, bytes) in credit.into_iter().flatten() {
            let credit = Carry::Credit { stream, to, bytes }.encode();
            sink.feed(Message::Binary(credit.into())).await?;
        }
        Ok(())
    }

    /// The next record to write. Its sender has its credit before it is written: a socket that ends meanwhile must
    /// not keep it.
    pub(super) fn next(&self, metrics: &Metrics) -> Option<Parcel> {
        let popped = {
            let mut queue = lock(&self.queue);
            let streams = queue.streams();
            let popped = queue.pop();
            if queue.streams() < streams {
                metrics.streams_waiting.dec();
            }
            popped
        };
        let Popped { record, line, sender, len } = popped?;
        metrics.stream_bytes_queued.dec_by(gauge(len));
        metrics.stream_records.inc();
        metrics.relayed(Cause::STREAM).inc_by(len);
        sender.give(line.stream, line.to, len, record.free);
        Some(record)
    }
}

fn gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
