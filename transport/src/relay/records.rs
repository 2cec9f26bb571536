//! Streams on the broker's WebSocket (`docs/protocol.md` section 25).
//!
//! ```text
//! Live --wake--> woken --> turns --credit?--> writer (a few records, then what else waits)
//! Live <------------------------------------- reader
//! ```
//!
//! Locks are taken in one order: the state, a stream, `woken`. A stream's wake-up may come inside any call to it, so
//! it takes `woken` alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use meshwire_signaling::stream::carry::{BadCarry, Carry, FRONT, Gone, MAX_CARRIED, Way, front};
use meshwire_signaling::{PublicKey, StreamId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::credit::Credit;
use crate::link::PathKind;
use crate::stream::{LinkId, Live, Scheduler, Wake, buffer};

/// Records of streams that are not known here and were not answered yet.
const REPLIES: usize = 16;
/// So many are answered in this time: an honest node sends few, and a hint is all that it is.
const REPLY_TIME: Duration = Duration::from_secs(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All streams of a relay link.
#[derive(Default)]
pub(super) struct Records {
    state: Mutex<State>,
    woken: Mutex<Vec<u64>>,
    ready: Notify,
}

struct Entry {
    live: Live,
    way: Way,
}

#[derive(Default)]
struct State {
    /// The connection, if the broker carries streams on it.
    up: Option<LinkId>,
    last_key: u64,
    streams: HashMap<u64, Entry>,
    /// By stream and its other side.
    keys: HashMap<(StreamId, PublicKey), u64>,
    turns: Scheduler<u64>,
    /// Those that were woken; empty but for a moment.
    waking: Vec<u64>,
    /// Nobody has anything to send, or is allowed to.
    idle: bool,
    credit: Credit<u64>,
    replies: VecDeque<Bytes>,
    answered: Option<(Instant, usize)>,
}

impl State {
    fn find(&self, stream: StreamId, peer: &PublicKey, own: Option<&PublicKey>) -> Option<&Entry> {
        let entry = self.streams.get(self.keys.get(&(stream, *peer))?)?;
        own.is_none_or(|own| entry.way.from == *own).then_some(entry)
    }

    /// Whoever has sent a record of a stream that is not known here learns so, now and then.
    fn reply(&mut self, stream: StreamId, way: Way) {
        let now = Instant::now();
        let (since, count) = self.answered.unwrap_or((now, 0));
        let fresh = now.saturating_duration_since(since) >= REPLY_TIME;
        let (since, count) = if fresh { (now, 0) } else { (since, count) };
        let reply = Bytes::from(Carry::Unknown { way, stream }.encode());
        if count < REPLIES && self.replies.len() < REPLIES && !self.replies.contains(&reply) {
            self.replies.push_back(reply);
            self.answered = Some((since, count + 1));
        }
    }
}

/// A stream on a relay link; dropping it takes the stream off.
#[must_use = "dropping it takes the stream off the link"]
pub struct Carried {
    records: Weak<Records>,
    key: u64,
}

impl std::fmt::Debug for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carried").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let Some(records) = self.records.upgrade() else { return };
        let mut state = lock(&records.state);
        let Some(entry) = state.streams.remove(&self.key) else { return };
        let name = (entry.live.id(), entry.way.to);
        if state.keys.get(&name) == Some(&self.key) {
            state.keys.remove(&name);
        }
        state.turns.remove(&self.key);
        let up = state.up;
        drop(state);
        if let Some(link) = up {
            entry.live.link_down(link);
        }
    }
}

/// Puts a stream that may have something to send in its place.
fn wake(turns: &mut Scheduler<u64>, key: u64, live: &Live, link: LinkId) {
    let (priority, pressing) = live.turn(link);
    turns.wake(key, priority);
    if pressing {
        turns.press(key);
    }
}

impl Records {
    /// Puts a stream on the link, on each connection that there will be.
    pub(super) fn carry(self: &Arc<Self>, live: Live, way: Way) -> Carried {
        let mut state = lock(&self.state);
        state.last_key += 1;
        let key = state.last_key;
        state.keys.insert((live.id(), way.to), key);
        if let Some(link) = state.up {
            live.link_up(link, PathKind::Relay, None, self.wake(key));
        }
        state.streams.insert(key, Entry { live, way });
        Carried { records: Arc::downgrade(self), key }
    }

    fn wake(self: &Arc<Self>, key: u64) -> Wake {
        let records = Arc::downgrade(self);
        Arc::new(move || {
            if let Some(records) = records.upgrade() {
                lock(&records.woken).push(key);
                records.ready.notify_one();
            }
        })
    }

