//! QUIC over ICE as a [`crate::direct::Adapter`]: what is said and heard in a negotiation.

mod servers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::future::BoxFuture;
use meshwire_signaling::MeshId;
use meshwire_signaling::frame::{P2pKind, TurnServers};
use meshwire_signaling::id::Blob;
use meshwire_signaling::p2p::quic::{self as wire, Content, Params};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Duration, timeout};

use self::servers::found;
use super::attempt::Attempt as Attempted;
use super::candidates::{Candidate, CandidateKind};
use super::conn::{Accepted, Pair, PairKind, QuicConn};
use super::guess::Ports;
use super::link::{Ends, QuicLink};
use super::node::QuicNode;
use super::records::Carried;
use super::servers::Servers;
use super::{AttemptEvent, AttemptHandle, Description, Dial, QuicError, Role};
use crate::direct::{
    Adapter, Attempt, Begin, CarriedRecords, DirectPath, FindStream, PathInfo, Reach,
    RecordCarrier, Signal, Stage,
};
use crate::net::Net;
use crate::queue;
use crate::stream::Live;

/// Words of a peer that wait, and signals that nobody has taken.
const QUEUE: usize = 32;
/// How long the first words on a connection may take.
const HELLO: Duration = Duration::from_secs(5);
/// What to say when ports were guessed in vain, for people.
const MISSED: &str = "one router shows another port to each peer, and guessing it came to nothing; it is \
    guessed again after 10 minutes, and a port that either router forwards helps at once";

/// See the module's documentation.
#[derive(Debug)]
pub struct QuicAdapter {
    net: Arc<dyn Net>,
    node: Arc<QuicNode>,
    /// Who resolves the names of a mesh's servers.
    resolving: Mutex<BTreeMap<MeshId, AbortHandle>>,
}

impl QuicAdapter {
    /// For a node that runs.
    #[must_use]
    pub fn new(net: Arc<dyn Net>, node: Arc<QuicNode>) -> Self {
        Self { net, node, resolving: Mutex::default() }
    }
}

impl Adapter for QuicAdapter {
    fn name(&self) -> &'static str {
        wire::ADAPTER
    }

    fn begin(&self, begin: Begin) -> Attempt {
        let (hear, heard) = queue::channel(QUEUE);
        let (signal, signals) = queue::channel(QUEUE);
        let (net, node, outside) = (self.net.clone(), self.node.clone(), Outside::default());
        let talk = Talk { net, node, begin, heard, signal, outside };
        tokio::spawn(talk.run());
        Attempt { hear, signals }
    }

    fn set_servers(&self, mesh: MeshId, servers: TurnServers) {
        let mut resolving = self.resolving.lock().unwrap_or_else(PoisonError::into_inner);
        resolving.retain(|_, task| !task.is_finished());
        if let Some(older) = resolving.remove(&mesh) {
            older.abort();
        }
        if servers.stun.is_empty() && servers.servers.is_empty() {
            self.node.set_servers(Some(mesh), Servers::default());
            return;
        }
        let (net, node) = (self.net.clone(), self.node.clone());
        let task = tokio::spawn(async move {
            let servers = found(net.as_ref(), &servers).await;
            node.set_servers(Some(mesh), servers);
        });
        resolving.insert(mesh, task.abort_handle());
    }

    fn network(&self) -> watch::Receiver<u64> {
        self.node.network()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.node.close())
    }
}

/// One negotiation.
struct Talk {
    net: Arc<dyn Net>,
    node: Arc<QuicNode>,
    begin: Begin,
    heard: queue::Receiver<(P2pKind, Blob)>,
    signal: queue::Sender<Signal>,
    outside: Outside,
}

/// Which side has shown an address beyond its own network: who has none has its UDP blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outside {
    ours: bool,
    theirs: bool,
}

impl Outside {
    fn shows(kind: CandidateKind) -> bool {
        kind != CandidateKind::Host
    }

