//! Carries records of streams from one socket to another, as they are, and tells senders what has left.
//!
//! ```text
//! reader of the sender --take--> Desk of the recipient --write--> its socket
//!                                      |
//!         Desk of the sender <--credit-+
//! ```
//!
//! Who may send to whom is asked of the registry once per pair, and again when anybody has come or gone.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures_util::SinkExt as _;
use meshwire_signaling::stream::carry::{BadCarry, Carry, FRONT, Gone, Way, is_carry};
use meshwire_signaling::{MeshId, PublicKey, StreamId};
use meshwire_transport::stream::{Budget, Reservation};
use tokio::sync::Notify;
use tokio::time::{Duration, sleep};
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

use super::p2p::may_write;
use super::registry::Shared;
use super::write::Sink;
use crate::core::bulk::{Line, Owed, Queue, Quota, Refused};
use crate::core::presence::{ConnId, Identity};
use crate::metrics::{Cause, Metrics};

/// Records written before a flush and a look at what else waits: few, for messages wait behind them.
const RECORDS: usize = 4;
/// What a record costs beside its bytes.
const OVERHEAD: u64 = 256;
/// A smaller record is copied: what came in with it would be kept for as long as it waits.
const SMALL: usize = 8_192;
/// Longest time that credit waits for more to come with it.
const LINGER: Duration = Duration::from_millis(50);
/// Pairs of identities that one socket's reader remembers.
const ROUTES: usize = 4_096;
/// The part of the memory for records that one member's may take.
const SHARE: u64 = 4;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The memory that all waiting records share, and each member's part in it.
pub(crate) struct Exchange {
    memory: Budget,
    rate: u64,
    members: Mutex<HashMap<Identity, Weak<Member>>>,
}

/// One member, over all its sockets.
struct Member {
    memory: Budget,
    quota: Mutex<Quota>,
}

impl Exchange {
    /// `memory` bytes for records that wait, and `rate` bytes per second and member.
    pub(crate) fn new(memory: u64, rate: u64) -> Self {
        Self { memory: Budget::new(memory), rate, members: Mutex::default() }
    }

    /// The desk of a new connection.
    pub(super) fn desk(&self, conn: ConnId, mesh: MeshId, member: PublicKey) -> Arc<Desk> {
        let mut members = lock(&self.members);
        let known = members.get(&(mesh, member)).and_then(Weak::upgrade);
        let member = known.unwrap_or_else(|| {
            members.retain(|_, m| m.strong_count() > 0);
            let memory = Budget::new(self.memory.limit() / SHARE);
            let fresh = Arc::new(Member { memory, quota: Mutex::new(Quota::new(self.rate)) });
            members.insert((mesh, member), Arc::downgrade(&fresh));
            fresh
        });
        Arc::new(Desk {
            conn,
            member,
            queue: Mutex::default(),
            owed: Mutex::default(),
            overfull: AtomicBool::new(false),
            wake: Notify::new(),
        })
    }
}

/// A record on its way, and the memory that it takes.
struct Parcel {
    message: Bytes,
    _held: [Reservation; 2],
}

/// What waits to be written to one socket.
pub(crate) struct Desk {
    conn: ConnId,
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
    fn give(&self, stream: StreamId, to: PublicKey, bytes: u64) {
        let mut owed = lock(&self.owed);
        let none = !owed.is_any();
        let due = owed.give(stream, to, bytes);
        if owed.is_overfull() {
            self.overfull.store(true, Ordering::Relaxed);
        }
        drop(owed);
        if due || none {
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
            sender.give(line.stream, line.to, bytes);
        }
    }

    /// Waits until something is to be written; whether that is all credit, even if it is little.
    pub(super) async fn ready(&self, tick: impl Fn() -> u64) -> bool {
        loop {
            if lock(&self.queue).streams() > 0 {
                return false;
            }
            let (some, due) = {
                let owed = lock(&self.owed);
                if owed.has_notices() {
                    return false;
                }
                (owed.is_any(), owed.is_due())
            };
            let wait = Duration::from_millis(lock(&self.member.quota).wait(tick()));
            if due && wait.is_zero() {
                return false;
            }
            let woken = self.wake.notified();
            if !some {
                woken.await;
                continue;
            }
            tokio::select! {
                () = woken => {}
                () = sleep(wait.max(if due { Duration::ZERO } else { LINGER })) => {
                    if lock(&self.member.quota).wait(tick()) == 0 {
                        return true;
                    }
                }
            }
        }
    }

    /// Writes what is owed, and up to so many records.
    pub(super) async fn write(
        &self,
        sink: &mut Sink,
        metrics: &Metrics,
        now: u64,
        flush: bool,
        records: usize,
    ) -> Result<(), WsError> {
        let paid = lock(&self.member.quota).wait(now) == 0;
        let (notices, credit) = {
            let mut owed = lock(&self.owed);
            let due = paid && (flush || owed.is_due());
            (owed.notices(), due.then(|| owed.take()))
        };
        for notice in notices {
            sink.feed(Message::Binary(notice)).await?;
        }
        for (stream, to, bytes) in credit.into_iter().flatten() {
            let credit = Carry::Credit { stream, to, bytes }.encode();
            sink.feed(Message::Binary(credit.into())).await?;
        }
        for _ in 0..records {
            let next = {
                let mut queue = lock(&self.queue);
                let streams = queue.streams();
                let next = queue.pop();
                if queue.streams() < streams {
                    metrics.streams_waiting.dec();
                }
                next
            };
            let Some((parcel, line, sender, len)) = next else { break };
            metrics.stream_bytes_queued.dec_by(gauge(len));
            metrics.stream_records.inc();
            metrics.relayed(Cause::STREAM).inc_by(len);
            // Before it is written: a socket that ends meanwhile must not keep the sender's credit.
            sender.give(line.stream, line.to, len);
            sink.feed(Message::Binary(parcel.message.clone())).await?;
            drop(parcel);
        }
        Ok(())
    }
}

