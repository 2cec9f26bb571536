//! The direct paths of one mesh: the driver of [`crate::path`].
//!
//! ```text
//!   drain ── choose ──► Pair { machine, hedger } ── actions ──► attempt task ══ adapter (QUIC over ICE)
//!                          ▲         ▲                             │  ▲
//!        receipts, p2p frames,       └── connected, failed ────────┘  │ offers, answers, candidates
//!        deadlines, network                                           ▼ sealed, through the broker
//! ```
//!
//! A pair is a peer member's node and ours; sessions ride it. All state is behind one lock, which is
//! never held across an await.

mod act;
mod agenda;
mod attempt;
mod carry;
mod choose;
mod hear;
mod report;
mod run;

pub(super) use hear::hear;
pub(super) use run::run;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use meshwire_signaling::id::Blob;
use meshwire_signaling::p2p::Attempts;
use meshwire_signaling::{Hash, PublicKey};
use meshwire_transport::direct::{Adapter, PathInfo, Reach};
use meshwire_transport::link::{LinkError, MessageLink};
use meshwire_transport::net::random;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use self::agenda::Agenda;
use self::attempt::Running;
use super::mesh::Mesh;
use crate::path::hedge::MessageKey;
use crate::path::machine::{AttemptId, Now};
use crate::path::{Event, Hedger, Machine, PathMode, Tally};

/// Pairs that are remembered; beyond them the idle ones are forgotten.
const MAX_PAIRS: usize = 4_096;
/// Attempts of all peers whose steps are remembered.
const MAX_ATTEMPTS: usize = 4_096;
/// How long all paths together may take to end.
const FAREWELLS: Duration = Duration::from_secs(3);

/// What a path that is up needs.
struct Live {
    /// The try that made it, which still hears of candidates.
    talk: Running,
    link: Arc<dyn MessageLink>,
    info: watch::Receiver<PathInfo>,
    /// Dropped when nothing more is to be expected of the path: see [`DirectCarrier::outlives`].
    alive: watch::Sender<()>,
}

struct Pair {
    machine: Machine,
    hedger: Hedger,
    /// Messages that are to go over the relay, whatever else is up.
    relay: HashSet<MessageKey>,
    live: Option<Live>,
    running: Option<Running>,
    /// The peer's offer that the machine is being asked about.
    offered: Option<(Hash, Blob)>,
}

struct State {
    pairs: HashMap<PublicKey, Pair>,
    agenda: Agenda,
    heard: Attempts,
    tasks: JoinSet<()>,
    tally: Arc<Tally>,
    closed: bool,
}

/// See the module's documentation.
pub(crate) struct Paths {
    adapter: Option<Arc<dyn Adapter>>,
    mode: PathMode,
    tally: Arc<Tally>,
    state: Mutex<State>,
    /// Wakes [`run`]: a deadline may have come closer.
    changed: Notify,
}

impl std::fmt::Debug for Paths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paths").field("adapter", &self.adapter).field("mode", &self.mode).finish()
    }
}

/// A direct path that takes a message.
pub(super) struct DirectCarrier {
    pub(super) link: Arc<dyn MessageLink>,
    alive: watch::Receiver<()>,
}

impl DirectCarrier {
    /// Waits for `work` of the path, unless the path is given up first: a dead one would not say so for
    /// many seconds.
    pub(super) async fn outlives<T>(
        &self,
        work: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let mut alive = self.alive.clone();
        tokio::select! {
            biased;
            done = work => done,
            _ = alive.wait_for(|()| false) => Err(LinkError::Down),
        }
    }
}

/// What carries one message.
pub(super) enum Carrier {
    /// The pair's direct path.
    Direct(DirectCarrier),
    /// The broker. Avoidable: nothing but the networks speaks against a direct path.
    Relay { avoidable: bool },
    /// Nothing now.
    None,
}

impl Paths {
    pub(super) fn new(adapter: Option<Arc<dyn Adapter>>, mode: PathMode) -> Self {
        let tally = Arc::<Tally>::default();
        let state = State {
            pairs: HashMap::new(),
            agenda: Agenda::default(),
            heard: Attempts::new(MAX_ATTEMPTS),
            tasks: JoinSet::new(),
            tally: Arc::clone(&tally),
            closed: false,
        };
        Self { adapter, mode, tally, state: Mutex::new(state), changed: Notify::new() }
    }