    /// Why no pair of addresses let anything through, for people.
    fn verdict(self) -> &'static str {
        match (self.ours, self.theirs) {
            (false, true) => {
                "no STUN server answered this machine, whose network seems to block UDP"
            }
            (true, false) => {
                "the peer has no address beyond its own network, which seems to block UDP"
            }
            (false, false) => {
                "neither side has an address beyond its own network: both block UDP, or the broker's \
                 port 3478 cannot be reached"
            }
            (true, true) => {
                "UDP works on both sides, but their routers let nothing of each other in"
            }
        }
    }
}

/// Why a negotiation ended.
enum Over {
    Failed(Stage, String),
    /// Nobody listens any more.
    Dropped,
}

impl From<QuicError> for Over {
    fn from(e: QuicError) -> Self {
        let stage = match e {
            QuicError::Quic(_) | QuicError::Connect(_) | QuicError::Tls(_) => Stage::Handshake,
            QuicError::Description => Stage::Peer,
            _ => Stage::Pairs,
        };
        Self::Failed(stage, e.to_string())
    }
}

impl Talk {
    async fn run(mut self) {
        match self.negotiate().await {
            Ok(path) => {
                let _ = self.signal.send(Signal::Connected(path)).await;
            }
            Err(Over::Failed(stage, detail)) => {
                let detail = match stage {
                    Stage::Pairs => self.outside.verdict().to_owned(),
                    _ => detail,
                };
                let _ = self.signal.send(Signal::Failed { stage, detail }).await;
            }
            Err(Over::Dropped) => {}
        }
    }

    async fn say(&self, content: Content) -> Result<(), Over> {
        let (kind, content) = (content.kind(), Blob(content.encode()));
        self.signal.send(Signal::Say { kind, content }).await.map_err(|_| Over::Dropped)
    }

    async fn negotiate(&mut self) -> Result<DirectPath, Over> {
        // Which key is lower decides, whoever offers: both know it before a word is said.
        let controlling = self.begin.me.0 < self.begin.peer.0;
        let role = if controlling { Role::Controlling } else { Role::Controlled };
        let mut dial = Dial::new(role);
        dial.mesh = Some(self.begin.mesh);
        dial.loopback = self.begin.loopback;
        dial.relayed_only = self.begin.hide;
        dial.direct_only = self.begin.better && controlling;
        dial.guess = Some(self.begin.peer);
        let mut attempt = self.node.dial(dial)?;
        let handle = attempt.handle();
        let params = params(attempt.local(), self.begin.hide);
        self.outside.ours = attempt.local().candidates.iter().any(|c| Outside::shows(c.kind));
        if self.begin.offers {
            self.say(Content::Offer(params)).await?;
        } else {
            let (kind, content) = self.heard.recv().await.ok_or(Over::Dropped)?;
            self.outside.theirs |= Self::hear(&handle, kind, &content).await?;
            self.say(Content::Answer(params)).await?;
        }
        let conn = loop {
            tokio::select! {
                biased;
                heard = self.heard.recv() => {
                    let Some((kind, content)) = heard else {
                        handle.abort().await;
                        return Err(Over::Dropped);
                    };
                    self.outside.theirs |= Self::hear(&handle, kind, &content).await?;
                }
                event = attempt.next() => match event {
                    Some(AttemptEvent::Candidate(candidate)) => {
                        self.outside.ours |= Outside::shows(candidate.kind);
                        let candidates = vec![to_wire(&candidate)];
                        let more = wire::Candidates { candidates, ..Default::default() };
                        self.say(Content::Candidate(more)).await?;
                    }
                    Some(AttemptEvent::Connected(conn)) => break conn,
                    Some(AttemptEvent::Failed(e)) => return Err(e.into()),
                    Some(AttemptEvent::Ports(_) | AttemptEvent::Missed) => {}
                    None => return Err(QuicError::Closed.into()),
                },
            }
        };
        let path = timeout(HELLO, self.link(&conn, controlling)).await;
        let slow = || Over::Failed(Stage::Handshake, "the peer said nothing on it".to_owned());
        let (link, events) = path.map_err(|_| slow())??;
        let (info, now) = watch::channel(look(&conn));
        tokio::spawn(watch_path(conn, info));
        let (_, nothing) = queue::channel(1);
        let heard = std::mem::replace(&mut self.heard, nothing);
        tokio::spawn(trickle(attempt, heard, self.signal.clone()));
        let records: Arc<dyn RecordCarrier> = Arc::new(Records(Arc::downgrade(&link)));
        Ok(DirectPath { link, records: Some(records), events, info: now })
    }

