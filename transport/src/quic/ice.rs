//! ICE for one attempt: `is`' agent, kept on a short leash. No I/O, no clock.
//!
//! Call order: [`Agent::new`], local candidates, [`Agent::set_remote`] and remote candidates in any
//! order; then after everything that went in (`handle_*`, `add_*`), drain [`Agent::poll_transmit`]
//! and look at [`Agent::route`] and [`Agent::poll_timeout`].
//!
//! What is added to the agent:
//! - Caps. A peer's candidates pass a [`Screen`]; so do addresses from which its checks come, and
//!   there is a cap on those: the agent would answer each with checks of its own, to wherever the
//!   source address points. The checks of the first seconds are counted.
//! - Timing. Short retransmissions while paths open (an answer is on its way through the broker while
//!   the first checks die at a NAT), long ones once they are open.
//! - A route before nomination: where the peer was last heard.
//! - No detour. A check through a relay that comes before its candidate does looks like a very good
//!   address of the peer's own (its PRIORITY is a peer-reflexive one, RFC 8445 section 7.1.1), and the
//!   controlled side would move there from a direct pair. It stays with one that works.
//! - A route around silence: the agent stays with a nominated pair for up to 15 s after it died, for
//!   the controlled side until the peer says otherwise. When the peer is heard elsewhere and that way
//!   works, packets go there.
//! - Rest. A pair that works is left alone while [`Agent::rest`] holds: nothing is checked, and
//!   [`Agent::pulse`] makes single checks of it on demand.
//! - What checks show of the routers, and ways that were guessed ([`super::guess`]).

mod seen;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use is::stun::{StunMessage, StunPacket, TransId};
use is::{
    DefaultSha1HmacProvider, IceAgent, IceAgentEvent, IceCreds, Protocol, Sha1HmacProvider as _,
};

use super::candidates::{Candidate, CandidateKind, MAX_CANDIDATES, Refusal, Screen};
use super::guess::Mapping;
use super::pace::Unanswered;

/// The time between two checks of one attempt (RFC 8445 section 14.2 allows no less than 5 ms).
const PACE: Duration = Duration::from_millis(5);
/// First retransmission of a check. 250 ms, the usual value, are seen as a tail of exactly that.
const FIRST_RTO: Duration = Duration::from_millis(50);
/// Longest time between two checks of a pair while paths open: what an answer that is late by a trip
/// through the broker costs at most.
const OPENING_RTO: Duration = Duration::from_millis(200);
/// How long paths open at most.
const OPENING: Duration = Duration::from_secs(6);
/// How often an unanswered check is sent while paths open: all of [`OPENING`].
const OPENING_TRIES: usize = 32;
/// Checks of one attempt while paths open; then only what has been answered goes on. An offer with
/// twenty addresses of a victim costs it no more than this; see also [`super::pace`].
const OPENING_CHECKS: usize = 400;
/// How often an open pair is checked (consent, RFC 7675, wants 5 s).
const KEEPALIVE: Duration = Duration::from_millis(2500);
/// Checks without answer, ever faster and over about eight seconds, after which a pair is dead.
const TRIES: usize = 9;
/// Most pairs: the best of 20 × 20.
const PAIRS: usize = 60;
/// Most addresses that one peer may send checks from. NATs make a new one now and then.
const SOURCES: usize = 32;
/// Most addresses that one peer may say to see us at.
const MAPPED: usize = 32;
/// A selected pair that has not been heard for this long yields to one that has: a bit more than
/// [`KEEPALIVE`], by which a live one is heard.
const SILENCE: Duration = Duration::from_millis(3200);
/// Most ends of guessed ways that are remembered, the latest.
const GUESSED: usize = 4;
/// How long an answer takes at most on a way that works.
const GRACE: Duration = Duration::from_millis(1200);
/// The PRIORITY of a check through a relay that nobody has named.
const RELAY_PRIORITY: u32 = 0xffff << 8 | 255;
/// The PRIORITY of a probe: of an address that nobody has named (RFC 8445 section 5.1.2.2).
const PROBE_PRIORITY: u32 = (110 << 24) | (0xffff << 8) | 255;

/// An ICE user fragment and password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) ufrag: String,
    pub(super) pwd: String,
}