    /// What became of the pairs.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What the owner allows.
    pub(super) fn mode(&self) -> PathMode {
        self.mode
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members to whom a direct path is up.
    pub(super) fn reachable(&self) -> Vec<PublicKey> {
        let state = self.lock();
        state.pairs.iter().filter(|(_, p)| p.live.is_some()).map(|(key, _)| *key).collect()
    }

    /// A receipt came, `direct` says whether over the pair's direct path.
    pub(super) fn acked(&self, peer: &PublicKey, message: &MessageKey, direct: bool) {
        if let Some(pair) = self.lock().pairs.get_mut(peer) {
            pair.hedger.acked(Instant::now(), message, direct);
            pair.relay.remove(message);
        }
    }

    /// A message was handed to the direct path, and with `taken` the peer has it.
    pub(super) fn sent(
        &self,
        peer: &PublicKey,
        link: &Arc<dyn MessageLink>,
        message: MessageKey,
        taken: bool,
    ) {
        let mut state = self.lock();
        let Some(pair) = state.pairs.get_mut(peer) else { return };
        if !pair.live.as_ref().is_some_and(|live| Arc::ptr_eq(&live.link, link)) {
            return;
        }
        let (now, rtt) = (Instant::now(), pair.rtt());
        match taken {
            false => pair.hedger.handed(now, message),
            true => pair.hedger.taken(now, message),
        }
        let late = pair.hedger.deadline(rtt);
        // One that comes later is found when the earlier one has come.
        if late.is_some_and(|late| state.agenda.also(*peer, late)) {
            self.changed.notify_one();
        }
    }

    /// The pairs that have a path of their own.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for live in self.lock().pairs.values().filter_map(|pair| pair.live.as_ref()) {
            match live.info.borrow().reach {
                Reach::Relayed => counts.turn += 1,
                _ => counts.direct += 1,
            }
        }
        counts
    }

    /// The median of those paths' round trips, in microseconds.
    pub(super) fn median_rtt_us(&self) -> Option<u64> {
        let state = self.lock();
        let live = state.pairs.values().filter_map(|pair| pair.live.as_ref());
        let mut all: Vec<Duration> = live.map(Live::rtt).collect();
        all.sort_unstable();
        let median = all.get(all.len() / 2)?;
        Some(u64::try_from(median.as_micros()).unwrap_or(u64::MAX))
    }

    /// The path to a peer, if there is one of its own.
    pub(super) fn live(&self, peer: &PublicKey) -> Option<PathInfo> {
        let state = self.lock();
        let info = state.pairs.get(peer)?.live.as_ref()?.info.borrow().clone();
        Some(info)
    }

    /// Whether this is a pair's path now.
    pub(super) fn is_live(&self, peer: &PublicKey, link: &Arc<dyn MessageLink>) -> bool {
        let state = self.lock();
        let live = state.pairs.get(peer).and_then(|pair| pair.live.as_ref());
        live.is_some_and(|live| Arc::ptr_eq(&live.link, link))
    }

    /// When a pair wants something.
    fn deadline(&self) -> Option<Instant> {
        self.lock().agenda.first()
    }

    /// The relay has come or gone: late messages are due only with one that could take them.
    fn replan(&self, relay: bool) {
        let mut state = self.lock();
        let peers: Vec<PublicKey> = state.pairs.keys().copied().collect();
        for peer in peers {
            state.plan(&peer, relay);
        }
    }

    /// Ends everything; the paths say so.
    pub(super) async fn close(&self) {
        let (links, mut tasks) = {
            let mut state = self.lock();
            state.closed = true;
            state.agenda = Agenda::default();
            let links: Vec<_> =
                state.pairs.drain().filter_map(|(_, p)| p.live.map(|l| l.link)).collect();
            (links, std::mem::take(&mut state.tasks))
        };
        let closing = join_all(links.iter().map(|link| link.close()));
        let _ = tokio::time::timeout(FAREWELLS, closing).await;
        tasks.shutdown().await;
    }
}

/// How many of a mesh's pairs have a path of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// From node to node.
    pub(super) direct: u64,
    /// Through a TURN server.
    pub(super) turn: u64,
}

impl Live {
    fn rtt(&self) -> Duration {
        self.info.borrow().rtt
    }