    /// The lower key opens the link for messages, the other accepts it.
    async fn link(
        &self,
        conn: &QuicConn,
        opens: bool,
    ) -> Result<(Arc<QuicLink>, queue::Receiver<crate::link::LinkEvent>), Over> {
        let ends = Ends { mesh: self.begin.mesh, own: self.begin.me, peer: self.begin.peer };
        let failed = |e: &dyn std::fmt::Display| Over::Failed(Stage::Handshake, e.to_string());
        if opens {
            return QuicLink::open(conn, self.net.clone(), ends).await.map_err(|e| failed(&e));
        }
        loop {
            match conn.accept().await.map_err(|e| failed(&e))? {
                Accepted::Messages(offered) if offered.ends() == ends => {
                    return offered.accept(self.net.clone()).await.map_err(|e| failed(&e));
                }
                _ => {}
            }
        }
    }

    /// Takes what the peer said; says whether it has an address beyond its own network.
    async fn hear(handle: &AttemptHandle, kind: P2pKind, content: &Blob) -> Result<bool, Over> {
        let content =
            Content::decode(kind, content).map_err(|e| Over::Failed(Stage::Peer, e.to_string()))?;
        match content {
            Content::Offer(params) | Content::Answer(params) => {
                let Params { ufrag, pwd, tls, candidates, .. } = params;
                let candidates: Vec<Candidate> = candidates.iter().map(from_wire).collect();
                let outside = candidates.iter().any(|c| Outside::shows(c.kind));
                handle.set_remote(Description { ufrag, pwd, tls, candidates }).await?;
                Ok(outside)
            }
            Content::Candidate(more) => {
                let candidates: Vec<Candidate> = more.candidates.iter().map(from_wire).collect();
                let outside = candidates.iter().any(|c| Outside::shows(c.kind));
                for candidate in candidates {
                    handle.add_remote(candidate).await?;
                }
                match more.ports {
                    Some(wire::Ports::Kept) => handle.set_ports(Ports::Kept).await?,
                    Some(wire::Ports::Opened) => handle.set_ports(Ports::Opened).await?,
                    Some(_) | None => {}
                }
                Ok(outside)
            }
            Content::Bye(bye) => Err(Over::Failed(Stage::Peer, bye.reason)),
        }
    }
}

/// Streams on a path's connection. Not what holds it: the link's end is the connection's.
#[derive(Debug)]
struct Records(Weak<QuicLink>);

impl RecordCarrier for Records {
    fn carry(&self, live: &Live) -> Box<dyn CarriedRecords> {
        match self.0.upgrade() {
            Some(link) => Box::new(link.conn().carry(live)),
            None => Box::new(Lost),
        }
    }

    fn serve<'a>(&'a self, find: FindStream<'a>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let conn = self.0.upgrade().map(|link| link.conn().clone());
            if let Some(conn) = conn {
                conn.serve_streams(find).await;
            }
        })
    }
}

impl CarriedRecords for Carried {
    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.ended())
    }
}

/// The connection was lost before.
#[derive(Debug)]
struct Lost;