/// From where to where packets go. `local` is an own socket's address, or a relayed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Way {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// A STUN message to send.
pub(super) struct Message {
    pub(super) way: Way,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Agent {
    inner: IceAgent,
    screen: Screen,
    /// The local preference of the candidate that is being added.
    rank: Arc<AtomicU32>,
    /// Own candidates in the agent, and how they were made.
    locals: BTreeMap<SocketAddr, (CandidateKind, Box<is::Candidate>)>,
    remotes: BTreeMap<SocketAddr, CandidateKind>,
    mapped: Vec<SocketAddr>,
    heard: HashMap<Way, Instant>,
    last: Option<Way>,
    nominated: Option<Way>,
    /// What was nominated before, the latest last.
    nominations: Vec<Way>,
    opening_ends: Option<Instant>,
    checks: usize,
    unanswered: Unanswered,
    tie_breaker: u64,
    /// How our router maps the socket at this own address.
    mapping: Option<(Mapping, SocketAddr)>,
    /// Ends of ways that were guessed, ours or the peer's.
    guessed: Vec<SocketAddr>,
    /// The way in use while nothing is checked.
    resting: Option<Way>,
    /// The way that was in use at rest, and how long it counts for alive without having been heard again.
    grace: Option<(Way, Instant)>,
    /// The last check of a resting way, until it is answered: repeated, it is the same.
    pulse: Option<Vec<u8>>,
}

impl Agent {
    /// An agent without candidates. `tie_breaker` is random.
    pub(super) fn new(
        own: &Credentials,
        controlling: bool,
        tie_breaker: u64,
        screen: Screen,
    ) -> Self {
        let creds = IceCreds { ufrag: own.ufrag.clone(), pass: own.pwd.clone() };
        let mut inner = IceAgent::new(creds);
        inner.set_controlling(controlling);
        inner.set_control_tie_breaker(tie_breaker);
        inner.set_timing_advance(PACE);
        inner.set_initial_stun_rto(FIRST_RTO);
        inner.set_max_stun_rto(OPENING_RTO);
        inner.set_max_stun_retransmits(OPENING_TRIES);
        inner.set_max_candidate_pairs(PAIRS);
        let rank = Arc::<AtomicU32>::default();
        let added = Arc::clone(&rank);
        inner.set_local_preference(move |_: &is::Candidate, _: usize| added.load(Relaxed));
        Self {
            inner,
            screen,
            rank,
            locals: BTreeMap::new(),
            remotes: BTreeMap::new(),
            mapped: Vec::new(),
            heard: HashMap::new(),
            last: None,
            nominated: None,
            nominations: Vec::new(),
            opening_ends: None,
            checks: 0,
            unanswered: Unanswered::default(),
            tie_breaker,
            mapping: None,
            guessed: Vec::new(),
            resting: None,
            grace: None,
            pulse: None,
        }
    }

    /// Adds an own candidate: `rank` 0 is the best of its kind, `base` the own socket's address behind
    /// it, which is a host candidate or a relayed one itself: checks to other addresses are ignored. Says what to tell the peer; none when it is known already or makes no sense.
    pub(super) fn add_local(
        &mut self,
        kind: CandidateKind,
        addr: SocketAddr,
        base: SocketAddr,
        rank: u16,
    ) -> Option<Candidate> {
        if self.locals.contains_key(&addr) {
            return None;
        }
        let candidate = match kind {
            CandidateKind::Host => is::Candidate::host(addr, Protocol::Udp),
            CandidateKind::Mapped | CandidateKind::Reflexive => {
                is::Candidate::server_reflexive(addr, base, Protocol::Udp)
            }
            CandidateKind::Relayed => is::Candidate::relayed(addr, base, Protocol::Udp),
        };
        // Mapped ports above other reflexive ones: no filter is in front of them.
        let best = if kind == CandidateKind::Reflexive { 0x7fff } else { 0xffff };
        let preference = u32::from(u16::saturating_sub(best, rank));
        self.rank.store(preference, Relaxed);
        let added = self.inner.add_local_candidate(candidate.ok()?)?.clone();
        let priority = added.prio();
        self.locals.insert(addr, (kind, Box::new(added)));
        Some(Candidate { kind, addr, priority })
    }

    /// Forgets an own candidate and all pairs with it.
    pub(super) fn remove_local(&mut self, addr: SocketAddr) {
        let Some((kind, candidate)) = self.locals.remove(&addr) else { return };
        if matches!(kind, CandidateKind::Host | CandidateKind::Reflexive) {
            // Another network, or another router.
            self.mapping = None;
        }
        self.inner.invalidate_candidate(&candidate);
        self.heard.retain(|way, _| way.local != addr);
        self.last = self.last.filter(|way| way.local != addr);
        self.nominated = self.nominated.filter(|way| way.local != addr);
        self.nominations.retain(|way| way.local != addr);
    }