    /// There is a connection on which the broker carries streams.
    pub(super) fn up(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        let link = LinkId::fresh();
        lock(&self.woken).clear();
        (state.up, state.turns, state.idle) = (Some(link), Scheduler::new(), false);
        (state.credit, state.answered) = (Credit::default(), None);
        state.replies.clear();
        for (key, entry) in &state.streams {
            entry.live.link_up(link, PathKind::Relay, None, self.wake(*key));
        }
    }

    /// The connection is lost.
    pub(super) fn down(&self) {
        let mut state = lock(&self.state);
        let Some(link) = state.up.take() else { return };
        for entry in state.streams.values() {
            entry.live.link_down(link);
        }
    }

    /// Whether the broker carries streams on this connection.
    pub(super) fn is_up(&self) -> bool {
        lock(&self.state).up.is_some()
    }

    /// Waits until [`Self::next`] may have something.
    pub(super) async fn ready(&self) {
        loop {
            {
                let state = lock(&self.state);
                let work =
                    !state.idle || !state.replies.is_empty() || !lock(&self.woken).is_empty();
                if state.up.is_some() && work {
                    return;
                }
            }
            self.ready.notified().await;
        }
    }

    /// The next message to send, in `buffer`, which is used again if nobody else holds it any more.
    pub(super) fn next(&self, buffer: &mut Bytes) -> Option<Bytes> {
        let mut state = lock(&self.state);
        let link = state.up?;
        if let Some(reply) = state.replies.pop_front() {
            return Some(reply);
        }
        let State { turns, waking, streams, credit, idle, .. } = &mut *state;
        std::mem::swap(waking, &mut lock(&self.woken));
        for key in waking.drain(..) {
            let Some(Entry { live, .. }) = streams.get(&key) else { continue };
            wake(turns, key, live, link);
        }
        loop {
            let next = turns.next(|key| {
                let Entry { live, way } = streams.get(key)?;
                let len = live.transmit_len(link)?;
                let bytes = u64::try_from(len).unwrap_or(u64::MAX);
                credit.room(live.id(), way.to, bytes, *key).then_some(len)
            });
            let Some(key) = next else {
                *idle = true;
                return None;
            };
            *idle = false;
            let Some(Entry { live, way }) = streams.get(&key) else { continue };
            let Some(record) = live.poll_transmit(link) else { continue };
            let bytes = u64::try_from(record.len()).unwrap_or(u64::MAX);
            credit.spend(live.id(), way.to, bytes, Instant::now());
            let mut message = match std::mem::take(buffer).try_into_mut() {
                Ok(mut used) if used.capacity() >= MAX_CARRIED => {
                    used.clear();
                    used
                }
                _ => BytesMut::with_capacity(MAX_CARRIED),
            };
            message.put_slice(&front(way));
            message.put_slice(&record);
            *buffer = message.freeze();
            return Some(buffer.clone());
        }
    }

    /// Takes a message that is no frame.
    ///
    /// # Errors
    /// [`BadCarry`]: it is dropped, and has changed nothing.
    pub(super) fn receive(&self, message: &[u8]) -> Result<(), BadCarry> {
        let mut state = lock(&self.state);
        let Some(link) = state.up else { return Ok(()) };
        match Carry::parse(message)? {
            Carry::Record { way, header } => {
                let entry = state.find(header.stream, &way.from, Some(&way.to));
                let Some(live) = entry.map(|e| e.live.clone()) else {
                    state.reply(header.stream, Way { from: way.to, to: way.from });
                    drop(state);
                    self.ready.notify_one();
                    return Ok(());
                };
                drop(state);
                let bytes = message.get(FRONT..).unwrap_or_default();
                let mut record = buffer(bytes.len());
                record.extend_from_slice(bytes);
                // A rejected one has changed nothing; the stream has counted it.
                let _ = live.receive(link, record);
            }
            Carry::Credit { stream, to, bytes } => {
                let blocked = state.credit.give(stream, to, bytes, Instant::now());
                if !blocked.is_empty() {
                    state.idle = false;
                    for key in blocked {
                        let State { turns, streams, .. } = &mut *state;
                        if let Some(Entry { live, .. }) = streams.get(&key) {
                            wake(turns, key, live, link);
                        }
                    }
                    drop(state);
                    self.ready.notify_one();
                }
            }
            Carry::Gone { stream, to, reason: Gone::Offline | Gone::Unable } => {
                let live = state.find(stream, &to, None).map(|e| e.live.clone());
                drop(state);
                if let Some(live) = live {
                    live.hint_gone();
                }
            }
            Carry::Unknown { way, stream } => {
                let live = state.find(stream, &way.from, Some(&way.to)).map(|e| e.live.clone());
                drop(state);
                if let Some(live) = live {
                    live.hint_gone();
                }
            }
            // The recipient may come back, or this identity be bound in a moment.
            _ => {}
        }
        Ok(())
    }
}
