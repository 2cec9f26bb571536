//! The tests of one address family (RFC 5780 section 4) without sockets and clock.
//!
//! Two sockets: the main one asks every address of the servers, so that mappings show; the second
//! one asks a single address, so that filters let nothing else in by itself.
//!
//! ```text
//! finding: main asks all servers; the first that answers (with a second address, if any has one)
//! testing: main → its other addresses; main → it, with larger and larger requests
//!          second → it, to be answered from elsewhere
//!          main ⇄ second by the addresses that it saw (hairpin)
//! ```
//!
//! Drive it: send what [`Discovery::poll_transmit`] says, hand in what comes to [`Discovery::handle`],
//! and do both again at [`Discovery::deadline`], until there is none. It ends within 6.5 s, whatever
//! comes, and sends at most [`MAX_REQUESTS`] requests, each up to four times.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::facts::{Changed, Dependence, Family, PathMtu, Possible, Udp, filtering, mapping};
use super::wire::{self, Said};
use crate::quic::candidates::{LEAST_PORT, refusal};

/// When a request is sent, from its first time on.
const TRIES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1100),
];
/// No answer comes after this; satellites take 0.6 s.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long other servers are waited for when one has answered.
const GRACE: Duration = Duration::from_millis(300);
/// Most servers that are asked.
pub const MAX_SERVERS: usize = 4;
/// Servers, three other addresses, one and three of the second socket, sizes, two for the hairpin.
pub const MAX_REQUESTS: usize = MAX_SERVERS + 3 + 1 + 3 + SIZES.len() + 2;
/// Sizes of IP packets that are tried, ascending: what QUIC needs, IPv6's least, tunnels of all
/// kinds, PPPoE, Ethernet. Multiples of four, as STUN's.
const SIZES: [u16; 10] = [1248, 1280, 1340, 1380, 1400, 1420, 1440, 1460, 1492, 1500];

/// Which of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// Asks everybody.
    Main,
    /// Asks one address.
    Second,
}

/// A datagram to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From this socket.
    pub socket: Socket,
    /// To there.
    pub to: SocketAddr,
    /// This.
    pub bytes: Vec<u8>,
    request: usize,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// To find a server.
    Server,
    /// The server's other addresses.
    Other,
    /// The second socket's own address.
    Second,
    /// An answer from elsewhere.
    Change { address: bool, port: bool, from: SocketAddr },
    /// Whether so large a packet arrives.
    Size(u16),
    /// Ourselves.
    Hairpin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Silent,
    Refused,
    /// It arrived; addresses where the answer has some.
    Came(Option<Answer>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    mapped: SocketAddr,
    other: Option<SocketAddr>,
    local: Option<SocketAddr>,
    rtt: Option<Duration>,
}

#[derive(Debug)]
struct Request {
    ask: Ask,
    socket: Socket,
    to: SocketAddr,
    since: Instant,
    tries: usize,
    unsent: Option<String>,
    state: State,
}

impl Request {
    fn answer(&self) -> Option<&Answer> {
        match &self.state {
            State::Came(answer) => answer.as_ref(),
            _ => None,
        }
    }

    fn next(&self) -> Option<Instant> {
        let after = TRIES.get(self.tries).copied().unwrap_or(PATIENCE);
        (self.state == State::Open).then(|| self.since + after)
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Finding { until: Option<Instant> },
    Testing { server: usize, hairpin: bool },
}

/// The tests of one family; see the module's documentation.
#[derive(Debug)]
pub struct Discovery {
    /// Transactions are this and a request's number: who does not see the packets cannot guess them.
    base: [u8; 8],
    sizes: bool,
    requests: Vec<Request>,
    stage: Stage,
}

impl Discovery {
    /// Begins; `servers` are of one family, at most [`MAX_SERVERS`] count; `base` is random. `sizes`:
    /// the sockets' datagrams are not fragmented, so that sizes can be measured.
    #[must_use]
    pub fn new(now: Instant, servers: &[SocketAddr], base: [u8; 8], sizes: bool) -> Self {
        let stage = Stage::Finding { until: None };
        let mut discovery = Self { base, sizes, requests: Vec::new(), stage };
        let mut known = BTreeSet::new();
        for server in servers.iter().filter(|s| known.insert(**s)).take(MAX_SERVERS) {
            discovery.ask(now, Ask::Server, Socket::Main, *server);
        }
        discovery
    }

    fn ask(&mut self, since: Instant, ask: Ask, socket: Socket, to: SocketAddr) {
        if self.requests.len() < MAX_REQUESTS {
            let state = State::Open;
            self.requests.push(Request { ask, socket, to, since, tries: 0, unsent: None, state });
        }
    }

    fn transaction(&self, request: usize) -> [u8; 12] {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.base);
        id[8..].copy_from_slice(&u32::try_from(request).unwrap_or(u32::MAX).to_be_bytes());
        id
    }