    /// Our candidates of a kind.
    pub(super) fn locals(&self, kind: CandidateKind) -> Vec<SocketAddr> {
        self.locals.iter().filter(|(_, (k, _))| *k == kind).map(|(addr, _)| *addr).collect()
    }

    /// Our half: user fragment and password.
    pub(super) fn credentials(&self) -> [&str; 2] {
        let own = self.inner.local_credentials();
        [&own.ufrag, &own.pass]
    }

    /// The peer's half; from now on there are checks.
    pub(super) fn set_remote(&mut self, now: Instant, peer: &Credentials) {
        let creds = IceCreds { ufrag: peer.ufrag.clone(), pass: peer.pwd.clone() };
        self.inner.set_remote_credentials(creds);
        self.opening_ends.get_or_insert(now + OPENING);
    }

    /// Takes a candidate of the peer, or says why not.
    pub(super) fn add_remote(&mut self, candidate: &Candidate) -> Result<(), Refusal> {
        self.screen.take(candidate)?;
        let kind = match candidate.kind {
            CandidateKind::Host => is::CandidateKind::Host,
            CandidateKind::Mapped | CandidateKind::Reflexive => is::CandidateKind::ServerReflexive,
            CandidateKind::Relayed => is::CandidateKind::Relayed,
        };
        // The agent takes two candidates for equal that have the same foundation and address.
        let foundation = self.remotes.len().to_string();
        let priority = candidate.priority.clamp(1, i32::MAX.unsigned_abs());
        let addr = candidate.addr;
        let parts = is::Candidate::from_parts(
            foundation,
            1,
            Protocol::Udp,
            priority,
            addr,
            kind,
            None,
            None,
            None,
        );
        self.inner.add_remote_candidate(parts);
        self.remotes.insert(addr, candidate.kind);
        Ok(())
    }

    /// Takes a STUN message that came to `way.local` from `way.remote`. Says whether it was the peer's.
    pub(super) fn handle(&mut self, now: Instant, way: Way, bytes: &[u8]) -> bool {
        let Ok(message) = StunMessage::parse(bytes) else { return false };
        if !self.bounded(way, &message) {
            return false;
        }
        if self.answers_pulse(way, &message, bytes) {
            self.heard.insert(way, now);
            return true;
        }
        let (source, destination) = (way.remote, way.local);
        let answer = message.is_successful_binding_response();
        let seen = answer.then(|| message.mapped_address());
        let packet = StunPacket { proto: Protocol::Udp, source, destination, message };
        if !self.inner.handle_packet(now, packet) {
            return false;
        }
        match super::demux::transaction(bytes).filter(|_| answer) {
            Some(transaction) => self.unanswered.answered(source.ip(), transaction),
            None => self.unanswered.heard(source.ip()),
        }
        if self.heard.contains_key(&way) || self.heard.len() < SOURCES {
            self.heard.insert(way, now);
            self.last = Some(way);
        }
        if let Some(seen) = seen.flatten() {
            self.learn_mapping(way, seen);
        }
        self.drain_events();
        true
    }

    /// A check that the agent does not know of.
    fn request(&self, priority: u32) -> Option<Vec<u8>> {
        let (own, peer) = (self.inner.local_credentials(), self.inner.remote_credentials()?);
        let user = format!("{}:{}", peer.ufrag, own.ufrag);
        let (controlling, tie_breaker) = (self.inner.controlling(), self.tie_breaker);
        let request = StunMessage::binding_request(
            &user,
            TransId::new(),
            controlling,
            tie_breaker,
            priority,
            false,
        );
        let hmac = |key: &[u8], parts: &[&[u8]]| DefaultSha1HmacProvider.sha1_hmac(key, parts);
        let mut bytes = vec![0; 256];
        let length = request.to_bytes(Some(peer.pass.as_bytes()), &mut bytes, hmac).ok()?;
        bytes.truncate(length);
        Some(bytes)
    }