impl CarriedRecords for Lost {
    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Candidates that are found after the connection are told and taken for as long as there is one: a
/// better pair may be among them.
async fn trickle(
    mut attempt: Attempted,
    mut heard: queue::Receiver<(P2pKind, Blob)>,
    signal: queue::Sender<Signal>,
) {
    let handle = attempt.handle();
    let mut listens = true;
    loop {
        tokio::select! {
            biased;
            word = heard.recv(), if listens => match word {
                Some((P2pKind::Candidate, content)) => {
                    let _ = Talk::hear(&handle, P2pKind::Candidate, &content).await;
                }
                Some(_) => {}
                None => listens = false,
            },
            event = attempt.next() => match event {
                Some(AttemptEvent::Candidate(candidate)) => {
                    let candidates = vec![to_wire(&candidate)];
                    let more = wire::Candidates { candidates, ..Default::default() };
                    say_more(&signal, more).await;
                }
                Some(AttemptEvent::Ports(ports)) => {
                    let ports = Some(match ports {
                        Ports::Kept => wire::Ports::Kept,
                        Ports::Opened => wire::Ports::Opened,
                    });
                    say_more(&signal, wire::Candidates { ports, ..Default::default() }).await;
                }
                Some(AttemptEvent::Missed) => {
                    let _ = signal.send(Signal::Stayed { detail: MISSED.to_owned() }).await;
                }
                Some(_) => {}
                None => return,
            },
        }
    }
}

/// Says more while the path is up. Nobody may listen any more, and the path lives on.
async fn say_more(signal: &queue::Sender<Signal>, more: wire::Candidates) {
    let content = Content::Candidate(more);
    let (kind, content) = (content.kind(), Blob(content.encode()));
    let _ = signal.send(Signal::Say { kind, content }).await;
}

fn params(local: &Description, hide: bool) -> Params {
    Params {
        ufrag: local.ufrag.clone(),
        pwd: local.pwd.clone(),
        tls: local.tls,
        candidates: local.candidates.iter().map(to_wire).collect(),
        relay_only: hide,
        done: false,
    }
}

fn to_wire(c: &Candidate) -> wire::Candidate {
    let (kind, foundation) = match c.kind {
        CandidateKind::Host => (wire::CandidateKind::Host, "h"),
        CandidateKind::Mapped => (wire::CandidateKind::Mapped, "m"),
        CandidateKind::Reflexive => (wire::CandidateKind::Srflx, "s"),
        CandidateKind::Relayed => (wire::CandidateKind::Relayed, "r"),
    };
    // Checks are paced and capped without foundations: they name the kind alone.
    wire::Candidate { kind, addr: c.addr, priority: c.priority, foundation: foundation.to_owned() }
}

fn from_wire(c: &wire::Candidate) -> Candidate {
    let kind = match c.kind {
        wire::CandidateKind::Host => CandidateKind::Host,
        wire::CandidateKind::Mapped => CandidateKind::Mapped,
        wire::CandidateKind::Srflx | wire::CandidateKind::Prflx => CandidateKind::Reflexive,
        wire::CandidateKind::Relayed => CandidateKind::Relayed,
    };
    Candidate { kind, addr: c.addr, priority: c.priority }
}

fn look(conn: &QuicConn) -> PathInfo {
    let stats = conn.stats();
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let (local, remote, reach) = match stats.pair {
        Some(Pair { local, remote, kind, .. }) => (local, remote, reach(kind)),
        None => (nowhere, nowhere, Reach::Nat),
    };
    let silent = stats.pair.is_none_or(|pair| pair.silent);
    PathInfo { reach, local, remote, rtt: stats.rtt, mtu: stats.mtu, silent }
}

fn reach(kind: PairKind) -> Reach {
    match kind {
        PairKind::Host => Reach::Host,
        PairKind::Reflexive | PairKind::PeerReflexive => Reach::Nat,
        PairKind::Guessed => Reach::Guessed,
        PairKind::Relayed => Reach::Relayed,
    }
}

/// Keeps a path's numbers up to date until it ends or nobody looks.
async fn watch_path(conn: QuicConn, info: watch::Sender<PathInfo>) {
    let mut pair = conn.pair();
    loop {
        tokio::select! {
            biased;
            _ = conn.closed() => return,
            () = info.closed() => return,
            Ok(()) = pair.changed() => { pair.borrow_and_update(); }
        }
        let now = look(&conn);
        info.send_if_modified(|old| {
            let differs = *old != now;
            *old = now;
            differs
        });
    }
}
