//! The streams of one mesh: those that live, and opens that nobody has taken yet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwire_signaling::{PublicKey, StreamId};
use meshwire_transport::direct::RecordCarrier;
use meshwire_transport::link::PathKind;
use meshwire_transport::stream::Live;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::handle::StreamHandle;
use crate::core::inbox::Opening;
use crate::core::streams::Gatekeeper;

/// Streams that live.
pub(super) const MAX_STREAMS: usize = 8_192;
/// Of these, with one member and its sessions.
pub(super) const MAX_PER_MEMBER: usize = 4_096;
/// Opens that wait for somebody who accepts them.
const MAX_WAITING: usize = 4_096;
/// Of these, by one member and its sessions.
const MAX_WAITING_PER_MEMBER: usize = 2_048;
/// Refusals that are being said. One more ends the oldest of whoever has the most.
const MAX_REFUSALS: usize = 1_024;
/// Of these, to one member and its sessions. One more ends the oldest of them.
const MAX_REFUSALS_PER_MEMBER: usize = MAX_REFUSALS / 4;

/// What carries records on a peer's direct path.
pub(super) type Way = Arc<dyn RecordCarrier>;

/// What a stream is called here: its id, and whether we have opened it. Two identities of one node may have both of
/// its sides.
pub(super) type Key = (StreamId, bool);

struct Entry {
    handle: StreamHandle,
    /// It only says no.
    refusal: bool,
    /// Bytes written and received at the last look.
    seen: u64,
    /// Whether it came before another.
    order: u64,
}

/// Bytes that streams have moved, by the path in use, in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Over the relay.
    pub(crate) relay: u64,
    /// Over direct paths, TURN servers' among them.
    pub(crate) direct: u64,
}

#[derive(Default)]
struct State {
    living: HashMap<Key, Entry>,
    waiting: VecDeque<Box<Opening>>,
    ways: HashMap<PublicKey, watch::Sender<Option<Way>>>,
    gate: Gatekeeper,
    moved: Moved,
    /// How many have been taken in.
    order: u64,
    tasks: JoinSet<()>,
    closed: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Streams {
    state: Mutex<State>,
    /// There is a first stream.
    some: Notify,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("living", &self.lock().living.len()).finish_non_exhaustive()
    }
}

/// Why a stream is not taken into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The node closes.
    Closed,
    /// There are too many.
    TooMany,
    /// It is there already.
    Known,
}

/// What became of an open that came in.
pub(super) enum Queued {
    /// It waits for somebody.
    Waiting,
    /// There is no room for it.
    Busy(Box<Opening>),
    /// A stream with this id lives, or the node closes.
    Dropped,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `task` until it or the mesh ends.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.lock();
        if !state.closed {
            while state.tasks.try_join_next().is_some() {}
            state.tasks.spawn(task);
        }
    }

    /// Takes a stream in.
    pub(super) fn insert(&self, handle: StreamHandle, refusal: bool) -> Result<(), Full> {
        let mut state = self.lock();
        if state.closed {
            return Err(Full::Closed);
        }
        let info = handle.info();
        let key = (info.id, info.opened);
        if state.living.contains_key(&key) {
            return Err(Full::Known);
        }
        let mut ended = None;
        if refusal {
            ended = state.refusal_to_end(&info.member);
        } else if state.living.len() >= MAX_PER_MEMBER {
            let living = || state.living.values().filter(|e| !e.refusal);
            let of = |e: &&Entry| e.handle.info().member == info.member;
            if living().count() >= MAX_STREAMS || living().filter(of).count() >= MAX_PER_MEMBER {
                return Err(Full::TooMany);
            }
        }
        state.order += 1;
        let order = state.order;
        state.living.insert(key, Entry { handle, refusal, seen: 0, order });
        let ended = ended.and_then(|key| state.living.remove(&key));
        drop(state);
        if let Some(Entry { handle, .. }) = ended {
            // It has been reset before: that is the end of it.
            handle.live().hint_gone();
        }
        self.some.notify_one();
        Ok(())
    }

    /// Takes out a stream that is over.
    pub(super) fn remove(&self, key: &Key) {
        let mut state = self.lock();
        // A refusal that made room has left before, and another stream may have its key.
        let over = state.living.get(key).is_some_and(|e| e.handle.live().is_over());
        if let Some(mut entry) = over.then(|| state.living.remove(key)).flatten() {
            entry.count(&mut state.moved);
        }
    }

    /// The stream of ours that a peer's direct path brings: only one that we have opened, with that very peer.
    pub(super) fn find(&self, id: &StreamId, member: &PublicKey) -> Option<Live> {
        let state = self.lock();
        let handle = &state.living.get(&(*id, true))?.handle;
        (handle.info().member == *member).then(|| handle.live().clone())
    }

    /// All that live, as far as they are streams to who looks.
    pub(super) fn list(&self) -> Vec<StreamHandle> {
        let state = self.lock();
        state.living.values().filter(|e| e.is_stream()).map(|e| e.handle.clone()).collect()
    }

    /// How many live, and what all have moved.
    pub(crate) fn figures(&self) -> (usize, Moved) {
        let mut state = self.lock();
        state.count();
        (state.living.values().filter(|e| e.is_stream()).count(), state.moved)
    }

    /// Whether the node closes.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    // ---- opens ----

    /// Whether an open by `member`, or by what it vouches for, is looked at now.
    pub(super) fn admit(&self, member: &PublicKey) -> bool {
        self.lock().gate.admit(member, Instant::now())
    }

    /// Lets an open wait for somebody who accepts it.
    pub(super) fn queue(&self, opening: Box<Opening>) -> Queued {
        let mut state = self.lock();
        let id = opening.open.stream;
        let known = state.living.contains_key(&(id, false));
        if state.closed || known || state.waiting.iter().any(|o| o.open.stream == id) {
            return Queued::Dropped;
        }
        let of = state.waiting.iter().filter(|o| o.member == opening.member).count();
        if state.waiting.len() >= MAX_WAITING || of >= MAX_WAITING_PER_MEMBER {
            return Queued::Busy(opening);
        }
        state.waiting.push_back(opening);
        Queued::Waiting
    }

    /// The first open that waits and fits.
    pub(super) fn dequeue(&self, fits: impl Fn(&Opening) -> bool) -> Option<Box<Opening>> {
        let mut state = self.lock();
        let at = state.waiting.iter().position(|o| fits(o))?;
        state.waiting.remove(at)
    }

    // ---- direct paths ----

    /// What carries records to `member` directly, as it comes and goes.
    pub(super) fn way(&self, member: &PublicKey) -> watch::Receiver<Option<Way>> {
        let mut state = self.lock();
        state.ways.entry(*member).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// A direct path to `member` carries records until what this returns is dropped, or another path does.
    pub(super) fn way_up(self: &Arc<Self>, member: PublicKey, way: &Way) -> WayUp {
        let mut state = self.lock();
        // What nobody looks at and is not up is forgotten.
        state.ways.retain(|_, w| w.receiver_count() > 0 || w.borrow().is_some());
        let sender = state.ways.entry(member).or_insert_with(|| watch::Sender::new(None));
        sender.send_replace(Some(way.clone()));
        WayUp { streams: self.clone(), member, way: way.clone() }
    }

    // ---- time ----

    /// Waits until there are streams.
    pub(super) async fn some(&self) {
        while self.lock().living.is_empty() {
            self.some.notified().await;
        }
    }

    /// The members with whom streams have moved bytes since the last look.
    pub(super) fn busy(&self) -> HashSet<PublicKey> {
        self.lock().count()
    }

    /// Ends streams whose own identity `is_ours` no more.
    pub(super) fn end_others(&self, is_ours: impl Fn(&PublicKey) -> bool) {
        let gone = |h: &StreamHandle| !is_ours(&h.info().own);
        for handle in self.list().into_iter().filter(gone) {
            handle.reset(meshwire_signaling::stream::code::NONE, "its session has ended");
        }
    }

    /// Forgets all streams.
    pub(super) fn clear(&self) {
        self.lock().living.clear();
    }

    /// Takes no more; says what there is, and what looks after it.
    pub(super) fn shut(&self) -> (Vec<Live>, JoinSet<()>) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        let lives = state.living.values().map(|e| e.handle.live().clone()).collect();
        (lives, std::mem::take(&mut state.tasks))
    }
}

