//! The task behind an attempt.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use meshwire_signaling::Hash;
use quinn::{ClientConfig, Connecting, ServerConfig, VarInt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::{AttemptEvent, Command, Dial, Registered, Role};
use crate::quic::candidates::{
    Candidate, CandidateKind, MAX_REFLEXIVE, MAX_RELAYED, host_candidates,
};
use crate::quic::conn::{Pair, PairKind, QuicConn};
use crate::quic::demux;
use crate::quic::gather::{Gathered, Reflexive};
use crate::quic::ice::{Agent, Credentials, Way};
use crate::quic::node::Shared;
use crate::quic::routes::{Id, Route, Stun};
use crate::quic::tls::SERVER_NAME;
use crate::quic::{Description, QuicError};

/// Checks whose answers are waited for. At one per 5 ms and 200 ms between repetitions this is two
/// rounds of all pairs.
const OUTSTANDING: usize = 128;
/// Handshakes at once. One is right; the others are forged, or a client that tries again.
const HANDSHAKES: usize = 4;
/// Candidates that came before the description.
const EARLY: usize = 20;
/// How long a closed connection's packets still find their way (three times a slow path's timeout,
/// RFC 9000 section 10.2).
const LINGER: Duration = Duration::from_secs(1);
/// STUN messages that wait for the attempt.
const STUN: usize = 64;

pub(super) struct Driver {
    registered: Registered,
    dial: Dial,
    agent: Agent,
    known: watch::Receiver<Gathered>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<AttemptEvent>,
    stun: (mpsc::Sender<Stun>, mpsc::Receiver<Stun>),
    peer: Option<Hash>,
    early: Vec<Candidate>,
    outstanding: VecDeque<[u8; 12]>,
    way: Option<Way>,
    silent: bool,
    pair: watch::Sender<Option<Pair>>,
    handshakes: FuturesUnordered<Connecting>,
    connection: Option<quinn::Connection>,
    /// Somebody may still command.
    held: bool,
}

impl Driver {
    pub(super) fn new(
        shared: &Arc<Shared>,
        id: Id,
        dial: Dial,
        agent: Agent,
        known: watch::Receiver<Gathered>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<AttemptEvent>,
    ) -> Self {
        Self {
            registered: Registered { shared: Arc::clone(shared), id },
            dial,
            agent,
            known,
            commands,
            events,
            stun: mpsc::channel(STUN),
            peer: None,
            early: Vec::new(),
            outstanding: VecDeque::new(),
            way: None,
            silent: false,
            pair: watch::Sender::new(None),
            handshakes: FuturesUnordered::new(),
            connection: None,
            held: true,
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.registered.shared
    }

    /// Makes the attempt known to those who deliver to it.
    pub(super) fn register(&self, ufrag: &str, commands: &mpsc::Sender<Command>) {
        let id = self.registered.id;
        self.shared().mux.routes.add(id, ufrag, self.stun.0.clone());
        self.shared().register(id, commands.downgrade());
    }

    pub(super) async fn run(mut self) {
        let deadline = Instant::now() + self.dial.timeout;
        match Box::pin(self.drive(deadline)).await {
            // The way stays open for the farewell, and for repeating it.
            Ok(()) => sleep(LINGER).await,
            Err(e) => drop(self.events.send(AttemptEvent::Failed(e)).await),
        }
        self.shared().mux.routes.forget(&self.outstanding);
    }

    async fn drive(&mut self, deadline: Instant) -> Result<(), QuicError> {
        loop {
            // Whatever else keeps us busy.
            if self.connection.is_none() && Instant::now() >= deadline {
                return Err(QuicError::NoPath(self.dial.timeout));
            }
            let wake = self.settle()?;
            let wake = if self.connection.is_none() { wake.min(deadline) } else { wake };
            let connection = self.connection.clone();
            let closed = async {
                let Some(connection) = connection else { return std::future::pending().await };
                // Datagrams are no more than nudges; unread ones would pile up.
                while connection.read_datagram().await.is_ok() {}
            };
            tokio::select! {
                biased;
                command = self.commands.recv(), if self.held => match command {
                    Some(Command::Abort) => match &self.connection {
                        Some(connection) => connection.close(VarInt::from_u32(0), b"aborted"),
                        None => return Err(QuicError::Aborted),
                    },
                    Some(command) => self.obey(command)?,
                    None if self.connection.is_none() => return Err(QuicError::Aborted),
                    None => self.held = false,
                },
                Some(stun) = self.stun.1.recv() => self.hear(&stun),
                changed = self.known.changed() => match changed {
                    Ok(()) => {
                        for candidate in self.regather() {
                            let _ = self.events.try_send(AttemptEvent::Candidate(candidate));
                        }
                    }
                    Err(_) => return Err(QuicError::Closed),
                },
                Some(done) = self.handshakes.next() => self.shaken(done).await?,
                () = closed => return Ok(()),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), QuicError> {
        match command {
            Command::Remote(peer) if self.peer.is_none() => self.set_remote(peer),
            Command::Candidate(candidate) if self.peer.is_some() => {
                let _ = self.agent.add_remote(&candidate);
            }
            Command::Candidate(candidate) if self.early.len() < EARLY => {
                self.early.push(candidate);
            }
            Command::Incoming(incoming) => self.accept(*incoming)?,
            Command::Remote(_) | Command::Candidate(_) | Command::Abort => {}
        }
        Ok(())
    }

    fn set_remote(&mut self, peer: Description) {
        self.peer = Some(peer.tls);
        let creds = Credentials { ufrag: peer.ufrag, pwd: peer.pwd };
        self.agent.set_remote(now(), &creds);
        for candidate in peer.candidates.iter().chain(&std::mem::take(&mut self.early)) {
            let _ = self.agent.add_remote(candidate);
        }
    }

    fn hear(&mut self, stun: &Stun) {
        let mut way = stun.way;
        if way.local.ip().is_unspecified() {
            let hosts = self.agent.locals(CandidateKind::Host);
            let Some(host) = hosts.into_iter().find(|h| h.is_ipv4() == way.local.is_ipv4()) else {
                return;
            };
            way.local = host;
        }
        if self.agent.handle(now(), way, &stun.bytes) {
            self.shared().mux.routes.add_source(self.registered.id, way.remote);
        }
    }

    /// Lets the agent do what is due, and says when to come again.
    fn settle(&mut self) -> Result<Instant, QuicError> {
        // Without the peer's password there is nothing to check, and requests wait.
        if self.peer.is_some() && self.agent.poll_timeout(now()) <= now() {
            self.agent.handle_timeout(now());
        }
        while let Some(message) = self.agent.poll_transmit() {
            if demux::is_request(&message.bytes)
                && let Some(transaction) = demux::transaction(&message.bytes)
            {
                self.shared().mux.routes.expect(transaction, &self.stun.0);
                self.outstanding.push_back(transaction);
                if self.outstanding.len() > OUTSTANDING {
                    let oldest = self.outstanding.pop_front();
                    self.shared().mux.routes.forget(&oldest);
                }
            }
            self.send(message.way, &message.bytes);
        }
        self.reroute();
        if self.dial.role == Role::Controlling
            && self.connection.is_none()
            && self.handshakes.is_empty()
            && self.agent.is_open()
            && self.way.is_some()
        {
            self.connect()?;
        }
        if self.peer.is_none() {
            return Ok(Instant::now() + self.dial.timeout);
        }
        Ok(Instant::from_std(self.agent.poll_timeout(now())))
    }

    fn send(&self, way: Way, bytes: &[u8]) {
        let mux = &self.shared().mux;
        match self.route(way) {
            Some(Route::Relayed(relay, peer)) => {
                if let Some(wrapped) = relay.wrap(peer, bytes) {
                    mux.send(relay.local().ip(), relay.server(), &wrapped);
                }
            }
            Some(Route::Direct(way)) => mux.send(way.local.ip(), way.remote, bytes),
            None => {}
        }
    }

    fn route(&self, way: Way) -> Option<Route> {
        match self.agent.kinds(way).0? {
            CandidateKind::Relayed => {
                let known = self.known.borrow();
                let relay = known.relays.iter().find(|r| r.relayed() == Some(way.local))?;
                Some(Route::Relayed(Arc::clone(relay), way.remote))
            }
            _ => Some(Route::Direct(way)),
        }
    }

    /// Tells the socket and the watchers when packets are to go another way.
    fn reroute(&mut self) {
        let way = self.agent.route(now());
        let silent = self.agent.is_silent(now());
        let better = way != self.way || (self.silent && !silent);
        if way != self.way {
            self.way = way;
            let route = way.and_then(|way| self.route(way));
            self.shared().mux.routes.set_route(self.registered.id, route);
        }
        let was_silent = std::mem::replace(&mut self.silent, silent);
        if let Some(connection) = self.connection.as_ref().filter(|_| better) {
            // QUIC knows nothing of the new way and may wait for seconds before it repeats itself. An
            // empty datagram makes it send now, and what the answer does not mention is lost.
            let _ = connection.send_datagram(Default::default());
        }
        // A candidate that comes late may explain an address that is in use already.
        let pair = way.map(|way| self.describe(way));
        self.pair.send_if_modified(|old| std::mem::replace(old, pair) != pair);
        if self.connection.is_some() && silent {
            self.shared().wanted.silence.notify_one();
            if !was_silent {
                self.shared().wanted.doubt();
            }
        }
    }

    fn describe(&self, way: Way) -> Pair {
        let kind = match self.agent.kinds(way) {
            (Some(CandidateKind::Relayed), _) | (_, Some(CandidateKind::Relayed)) => {
                PairKind::Relayed
            }
            (_, Some(CandidateKind::Host)) => PairKind::Host,
            (_, Some(CandidateKind::Mapped | CandidateKind::Reflexive)) => PairKind::Reflexive,
            (_, None) => PairKind::PeerReflexive,
        };
        Pair { local: way.local, remote: way.remote, kind, silent: self.silent }
    }

    /// Brings the agent's own candidates up to date; says which ones are new.
    pub(super) fn regather(&mut self) -> Vec<Candidate> {
        let known = self.known.borrow_and_update().clone();
        let mux = &self.registered.shared.mux;
        let mut wanted: BTreeMap<SocketAddr, (CandidateKind, SocketAddr, u16)> = BTreeMap::new();
        let mut want = |kind, addr, base, rank: usize| {
            let rank = u16::try_from(rank).unwrap_or(u16::MAX);
            wanted.entry(addr).or_insert((kind, base, rank));
        };
        if !self.registered.shared.relayed_only && !self.dial.relayed_only {
            let hosts = host_candidates(&known.interfaces, self.dial.loopback);
            for (rank, ip) in hosts.iter().enumerate() {
                if let Some(port) = mux.port(*ip) {
                    let addr = SocketAddr::new(*ip, port);
                    want(CandidateKind::Host, addr, addr, rank);
                }
            }
            let offered = |r: &&Reflexive| hosts.contains(&r.base.ip());
            if let Some(mapped) = known.mapped.as_ref().filter(offered) {
                want(CandidateKind::Mapped, mapped.addr, mapped.base, 0);
            }
            let reflexive = known.reflexive.iter().filter(offered).take(MAX_REFLEXIVE);
            for (rank, r) in reflexive.enumerate() {
                want(CandidateKind::Reflexive, r.addr, r.base, rank);
            }
        }
        for (rank, relay) in known.relays.iter().take(MAX_RELAYED).enumerate() {
            if let Some(relayed) = relay.relayed() {
                want(CandidateKind::Relayed, relayed, relay.local(), rank);
            }
        }
        let kinds = [
            CandidateKind::Host,
            CandidateKind::Mapped,
            CandidateKind::Reflexive,
            CandidateKind::Relayed,
        ];
        let have: Vec<SocketAddr> = kinds.into_iter().flat_map(|k| self.agent.locals(k)).collect();
        for gone in have.into_iter().filter(|addr| !wanted.contains_key(addr)) {
            self.agent.remove_local(gone);
        }
        let mut new: Vec<Candidate> = wanted
            .into_iter()
            .filter_map(|(addr, (kind, base, rank))| self.agent.add_local(kind, addr, base, rank))
            .collect();
        new.sort_by_key(|c| std::cmp::Reverse(c.priority));
        new
    }

    fn connect(&mut self) -> Result<(), QuicError> {
        let Some(peer) = self.peer else { return Ok(()) };
        let shared = self.shared();
        let mut config = ClientConfig::new(shared.identity.client(peer)?);
        config.transport_config(Arc::clone(&shared.transport));
        let to = self.registered.id.address();
        let connecting = shared.endpoint.connect_with(config, to, SERVER_NAME)?;
        self.handshakes.push(connecting);
        Ok(())
    }

    fn accept(&mut self, incoming: quinn::Incoming) -> Result<(), QuicError> {
        let expected = self.dial.role == Role::Controlled && self.connection.is_none();
        let Some(peer) = self.peer.filter(|_| expected && self.handshakes.len() < HANDSHAKES)
        else {
            incoming.ignore();
            return Ok(());
        };
        let mut config = ServerConfig::with_crypto(self.shared().identity.server(peer)?);
        config.transport_config(Arc::clone(&self.shared().transport));
        config.migration(false);
        if let Ok(connecting) = incoming.accept_with(Arc::new(config)) {
            self.handshakes.push(connecting);
        }
        Ok(())
    }

    async fn shaken(
        &mut self,
        done: Result<quinn::Connection, quinn::ConnectionError>,
    ) -> Result<(), QuicError> {
        let connection = match done {
            Ok(connection) => connection,
            Err(e) if self.dial.role == Role::Controlling => return Err(e.into()),
            // Somebody else's, perhaps: the peer's may still come.
            Err(_) => return Ok(()),
        };
        let Some(peer) = self.peer.filter(|_| self.connection.is_none()) else { return Ok(()) };
        self.handshakes.clear();
        self.connection = Some(connection.clone());
        let conn = QuicConn::new(connection, peer, self.pair.subscribe());
        if self.events.send(AttemptEvent::Connected(conn)).await.is_err() {
            return Err(QuicError::Aborted);
        }
        Ok(())
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