    /// Whether a message stays within what one peer may make the agent remember.
    fn bounded(&mut self, way: Way, message: &StunMessage<'_>) -> bool {
        if !self.locals.contains_key(&way.local) {
            return false;
        }
        let known = self.remotes.contains_key(&way.remote) || self.heard.contains_key(&way);
        // Not only what asks: the agent takes an answer from anywhere, and packets would follow it.
        if !known && self.screen.refuses(way.remote).is_some() {
            return false;
        }
        if message.is_binding_request() {
            return known || self.heard.len() < SOURCES;
        }
        match message.mapped_address() {
            Some(addr) if !self.mapped.contains(&addr) => {
                let room = self.mapped.len() < MAPPED;
                // Only the peer's answers count: others could fill this up.
                if room && self.inner.accepts_message(message) {
                    self.mapped.push(addr);
                }
                room
            }
            _ => true,
        }
    }

    /// Lets time pass; only when [`Self::poll_timeout`] says so.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.opening_ends.is_some_and(|at| now >= at || self.checks >= OPENING_CHECKS) {
            self.opening_ends = None;
            self.checks = 0;
            self.inner.set_max_stun_rto(KEEPALIVE);
            self.inner.set_max_stun_retransmits(TRIES);
        }
        self.inner.handle_timeout(now);
        self.drain_events();
    }

    /// When to call [`Self::handle_timeout`].
    pub(super) fn poll_timeout(&mut self, now: Instant) -> Instant {
        self.inner.poll_timeout().unwrap_or(now)
    }

    /// The next message to send.
    pub(super) fn poll_transmit(&mut self) -> Option<Message> {
        loop {
            let out = self.inner.poll_transmit()?;
            let way = Way { local: out.source, remote: out.destination };
            let bytes: Vec<u8> = out.contents.into();
            if super::demux::is_request(&bytes) {
                let transaction = super::demux::transaction(&bytes).unwrap_or_default();
                if !self.unanswered.send(way.remote.ip(), transaction) {
                    continue;
                }
                self.checks = self.checks.saturating_add(1);
            }
            // A peer may claim to see us at an address of the other family.
            if super::candidates::same_family(way.local.ip(), way.remote.ip())
                || self.locals.get(&way.local).is_some_and(|(k, _)| *k == CandidateKind::Relayed)
            {
                return Some(Message { way, bytes });
            }
        }
    }

    /// Whether a check that was just sent need not keep the node's pace.
    pub(super) fn is_free(&self, to: IpAddr) -> bool {
        self.unanswered.is_free(to)
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.inner.poll_event() {
            if let IceAgentEvent::NominatedSend { source, destination, .. } = event {
                let way = Way { local: source, remote: destination };
                self.nominated = Some(way);
                self.nominations.retain(|old| *old != way);
                if self.nominations.len() >= SOURCES {
                    self.nominations.remove(0);
                }
                self.nominations.push(way);
            }
        }
    }

    /// Where packets go now.
    pub(super) fn route(&self, now: Instant) -> Option<Way> {
        if self.resting.is_some() {
            return self.resting;
        }
        let alive = |way: &Way| self.is_alive(way, now);
        let works = |way: &Way| alive(way) && self.inner.has_viable_remote_candidate(way.remote);
        match self.nominated {
            Some(way) if alive(&way) && !self.is_doubtful(way) => Some(way),
            Some(way) => {
                let direct = |way: &&Way| works(way) && !self.is_doubtful(**way);
                if let Some(direct) = self.nominations.iter().rev().find(direct) {
                    return Some(*direct);
                }
                if alive(&way) {
                    return Some(way);
                }
                let other = self.heard.iter().filter(|(way, _)| works(way));
                let latest = other.max_by_key(|(way, at)| (**at, way.remote, way.local));
                Some(latest.map_or(way, |(way, _)| *way))
            }
            None => self.last,
        }
    }

    /// Whether the peer is heard on a way.
    fn is_alive(&self, way: &Way, now: Instant) -> bool {
        let since = self.heard.get(way).map(|at| now.saturating_duration_since(*at));
        let grace = self.grace.is_some_and(|(rested, until)| rested == *way && now < until);
        grace || since.is_some_and(|age| age < SILENCE)
    }

    /// Stops checking, if the nominated way is in use and works. Time is not to pass meanwhile. Says whether
    /// it rests.
    pub(super) fn rest(&mut self, now: Instant) -> bool {
        let settled = self.nominated.filter(|way| {
            self.opening_ends.is_none() && self.route(now) == Some(*way) && self.is_alive(way, now)
        });
        self.resting = settled;
        settled.is_some()
    }

    /// Goes on checking, beginning with all pairs at once. Unless the way in use is in doubt, it counts for
    /// alive until its check could have been answered.
    pub(super) fn wake(&mut self, now: Instant, doubt: bool) {
        let rested = self.resting.take();
        self.grace = rested.filter(|_| !doubt).map(|way| (way, now + GRACE));
        self.pulse = None;
        if let (true, Some(way), Some(long_ago)) = (doubt, rested, now.checked_sub(SILENCE)) {
            self.heard.entry(way).and_modify(|at| *at = long_ago.min(*at));
        }
    }

    /// A check of the way in use.
    pub(super) fn pulse(&mut self) -> Option<Message> {
        let way = self.resting?;
        if self.pulse.is_none() {
            let priority = if self.is_doubtful(way) { RELAY_PRIORITY } else { PROBE_PRIORITY };
            self.pulse = Some(self.request(priority)?);
        }
        self.pulse.clone().map(|bytes| Message { way, bytes })
    }

    fn answers_pulse(&mut self, way: Way, message: &StunMessage<'_>, bytes: &[u8]) -> bool {
        let asked = self.pulse.as_deref().filter(|_| self.resting == Some(way));
        let Some(asked) = asked.and_then(super::demux::transaction) else { return false };
        let Some(peer) = self.inner.remote_credentials() else { return false };
        let answers = message.is_successful_binding_response()
            && super::demux::transaction(bytes) == Some(asked)
            && message.verify(peer.pass.as_bytes(), |key, parts| {
                DefaultSha1HmacProvider.sha1_hmac(key, parts)
            });
        if answers {
            self.pulse = None;
        }
        answers
    }

    /// When the peer was heard last.
    pub(super) fn last_heard(&self) -> Option<Instant> {
        self.heard.values().max().copied()
    }

    /// Whether a relay is on a way, or may be: nobody has said what its other end is.
    fn is_doubtful(&self, way: Way) -> bool {
        let (local, remote) = self.kinds(way);
        [local, remote].contains(&Some(CandidateKind::Relayed)) || remote.is_none()
    }

    /// Whether no relay is on a way. An end that nobody has named is the peer's own where the peer has named
    /// its IP address so, and no relay of that address.
    pub(super) fn is_direct(&self, way: Way) -> bool {
        let relayed = Some(CandidateKind::Relayed);
        let (local, remote) = self.kinds(way);
        if local == relayed || remote == relayed {
            return false;
        }
        let mut there = self.remotes.iter().filter(|(addr, _)| addr.ip() == way.remote.ip());
        let named = there.clone().next().is_some();
        remote.is_some() || named && there.all(|(_, kind)| *kind != CandidateKind::Relayed)
    }

    /// Whether the peer has ever been heard on a way.
    pub(super) fn knows(&self, way: &Way) -> bool {
        self.heard.contains_key(way)
    }

    /// The way that the controlling side has chosen last.
    pub(super) fn nominated(&self) -> Option<Way> {
        self.nominated
    }

    /// Whether the peer is reachable as far as checks say: a pair has been answered.
    pub(super) fn is_open(&self) -> bool {
        self.nominated.is_some()
    }

    /// How both ends of a way came about; the remote one is none if it was learnt from its checks.
    pub(super) fn kinds(&self, way: Way) -> (Option<CandidateKind>, Option<CandidateKind>) {
        let local = self.locals.get(&way.local).map(|(kind, _)| *kind);
        let guessed = || self.guessed.contains(&way.remote).then_some(CandidateKind::Reflexive);
        (local, self.remotes.get(&way.remote).copied().or_else(guessed))
    }

    /// How much is remembered of the peer, for fuzzers.
    pub(super) fn check_bounds(&self) {
        let (heard, mapped) = (self.heard.len(), self.mapped.len());
        assert!(heard <= SOURCES && mapped <= MAPPED, "{heard} and {mapped} addresses");
        assert!(self.nominations.len() <= SOURCES, "{} nominations", self.nominations.len());
        assert!(self.remotes.len() <= MAX_CANDIDATES, "{} candidates", self.remotes.len());
    }

    /// Whether the peer has been heard before and is not any more, on any way.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let alive = |way: &Way| self.is_alive(way, now);
        self.resting.is_none() && self.nominated.is_some() && !self.heard.keys().any(alive)
    }
}