impl State {
    /// The refusal that makes room for another one to `member`, if there are as many as may be.
    fn refusal_to_end(&self, member: &PublicKey) -> Option<Key> {
        if self.living.len() < MAX_REFUSALS_PER_MEMBER {
            return None;
        }
        let mut counts: HashMap<PublicKey, usize> = HashMap::new();
        let refusals = || self.living.iter().filter(|(_, e)| e.refusal);
        for (_, entry) in refusals() {
            *counts.entry(entry.handle.info().member).or_default() += 1;
        }
        let own = counts.get(member).is_some_and(|n| *n >= MAX_REFUSALS_PER_MEMBER);
        let most = || counts.iter().max_by_key(|(_, n)| **n).map(|(member, _)| *member);
        let all = counts.values().sum::<usize>() >= MAX_REFUSALS;
        let whose = if own { Some(*member) } else { most().filter(|_| all) }?;
        let of = refusals().filter(|(_, e)| e.handle.info().member == whose);
        of.min_by_key(|(_, e)| e.order).map(|(key, _)| *key)
    }

    /// Counts what was moved since the last time; with whom.
    fn count(&mut self) -> HashSet<PublicKey> {
        let mut members = HashSet::new();
        for entry in self.living.values_mut() {
            if entry.count(&mut self.moved) {
                members.insert(entry.handle.info().member);
            }
        }
        members
    }
}

impl Entry {
    /// Whether it is a stream to who looks. What only says no is none, and neither is what we opened and was refused or
    /// given up before it was accepted: it stays for what the other side may yet say of it.
    fn is_stream(&self) -> bool {
        let live = self.handle.live();
        !self.refusal && (live.is_accepted() || live.error().is_none())
    }

    /// Counts what was moved since the last time; whether something was.
    fn count(&mut self, moved: &mut Moved) -> bool {
        let stats = self.handle.stats();
        let now = stats.written.saturating_add(stats.received);
        let new = now.saturating_sub(self.seen);
        self.seen = now;
        match stats.path {
            Some(PathKind::Quic) => moved.direct = moved.direct.saturating_add(new),
            _ => moved.relay = moved.relay.saturating_add(new),
        }
        new > 0
    }
}

/// A direct path that carries records.
pub(super) struct WayUp {
    streams: Arc<Streams>,
    member: PublicKey,
    way: Way,
}

impl Drop for WayUp {
    fn drop(&mut self) {
        let state = self.streams.lock();
        if let Some(sender) = state.ways.get(&self.member) {
            sender.send_if_modified(|now| {
                let same = now.as_ref().is_some_and(|w| Arc::ptr_eq(w, &self.way));
                if same {
                    *now = None;
                }
                same
            });
        }
    }
}