    /// What it has taken and nobody has acked goes another way now; whether the peer hears its farewell
    /// may take a while.
    async fn end(self, mesh: &Mesh, peer: &PublicKey) {
        drop(self.alive);
        mesh.resend(peer).await;
        self.link.close().await;
    }
}

impl Pair {
    /// The try with this name, if it runs or has made the path.
    fn talk(&self, id: &AttemptId) -> Option<&Running> {
        let of_path = self.live.as_ref().map(|live| &live.talk);
        self.running.as_ref().into_iter().chain(of_path).find(|talk| talk.id == *id)
    }

    fn rtt(&self) -> Duration {
        self.live.as_ref().map(Live::rtt).unwrap_or_default()
    }

    fn new(me: &PublicKey, peer: &PublicKey, tally: Arc<Tally>) -> Self {
        Self {
            machine: Machine::new(me, peer, tally),
            hedger: Hedger::default(),
            relay: HashSet::new(),
            live: None,
            running: None,
            offered: None,
        }
    }
}

impl State {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.tasks.spawn(task);
    }

    /// Notes when a pair wants something next; late messages only with a relay that could take them.
    fn plan(&mut self, peer: &PublicKey, relay: bool) {
        let due = self.pairs.get(peer).and_then(|pair| {
            let live = pair.live.as_ref().filter(|_| relay);
            let late = live.and_then(|live| pair.hedger.deadline(live.rtt()));
            [pair.machine.deadline(), late].into_iter().flatten().min()
        });
        self.agenda.enter(*peer, due);
    }

    fn pair(&mut self, me: &PublicKey, peer: &PublicKey) -> Option<&mut Pair> {
        if self.pairs.len() >= MAX_PAIRS && !self.pairs.contains_key(peer) {
            self.pairs.retain(|_, pair| !pair.machine.is_idle());
        }
        if self.closed || self.pairs.len() >= MAX_PAIRS && !self.pairs.contains_key(peer) {
            return None;
        }
        let tally = || Arc::clone(&self.tally);
        Some(self.pairs.entry(*peer).or_insert_with(|| Pair::new(me, peer, tally())))
    }
}

impl Mesh {
    fn moment(&self) -> Now {
        let fresh = random(self.services.net.as_ref());
        Now { at: Instant::now(), unix: self.now(), fresh }
    }

    /// Something happened to the pair with `peer`.
    pub(super) fn path_event(self: &Arc<Self>, peer: &PublicKey, event: Event) {
        let mut state = self.paths.lock();
        let Some(pair) = state.pair(&self.row.self_key, peer) else { return };
        let quiet = matches!(event, Event::Traffic);
        let todo = pair.machine.handle(self.moment(), event);
        // Nothing is due earlier because something came.
        if !quiet || !todo.is_empty() {
            self.act(&mut state, peer, todo);
        }
    }

    /// A peer has come back, which matters only if there is a pair.
    pub(super) fn peer_back(self: &Arc<Self>, peer: &PublicKey) {
        let mut state = self.paths.lock();
        let Some(pair) = state.pairs.get_mut(peer) else { return };
        let todo = pair.machine.handle(self.moment(), Event::PeerBack);
        self.act(&mut state, peer, todo);
    }

    /// The same to all pairs that are remembered.
    pub(super) fn path_event_all(self: &Arc<Self>, event: &Event) {
        let mut state = self.paths.lock();
        let peers: Vec<_> = state.pairs.keys().copied().collect();
        for peer in peers {
            let Some(pair) = state.pairs.get_mut(&peer) else { continue };
            let todo = pair.machine.handle(self.moment(), event.clone());
            self.act(&mut state, &peer, todo);
        }
    }

    /// Offers can travel again. A path that is silent has lost what the relay has lost, and is not waited
    /// for.
    pub(super) fn path_relay_up(self: &Arc<Self>) {
        let mut state = self.paths.lock();
        let peers: Vec<_> = state.pairs.keys().copied().collect();
        for peer in peers {
            let Some(pair) = state.pairs.get_mut(&peer) else { continue };
            let silent = pair.live.as_ref().is_some_and(|live| live.info.borrow().silent);
            let event = if silent { Event::NetworkChanged } else { Event::RelayUp };
            let todo = pair.machine.handle(self.moment(), event);
            self.act(&mut state, &peer, todo);
        }
    }
}