fn gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Where one socket's records go, as of the registry's last change.
#[derive(Default)]
pub(super) struct Routes {
    epoch: u64,
    known: HashMap<Way, Result<Arc<Desk>, Gone>>,
}

impl Routes {
    fn find(&mut self, conn: &Shared, way: &Way) -> Result<Arc<Desk>, Gone> {
        // Before the look: what changes after it is seen next time.
        let epoch = conn.inner.registry.epoch();
        if self.epoch != epoch || self.known.len() >= ROUTES {
            (self.epoch, self.known) = (epoch, HashMap::new());
        }
        if let Some(known) = self.known.get(way) {
            return known.clone();
        }
        if !conn.inner.take_answer(conn.mesh, conn.member) {
            // Too many to look up: this one may be, in a moment.
            return Err(Gone::Away);
        }
        let found = look_up(conn, way);
        self.known.insert(*way, found.clone());
        found
    }
}

fn look_up(conn: &Shared, way: &Way) -> Result<Arc<Desk>, Gone> {
    let registry = &conn.inner.registry;
    if !registry.speaks_for(conn.id, &way.from) || may_write(conn, &way.from).is_err() {
        return Err(Gone::Forbidden);
    }
    match registry.holder(&conn.mesh, &way.to) {
        Some(holder) => holder.bulk.ok_or(Gone::Unable),
        None if registry.online(&conn.mesh, &way.to) => Err(Gone::Away),
        None => Err(Gone::Offline),
    }
}

/// What [`take`] is for: a message that is no frame, on a connection with a desk.
pub(super) fn concerns<'a>(
    conn: &'a Shared,
    message: &'a Message,
) -> Option<(&'a Arc<Desk>, &'a Bytes)> {
    match message {
        Message::Binary(bytes) if is_carry(bytes) => Some((conn.handle.bulk.as_ref()?, bytes)),
        _ => None,
    }
}

/// What became of a message that is no frame.
pub(super) enum Taken {
    /// All that was to be done.
    Done,
    /// As [`Self::Done`], but its node does not read what it is told of its records.
    Deaf,
}

/// Takes a message that is no frame.
///
/// # Errors
/// [`BadCarry`]: no node says that to a broker.
pub(super) fn take(
    conn: &Shared,
    desk: &Arc<Desk>,
    routes: &mut Routes,
    message: &Bytes,
) -> Result<Taken, BadCarry> {
    match Carry::parse(message)? {
        Carry::Record { way, header } => {
            record(conn, desk, routes, way, header.stream, message);
        }
        Carry::Unknown { way, .. } => {
            if let Ok(to) = routes.find(conn, &way)
                && conn.inner.take_answer(conn.mesh, conn.member)
            {
                to.notice(Bytes::copy_from_slice(message));
            }
        }
        _ => return Err(BadCarry::Kind(message.first().copied().unwrap_or_default())),
    }
    Ok(if desk.overfull.load(Ordering::Relaxed) { Taken::Deaf } else { Taken::Done })
}

fn record(
    conn: &Shared,
    desk: &Arc<Desk>,
    routes: &mut Routes,
    way: Way,
    stream: StreamId,
    message: &Bytes,
) {
    let (inner, metrics) = (&conn.inner, &conn.inner.metrics);
    let len = u64::try_from(message.len().saturating_sub(FRONT)).unwrap_or(u64::MAX);
    lock(&desk.member.quota).charge(len, inner.tick());
    let dropped = |cause, reason: Option<Gone>| {
        metrics.dropped_records(cause).inc();
        if let Some(reason) = reason {
            let gone = Carry::Gone { stream, to: way.to, reason };
            desk.notice(gone.encode().into());
        }
        desk.give(stream, way.to, len);
    };
    let to = match routes.find(conn, &way) {
        Ok(to) => to,
        Err(reason) => return dropped(Cause::of(reason), Some(reason)),
    };
    let charge = len.saturating_add(OVERHEAD);
    let held = desk.member.memory.reserve(charge);
    let held = held.and_then(|own| Some([own, inner.bulk.memory.reserve(charge)?]));
    let Some(held) = held else { return dropped(Cause::MEMORY, None) };
    let small = message.len() < SMALL;
    let message = if small { Bytes::copy_from_slice(message) } else { message.clone() };
    let untold = lock(&desk.owed).untold(stream, way.to);
    let line = Line { sender: desk.conn, stream, to: way.to };
    let pushed = {
        let mut queue = lock(&to.queue);
        let streams = queue.streams();
        let pushed = queue.push(line, desk, Parcel { message, _held: held }, len, untold);
        // Under the lock, so that they never count less than what is taken off again.
        if pushed.is_ok() {
            metrics.stream_bytes_queued.inc_by(gauge(len));
        }
        if queue.streams() > streams {
            metrics.streams_waiting.inc();
        }
        pushed
    };
    match pushed {
        Ok(true) => to.wake.notify_one(),
        Ok(false) => {}
        Err(Refused::Full) => dropped(Cause::WINDOW, None),
        Err(Refused::Closed) => dropped(Cause::ENDED, Some(Gone::Away)),
    }
}

/// Records that are written when other things have been.
pub(super) const BESIDE: usize = 1;
/// Records that are written when nothing else waits.
pub(super) const ALONE: usize = RECORDS;
