//! The task behind an attempt.

mod gathering;
mod handshake;
mod sending;
mod upkeep;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use meshwire_signaling::Hash;
use meshwire_signaling::p2p::quic::INITIAL_ID;
use quinn::{Connecting, VarInt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::rhythm::{DEAD, Due, Rhythm};
use super::{AttemptEvent, Command, Dial, Registered, Role};
use crate::queue;
use crate::quic::candidates::{Candidate, CandidateKind};
use crate::quic::conn::{Pair, PairKind, Stir};
use crate::quic::gather::Gathered;
use crate::quic::guess::{End, Guessing, Hit, Travel};
use crate::quic::ice::{Agent, Credentials, Way};
use crate::quic::node::Shared;
use crate::quic::routes::{Id, Stun};
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
/// How often a connection's watchers look at its numbers while something is said.
const LOOK: Duration = Duration::from_secs(5);
/// How long a connection through a server does not rest while there are ports to guess.
const GUESSES: Duration = Duration::from_secs(60);
/// STUN messages that wait for the attempt.
const STUN: usize = 64;

pub(super) struct Driver {
    registered: Registered,
    dial: Dial,
    agent: Agent,
    known: watch::Receiver<Gathered>,
    commands: queue::Receiver<Command>,
    events: queue::Sender<AttemptEvent>,
    stun: (queue::Sender<Stun>, queue::Receiver<Stun>),
    peer: Option<Hash>,
    /// What the client's first packets are addressed to; known as soon as the peer is.
    initial: Option<[u8; INITIAL_ID]>,
    early: Vec<Candidate>,
    outstanding: VecDeque<[u8; 12]>,
    way: Option<Way>,
    silent: bool,
    pair: watch::Sender<Option<Pair>>,
    handshakes: FuturesUnordered<Connecting>,
    connection: Option<quinn::Connection>,
    rhythm: Rhythm,
    stir: Arc<Stir>,
    /// When the connection's watchers were told to look last.
    looked: Instant,
    /// How many of QUIC's datagrams had come when the peer fell silent or this number changed, and when
    /// that was.
    received: (u64, Instant),
    since: Instant,
    guessing: Option<Box<Guessing>>,
    /// The address of the socket of our own, if a port was guessed.
    own: Option<SocketAddr>,
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
        commands: queue::Receiver<Command>,
        events: queue::Sender<AttemptEvent>,
    ) -> Self {
        let hides = shared.relayed_only || dial.relayed_only;
        let guess = dial.guess.filter(|_| !hides && !dial.loopback);
        let rhythm = Rhythm::new(now(), dial.role == Role::Controlling);
        let since = Instant::now();
        Self {
            registered: Registered { shared: Arc::clone(shared), id },
            dial,
            agent,
            known,
            commands,
            events,
            stun: queue::channel(STUN),
            peer: None,
            initial: None,
            early: Vec::new(),
            outstanding: VecDeque::new(),
            way: None,
            silent: false,
            pair: watch::Sender::new(None),
            handshakes: FuturesUnordered::new(),
            connection: None,
            rhythm,
            stir: Arc::default(),
            looked: since,
            received: (0, since),
            since,
            guessing: guess.map(|peer| Box::new(Guessing::new(peer))),
            own: None,
            held: true,
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.registered.shared
    }

    /// Makes the attempt known to those who deliver to it.
    pub(super) fn register(&self, ufrag: &str, commands: &queue::Sender<Command>) {
        let id = self.registered.id;
        self.shared().mux.routes.add(id, ufrag, self.stun.0.clone());
        self.shared().register(id, commands.downgrade());
    }

    pub(super) async fn run(mut self: Box<Self>) {
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
                        self.disturb(false);
                        self.tell_new();
                    }
                    Err(_) => return Err(QuicError::Closed),
                },
                Some(done) = self.handshakes.next() => self.shaken(done).await?,
                end = Guessing::over(&mut self.guessing) => match end {
                    End::Hit(hit) => self.adopt(hit),
                    End::Missed => drop(self.events.try_send(AttemptEvent::Missed)),
                },
                () = closed => return Ok(()),
                () = self.stir.stirred() => self.stirred(),
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Tells the peer of addresses that are new.
    fn tell_new(&mut self) {
        for candidate in self.regather() {
            let _ = self.events.try_send(AttemptEvent::Candidate(candidate));
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), QuicError> {
        match command {
            Command::Remote(peer) if self.peer.is_none() => self.set_remote(peer),
            Command::Candidate(candidate) if self.peer.is_some() => {
                self.disturb(false);
                let _ = self.agent.add_remote(&candidate);
            }
            Command::Candidate(candidate) if self.early.len() < EARLY => {
                self.early.push(candidate);
            }
            Command::Ports(ports) => {
                if let Some(guessing) = &mut self.guessing {
                    guessing.hear(ports);
                }
            }
            Command::Incoming(incoming) => self.accept(*incoming)?,
            Command::Remote(_) | Command::Candidate(_) | Command::Abort => {}
        }
        Ok(())
    }

    fn set_remote(&mut self, peer: Description) {
        self.peer = Some(peer.tls);
        let creds = Credentials { ufrag: peer.ufrag, pwd: peer.pwd };
        // Before the first check is answered, hence before the handshake can begin.
        self.agree(&creds);
        self.agent.set_remote(now(), &creds);
        for candidate in peer.candidates.iter().chain(&std::mem::take(&mut self.early)) {
            let _ = self.agent.add_remote(candidate);
        }
    }

    fn hear(&mut self, stun: &Stun) {
        let mut way = stun.way;
        if way.local.ip().is_unspecified() {
            let hosts = self.agent.locals(CandidateKind::Host);
            let same =
                |h: &SocketAddr| h.is_ipv4() == way.local.is_ipv4() && h.port() == way.local.port();
            let Some(host) = hosts.into_iter().find(same) else { return };
            way.local = host;
        }
        let before = (self.agent.knows(&way), self.agent.nominated());
        if self.agent.handle(now(), way, &stun.bytes) {
            let guessing = self.guessing.as_ref();
            if guessing.is_some_and(|guessing| guessing.expects(way.remote.ip()))
                && self.agent.kinds(way).0 == Some(CandidateKind::Host)
            {
                self.agent.note_guessed(way.remote);
            }
            self.shared().mux.routes.add_source(self.registered.id, way.remote);
            self.answered(&stun.bytes);
            if self.way == Some(way) {
                self.rhythm.heard(now());
            } else if before != (true, self.agent.nominated()) {
                // Checks of another way that has long been known are answered, and no reason to get up: two
                // sides with two ways would keep each other from ever resting. A new one that comes instead of
                // answers is where the peer is now.
                self.disturb(self.rhythm.misses_answers());
            }
        }
    }

    /// A port was guessed: the socket behind it is ours from now on, and the peer's check is the first of
    /// a new pair.
    fn adopt(&mut self, hit: Hit) {
        let Hit { socket, way, bytes } = hit;
        if self.shared().mux.adopt(self.registered.id, socket).is_err() {
            return;
        }
        if let Some(old) = self.own.replace(way.local) {
            self.agent.remove_local(old);
        }
        self.agent.note_guessed(way.local);
        let _ = self.agent.add_local(CandidateKind::Host, way.local, way.local, 0);
        self.hear(&Stun { way, bytes });
    }

    /// Guesses ports if that is due.
    fn guess(&mut self) {
        let travel = match *self.pair.borrow() {
            Some(pair) if self.connection.is_some() && !pair.silent => match pair.is_direct() {
                true => Travel::Direct,
                false => Travel::Relayed,
            },
            _ => Travel::Not,
        };
        let shared = &self.registered.shared;
        let Some(guessing) = &mut self.guessing else { return };
        if let Some(ports) = guessing.look(travel, &self.agent, shared) {
            let _ = self.events.try_send(AttemptEvent::Ports(ports));
        }
    }

    /// Lets the agent do what is due, and says when to come again.
    fn settle(&mut self) -> Result<Instant, QuicError> {
        self.look();
        match self.rhythm.due(now()) {
            Due::Nothing => {}
            Due::Pulse => {
                if let Some(pulse) = self.agent.pulse() {
                    self.say(&pulse);
                }
            }
            Due::Doubt => self.disturb(true),
        }
        // Without the peer's password there is nothing to check, and requests wait.
        let checks = self.peer.is_some() && !self.rhythm.is_resting();
        if checks && self.agent.poll_timeout(now()) <= now() {
            self.agent.handle_timeout(now());
        }
        while let Some(message) = self.agent.poll_transmit() {
            self.say(&message);
        }
        self.reroute();
        self.guess();
        self.rest();
        if let Some(connection) = self.connection.clone().filter(|_| self.is_dead()) {
            connection.close(VarInt::from_u32(0), b"silent");
        }
        if self.dial.role == Role::Controlling
            && self.connection.is_none()
            && self.handshakes.is_empty()
            && self.agent.is_open()
            && self.way.is_some_and(|way| !self.dial.direct_only || self.agent.is_direct(way))
        {
            self.connect()?;
        }
        if self.peer.is_none() {
            return Ok(Instant::now() + self.dial.timeout);
        }
        let wake = match self.rhythm.is_resting() {
            true => self.rhythm.poll_timeout(),
            false => self.agent.poll_timeout(now()),
        };
        let dead = self.agent.last_heard().filter(|_| self.silent).map(|at| at + DEAD);
        let wake = dead.filter(|at| *at > now()).map_or(wake, |at| wake.min(at));
        Ok(Instant::from_std(wake))
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
        let quiet = self.rhythm.is_resting() && !self.rhythm.is_busy();
        let look = !quiet && self.looked.elapsed() >= LOOK;
        if look {
            self.looked = Instant::now();
        }
        self.pair.send_if_modified(|old| std::mem::replace(old, pair) != pair || look);
        if let Some(connection) = self.connection.as_ref().filter(|_| silent) {
            if !was_silent {
                self.received = (connection.stats().udp_rx.datagrams, self.received.1);
                self.shared().wanted.doubt();
            }
            self.shared().wanted.silence.notify_one();
        }
    }

    fn describe(&self, way: Way) -> Pair {
        let kind = match self.agent.kinds(way) {
            (Some(CandidateKind::Relayed), _) | (_, Some(CandidateKind::Relayed)) => {
                PairKind::Relayed
            }
            _ if self.agent.is_guessed(way) => PairKind::Guessed,
            (_, Some(CandidateKind::Host)) => PairKind::Host,
            (_, Some(CandidateKind::Mapped | CandidateKind::Reflexive)) => PairKind::Reflexive,
            (_, None) => PairKind::PeerReflexive,
        };
        Pair { local: way.local, remote: way.remote, kind, silent: self.silent }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
