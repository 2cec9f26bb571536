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

mod attempt;
mod carry;
mod hear;
mod report;
mod run;

pub(super) use hear::hear;
pub(super) use run::run;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use meshwire_signaling::envelope::Channel;
use meshwire_signaling::frame::feature;
use meshwire_signaling::id::Blob;
use meshwire_signaling::p2p::Attempts;
use meshwire_signaling::{Hash, PublicKey, Target};
use meshwire_transport::direct::{Adapter, DirectPath, PathInfo, Reach};
use meshwire_transport::link::{LinkError, MessageLink};
use meshwire_transport::net::random;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use self::attempt::Running;
use super::events::Event;
use super::mesh::Mesh;
use crate::path::hedge::{MessageKey, patience};
use crate::path::machine::{AttemptId, Now};
use crate::path::select::{Direct, Recipient};
use crate::path::{
    Action, Cause, Event as Happened, Facts, Hedger, Machine, PathMode, Tally, Via, select_path,
};
use crate::store::OutboxMeta;

/// Pairs that are remembered; beyond them the idle ones are forgotten.
const MAX_PAIRS: usize = 4_096;
/// Attempts of all peers whose steps are remembered.
const MAX_ATTEMPTS: usize = 4_096;
/// How long a path that was replaced may still bring acks, at most.
const GRACE: Duration = Duration::from_secs(1);

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
        let before = pair.hedger.deadline(rtt);
        match taken {
            false => pair.hedger.handed(now, message),
            true => pair.hedger.taken(now, message),
        }
        let after = pair.hedger.deadline(rtt);
        // One that comes later is found when the earlier one has come.
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
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

    /// When a pair wants something; late messages only with a relay that could take them.
    fn deadline(&self, relay: bool) -> Option<Instant> {
        let state = self.lock();
        let due = |pair: &Pair| {
            let live = pair.live.as_ref().filter(|_| relay);
            let hedge = live.and_then(|l| pair.hedger.deadline(l.rtt()));
            [pair.machine.deadline(), hedge].into_iter().flatten().min()
        };
        state.pairs.values().filter_map(due).min()
    }

    /// Ends everything; the paths say so.
    pub(super) async fn close(&self) {
        let (links, mut tasks) = {
            let mut state = self.lock();
            state.closed = true;
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
    /// What carries a message now; seeks a direct path where that is worth it.
    pub(super) fn carrier(self: &Arc<Self>, meta: &OutboxMeta) -> Carrier {
        let peer = match meta.target {
            Target::Member { key } => key,
            Target::Session { .. } | Target::Service { .. } => match meta.member {
                Some(member) => member,
                None => return self.relay_or_none(),
            },
            _ => return self.relay_or_none(),
        };
        if peer == self.row.self_key || self.paths.adapter.is_none() {
            return self.relay_or_none();
        }
        let mut state = self.paths.lock();
        let Some(pair) = state.pair(&self.row.self_key, &peer) else {
            return self.relay_or_none();
        };
        if pair.relay.contains(&(meta.author, meta.id)) && self.relay_up() {
            return Carrier::Relay { avoidable: true };
        }
        let choice = select_path(&self.facts(&peer, pair.machine.direct()));
        if choice.negotiate {
            let todo = pair.machine.handle(self.moment(), Happened::Wanted);
            self.act(&mut state, &peer, todo);
        } else if choice.via == Via::Direct {
            let todo = pair.machine.handle(self.moment(), Happened::Traffic);
            debug_assert!(todo.is_empty());
        } else if pair.machine.direct() == Direct::BackingOff {
            let todo = pair.machine.handle(self.moment(), Happened::Wanted);
            debug_assert!(todo.is_empty());
        }
        match choice.via {
            Via::Direct => match state.pairs.get(&peer).and_then(|p| p.live.as_ref()) {
                Some(live) => Carrier::Direct(DirectCarrier {
                    link: live.link.clone(),
                    alive: live.alive.subscribe(),
                }),
                None => self.relay_or_none(),
            },
            Via::Relay => Carrier::Relay { avoidable: choice.why.is_avoidable() },
            Via::Wait => Carrier::None,
        }
    }

    fn relay_or_none(&self) -> Carrier {
        if self.relay_up() { Carrier::Relay { avoidable: false } } else { Carrier::None }
    }

    /// Whether the relay takes messages now.
    pub(super) fn relay_up(&self) -> bool {
        self.is_up() && self.link.is_up()
    }

    fn facts(&self, peer: &PublicKey, direct: Direct) -> Facts {
        let recipient = match self.peer_view(peer) {
            None => Recipient::Unknown,
            Some(view) if view.online => Recipient::Online { direct: true },
            Some(_) => Recipient::Offline,
        };
        Facts {
            channel: Channel::Dm,
            mode: self.paths.mode,
            ours: self.paths.adapter.is_some() && self.broker_has(feature::P2P) != Some(false),
            recipient,
            direct,
            relay: self.relay_up(),
        }
    }

    fn moment(&self) -> Now {
        let fresh = random(self.services.net.as_ref());
        Now { at: Instant::now(), unix: self.now(), fresh }
    }

    /// Something happened to the pair with `peer`.
    pub(super) fn path_event(self: &Arc<Self>, peer: &PublicKey, event: Happened) {
        let mut state = self.paths.lock();
        let Some(pair) = state.pair(&self.row.self_key, peer) else { return };
        let quiet = matches!(event, Happened::Traffic);
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
        let todo = pair.machine.handle(self.moment(), Happened::PeerBack);
        self.act(&mut state, peer, todo);
    }

    /// The same to all pairs that are remembered.
    pub(super) fn path_event_all(self: &Arc<Self>, event: &Happened) {
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
            let event = if silent { Happened::NetworkChanged } else { Happened::RelayUp };
            let todo = pair.machine.handle(self.moment(), event);
            self.act(&mut state, &peer, todo);
        }
    }

    /// Does what a machine wants.
    fn act(self: &Arc<Self>, state: &mut State, peer: &PublicKey, todo: Vec<Action>) {
        for action in todo {
            let Some(pair) = state.pairs.get_mut(peer) else { return };
            match action {
                Action::Offer(id) => {
                    pair.running = attempt::start(self, &mut state.tasks, peer, id, None);
                }
                Action::Answer(id) => {
                    let offer = pair.offered.take();
                    pair.running = attempt::start(self, &mut state.tasks, peer, id, offer);
                }
                Action::Abandon { attempt, cause, tell } => {
                    let Some(running) = pair.running.take_if(|r| r.id == attempt) else { continue };
                    if tell {
                        state.spawn(running.bye(self.clone(), *peer, cause));
                    }
                }
                Action::Promote(id) => self.promote(state, peer, id),
                Action::Close(cause) => {
                    if let Some(live) = pair.live.take() {
                        pair.hedger.begin();
                        self.tell_path(peer, None, Some(cause));
                        let mesh = self.clone();
                        let peer = *peer;
                        state.spawn(async move { live.end(&mesh, &peer).await });
                    }
                }
            }
        }
        self.paths.changed.notify_one();
    }

    /// Messages go over this try's connection from now on.
    fn promote(self: &Arc<Self>, state: &mut State, peer: &PublicKey, id: AttemptId) {
        let Some(pair) = state.pairs.get_mut(peer) else { return };
        let Some(running) = pair.running.take_if(|r| r.id == id) else { return };
        let Some((DirectPath { link, events, info }, talk)) = running.into_path() else { return };
        self.tell_path(peer, Some(&info.borrow()), None);
        let (alive, _) = watch::channel(());
        let grace = pair.live.as_ref().map_or(GRACE, |old| patience(old.rtt()).min(GRACE));
        let watching = carry::watch(self.clone(), info.clone());
        let old = pair.live.replace(Live { talk, link: link.clone(), info, alive });
        pair.hedger.begin();
        pair.relay.clear();
        let carrying = carry::run(self.clone(), *peer, id, link, events);
        state.spawn(async move {
            tokio::select! {
                biased;
                () = carrying => {}
                () = watching => {}
            }
        });
        if let Some(old) = old {
            let (mesh, peer) = (self.clone(), *peer);
            state.spawn(async move {
                tokio::time::sleep(grace).await;
                old.end(&mesh, &peer).await;
            });
        }
        let (mesh, peer) = (self.clone(), *peer);
        state.spawn(async move { mesh.hasten(&peer).await });
        self.wake.notify_one();
    }

    fn tell_path(&self, peer: &PublicKey, info: Option<&PathInfo>, cause: Option<Cause>) {
        tracing::info!(
            target: "meshwire::events::path",
            mesh = %self.id().short(), peer = %peer.short(), up = info.is_some(),
            reach = info.map(|i| i.reach.as_str()), cause = cause.map(Cause::as_str)
        );
        if matches!(cause, Some(Cause::LateAcks | Cause::Silent)) {
            // What has befallen it may have befallen the relay's connection, which is needed now.
            self.link.doubt();
        }
        let reach = info.map(|i| i.reach);
        self.services.tell(Event::Path { mesh: self.id(), peer: *peer, reach, cause });
    }

    /// What another path has put off goes by the new one now. The broker refuses mail for half a minute
    /// once too much of it waits, and the recipient would hold back for that time what comes after it.
    async fn hasten(&self, peer: &PublicKey) {
        match self.store().hasten(&self.id(), peer, self.now()).await {
            Ok(0) => {}
            Ok(_) => self.wake.notify_one(),
            Err(e) => tracing::error!(error = %e, "what waits cannot be sent any sooner"),
        }
    }

    /// What a direct path took and nobody acked goes out again, over whatever is up.
    pub(super) async fn resend(&self, peer: &PublicKey) {
        match self.store().unsend(&self.id(), Some(peer)).await {
            Ok(0) => {}
            Ok(_) => self.wake.notify_one(),
            Err(e) => tracing::error!(error = %e, "what a direct path lost cannot be sent again"),
        }
    }
}