    /// The next datagram to send, if one is due.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.advance(now);
        let due = |r: &Request| r.tries < TRIES.len() && r.next().is_some_and(|at| at <= now);
        let n = self.requests.iter().position(due)?;
        let id = self.transaction(n);
        let request = self.requests.get_mut(n)?;
        request.tries += 1;
        let bytes = match request.ask {
            Ask::Change { address, port, .. } => wire::change(id, address, port),
            Ask::Size(packet) => wire::filled(id, usize::from(packet) - headers(request.to)),
            _ => wire::binding(id),
        };
        Some(Transmit { socket: request.socket, to: request.to, bytes, request: n })
    }

    /// It could not be sent; the next try may do better.
    pub fn unsent(&mut self, transmit: &Transmit, why: String) {
        if let Some(request) = self.requests.get_mut(transmit.request) {
            request.unsent = Some(why);
        }
    }

    /// When there is something to do again; none when all is known.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let grace = match self.stage {
            Stage::Finding { until } => until,
            Stage::Testing { .. } => None,
        };
        self.requests.iter().filter_map(Request::next).chain(grace).min()
    }

    /// A datagram came: `local` is the address of ours that it was sent to, where the system says so.
    pub fn handle(
        &mut self,
        now: Instant,
        socket: Socket,
        from: SocketAddr,
        local: Option<SocketAddr>,
        datagram: &[u8],
    ) {
        let Some((id, said)) = wire::read(datagram) else { return };
        let [.., a, b, c, d] = id;
        let n = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if id != self.transaction(n) {
            return;
        }
        let Some(request) = self.requests.get_mut(n).filter(|r| r.state == State::Open) else {
            return;
        };
        let here = socket == request.socket;
        let sent = TRIES.get(request.tries.saturating_sub(1)).copied().unwrap_or_default();
        let took = now.saturating_duration_since(request.since + sent);
        request.state = match (request.ask, said) {
            (Ask::Hairpin, Said::Request) if !here => State::Came(None),
            (Ask::Hairpin, _) | (_, Said::Request) => return,
            _ if !here => return,
            (Ask::Change { from: expected, .. }, Said::Seen { .. }) if from == expected => {
                State::Came(None)
            }
            (Ask::Size(_), _) if from == request.to => State::Came(None),
            // It does not know what it was asked for, and may have ignored that.
            (Ask::Change { .. }, _) | (_, Said::Refused) if from == request.to => State::Refused,
            (Ask::Server | Ask::Other | Ask::Second, Said::Seen { mapped, other })
                if from == request.to && mapped.is_ipv4() == from.is_ipv4() =>
            {
                let local = local.filter(|l| !l.ip().is_unspecified());
                // After a second try nobody knows which one was answered.
                let rtt = (request.tries == 1).then_some(took);
                State::Came(Some(Answer { mapped, other, local, rtt }))
            }
            _ => return,
        };
        self.advance(now);
    }

    /// Gives up what nobody answered, and goes on to what can be asked now.
    fn advance(&mut self, now: Instant) {
        for request in &mut self.requests {
            if request.state == State::Open && now >= request.since + PATIENCE {
                request.state = State::Silent;
            }
        }
        match self.stage {
            Stage::Finding { until } => {
                let open = self.requests.iter().any(|r| r.state == State::Open);
                let found = self.requests.iter().any(|r| r.answer().is_some());
                let until = until.or_else(|| found.then(|| now + GRACE));
                self.stage = Stage::Finding { until: until.filter(|_| open) };
                if !open || until.is_some_and(|until| now >= until) {
                    self.test(now);
                }
            }
            Stage::Testing { server, hairpin: false } => self.hairpin(now, server),
            Stage::Testing { .. } => {}
        }
    }

    fn test(&mut self, now: Instant) {
        let answers = || self.requests.iter().enumerate().filter(|(_, r)| r.answer().is_some());
        let both = answers().find(|(_, r)| other(r).is_some());
        let Some((server, request)) = both.or_else(|| answers().next()) else { return };
        let (to, other) = (request.to, other(request));
        self.stage = Stage::Testing { server, hairpin: false };
        self.ask(now, Ask::Second, Socket::Second, to);
        if let Some(other) = other {
            let elsewhere = |address: bool, port: bool| {
                let ip = if address { other.ip() } else { to.ip() };
                SocketAddr::new(ip, if port { other.port() } else { to.port() })
            };
            let (address, port) = (other.ip() != to.ip(), other.port() != to.port());
            for (address, port) in [(address, port), (address, false), (false, port)] {
                let from = elsewhere(address, port);
                let known = |r: &Request| matches!(r.ask, Ask::Change { from: f, .. } if f == from);
                if from == to || self.requests.iter().any(known) {
                    continue;
                }
                if !self.requests.iter().any(|r| r.socket == Socket::Main && r.to == from) {
                    self.ask(now, Ask::Other, Socket::Main, from);
                }
                self.ask(now, Ask::Change { address, port, from }, Socket::Second, to);
            }
        }
        if self.sizes {
            for size in SIZES {
                self.ask(now, Ask::Size(size), Socket::Main, to);
            }
        }
    }

    /// Lets the sockets knock at each other by the outside addresses: what the first packet does not
    /// find open, it opens for the other's.
    fn hairpin(&mut self, now: Instant, server: usize) {
        let second = self.requests.iter().find(|r| r.ask == Ask::Second);
        let main = self.requests.get(server).and_then(Request::answer);
        let (Some(main), Some(second)) = (main, second.and_then(Request::answer)) else { return };
        self.stage = Stage::Testing { server, hairpin: true };
        let (main, second, local) = (main.mapped, second.mapped, main.local);
        let nat = local.is_some_and(|local| local.ip() != main.ip());
        if nat && [main, second].iter().all(|addr| refusal(*addr, false).is_none()) {
            self.ask(now, Ask::Hairpin, Socket::Main, second);
            self.ask(now, Ask::Hairpin, Socket::Second, main);
        }
    }

    /// What is known until now.
    #[must_use]
    pub fn facts(&self) -> Family {
        let found = match self.stage {
            Stage::Testing { server, .. } => self.requests.get(server),
            Stage::Finding { .. } => None,
        };
        let Some((request, answer)) = found.and_then(|r| Some((r, r.answer()?))) else {
            return Family { udp: self.unanswered(), ..Family::default() };
        };
        let plain = self.requests.iter().filter(|r| matches!(r.ask, Ask::Server | Ask::Other));
        let seen: Vec<_> = plain.filter_map(|r| Some((r.to, r.answer()?.mapped))).collect();
        let translated = answer.local.map(|local| local.ip() != answer.mapped.ip());
        let mut hairpins = self.requests.iter().filter(|r| r.ask == Ask::Hairpin).peekable();
        let hairpin = hairpins.peek().is_some().then(|| hairpins.any(came));
        Family {
            udp: Udp::Answered,
            server: Some(request.to),
            two_addresses: other(request).is_some_and(|o| o.ip() != request.to.ip()),
            local: answer.local,
            mapped: Some(answer.mapped),
            translated,
            port_kept: answer.local.map(|local| local.port() == answer.mapped.port()),
            mapping: match translated {
                Some(false) => Possible::only(Dependence::EndpointIndependent),
                _ => mapping(&seen),
            },
            filtering: filtering(self.changed(true), self.changed(false)),
            hairpin,
            mtu: self.mtu(),
            rtt: self.requests.iter().filter_map(|r| r.answer()?.rtt).min(),
        }
    }

    fn unanswered(&self) -> Udp {
        let last = self.requests.iter().rev().find_map(|r| r.unsent.clone());
        match last {
            _ if self.requests.is_empty() => Udp::NoServer,
            Some(why) if self.requests.iter().all(|r| r.unsent.is_some()) => Udp::NoRoute(why),
            _ => Udp::Silent,
        }
    }

    /// Whether answers came from another address, or from another port of the same one. That none
    /// came says something only where that place was heard when it was asked itself.
    fn changed(&self, from_address: bool) -> Changed {
        let heard = |at: SocketAddr| {
            let mut main = self.requests.iter().filter(|r| r.socket == Socket::Main);
            main.any(|r| r.to == at && r.answer().is_some())
        };
        let mut result = Changed::Unknown;
        for request in &self.requests {
            match (request.ask, request.state) {
                (Ask::Change { address, .. }, State::Came(_)) if address == from_address => {
                    return Changed::Came;
                }
                (Ask::Change { address, from, .. }, State::Silent)
                    if address == from_address && heard(from) =>
                {
                    result = Changed::Silent;
                }
                _ => {}
            }
        }
        result
    }

    fn mtu(&self) -> PathMtu {
        let sizes = || {
            self.requests.iter().filter_map(|r| match r.ask {
                Ask::Size(size) => Some((size, came(r))),
                _ => None,
            })
        };
        let most = sizes().map(|(size, _)| size).max();
        let least = sizes().map(|(size, _)| size).min();
        match (sizes().filter(|(_, came)| *came).map(|(size, _)| size).max(), least) {
            (size @ Some(bytes), _) if size == most => PathMtu::AtLeast(bytes),
            (Some(bytes), _) => PathMtu::Measured(bytes),
            (None, Some(least)) => PathMtu::Below(least),
            (None, None) => PathMtu::NotMeasured,
        }
    }
}

fn came(request: &Request) -> bool {
    matches!(request.state, State::Came(_))
}

/// Bytes of IP and UDP headers.
fn headers(to: SocketAddr) -> usize {
    if to.is_ipv4() { 28 } else { 48 }
}

/// The server's second address, if it has one that we would send to: it must not make us knock
/// where it likes.
fn other(request: &Request) -> Option<SocketAddr> {
    let (to, other) = (request.to, request.answer()?.other?);
    let known = to.port() < LEAST_PORT;
    let port = if known { other.port().max(LEAST_PORT) } else { other.port() };
    let fine = other != to
        && other.is_ipv4() == to.is_ipv4()
        && refusal(SocketAddr::new(other.ip(), port), to.ip().is_loopback()).is_none();
    fine.then_some(other)
}
