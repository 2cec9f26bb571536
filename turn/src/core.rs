//! The server without sockets and clock.
//!
//! # How it is driven
//!
//! - Give each datagram or frame of a client to [`Server::client_sent`] and do what the [`Outcome`]
//!   says. [`Outcome::Open`] is answered by [`Server::opened`], sooner or later; until then that
//!   client's retransmits are ignored.
//! - Give each datagram that arrives at a relayed socket to [`Server::peer_sent`].
//! - Tell [`Server::forget`] when a client's stream has ended.
//! - After each call drain [`Server::poll_event`]; call [`Server::expire`] at
//!   [`Server::next_deadline`].
//!
//! `R` is whatever the driver sends through: a socket's handle. It is handed back in
//! [`Event::Closed`] when its allocation ends.
//!
//! # What holds
//!
//! No input panics or costs more than a few hash lookups and, for requests, a few hashes.
//! Allocations, permissions and channels are bounded by [`Limits`]; strangers leave no state.
//! An error leaves everything as it was. Lookups do not depend on how many allocations there are.

mod allocate;
mod allocation;
mod binding;
mod member;
mod peer;
mod relay;
mod request;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

pub use relay::{Delivery, Wrap};

use crate::addr_policy::AddressPolicy;
use crate::auth::{Member, Nonces, Secret, Void};
use crate::metrics::Counters;
use crate::quota::Throttle;
use allocation::{Allocation, State};
use member::Usage;

/// The time, given with each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a monotonic clock.
    pub tick: u64,
    /// Milliseconds since 1970, for credentials and nonces alone.
    pub unix_ms: u64,
}

/// How a client reaches this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream within TLS.
    Tls,
}

impl Transport {
    pub(crate) const ALL: [Self; 3] = [Self::Udp, Self::Tcp, Self::Tls];

    /// As metrics and addresses name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// A client as this server sees it: RFC 8656's 5-tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The protocol.
    pub transport: Transport,
    /// Which of the driver's sockets, or which connection.
    pub id: u64,
    /// The address of ours that the client wrote to, where the driver knows it.
    pub local: Option<IpAddr>,
    /// The client, as the socket writes it.
    pub client: SocketAddr,
}

impl Flow {
    pub(crate) fn is_stream(&self) -> bool {
        self.transport != Transport::Udp
    }
}

/// Names an allocation for its whole life; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId(u64);

/// Which kind of relayed address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(crate) fn of(addr: SocketAddr) -> Self {
        if addr.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A relayed socket that the driver shall open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// For whom.
    pub allocation: AllocationId,
    /// Its family.
    pub family: Family,
    /// Its port shall be even.
    pub even: bool,
}

/// Where an answer leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Whence the request came.
    Same,
    /// The other socket of the behaviour tests (RFC 5780).
    Other,
}

/// What to do with what a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<'a, R> {
    /// Nothing.
    Nothing,
    /// Answer it.
    Reply(Vec<u8>, Via),
    /// Open a relayed socket, then call [`Server::opened`].
    Open(Open),
    /// Send data to a peer.
    ToPeer {
        /// From here.
        relay: R,
        /// To there.
        peer: SocketAddr,
        /// This.
        data: &'a [u8],
    },
    /// Send data to another client: the peer was a relayed port of this same server.
    ToClient(Delivery, &'a [u8]),
}

/// What happened besides.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<R> {
    /// An allocation ended; its socket is no longer used.
    Closed {
        /// The socket.
        relay: R,
    },
    /// A client's stream shall be closed: its member was deleted.
    Hangup {
        /// The stream.
        flow: Flow,
    },
}

/// What bounds the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Allocations in all.
    pub allocations: usize,
    /// Allocations of one member: one per node, session and family, and some that have not
    /// expired yet after a restart.
    pub per_member: usize,
    /// Payload bytes per second of one member, both directions together; as much may come at once.
    pub bytes_per_second: u64,
    /// Permissions of one allocation: a node needs one for each peer it talks to.
    pub permissions: usize,
    /// Channels of one allocation.
    pub channels: usize,
    /// Answers per second to a /24 or /48 that has not proved anything.
    pub answers_per_second: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations: 10_000,
            per_member: 32,
            bytes_per_second: 16 << 20,
            permissions: 1_024,
            channels: 1_024,
            answers_per_second: 1_000,
        }
    }
}

/// The two sockets of behaviour discovery (RFC 5780): what other-address each tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// The first socket: [`Flow::id`] and public address.
    pub main: (u64, SocketAddr),
    /// The second one.
    pub other: (u64, SocketAddr),
}

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What passwords come from.
    pub secret: Secret,
    /// What may be relayed to.
    pub policy: AddressPolicy,
    /// Bounds.
    pub limits: Limits,
    /// Whether relayed IPv4 addresses are to be had.
    pub v4: bool,
    /// Whether relayed IPv6 addresses are.
    pub v6: bool,
    /// The sockets of behaviour discovery.
    pub behaviour: Option<Behaviour>,
}

/// What a server holds; of allocations the largest.
#[derive(Debug)]
pub(crate) struct Sizes {
    pub(crate) allocations: usize,
    pub(crate) flows: usize,
    pub(crate) relayed: usize,
    pub(crate) most_per_member: usize,
    pub(crate) permissions: usize,
    pub(crate) channels: usize,
    pub(crate) numbers: usize,
}

/// A STUN and TURN server, see the module's text.
#[derive(Debug)]
pub struct Server<R> {
    setup: Setup,
    nonces: Nonces,
    void: Void,
    throttle: Throttle,
    allocations: HashMap<AllocationId, Allocation<R>>,
    flows: HashMap<Flow, AllocationId>,
    relayed: HashMap<SocketAddr, AllocationId>,
    members: HashMap<Member, Usage>,
    deadlines: BinaryHeap<Reverse<(u64, AllocationId)>>,
    events: VecDeque<Event<R>>,
    counters: Counters,
    next: u64,
}

impl<R: Clone> Server<R> {
    /// An empty server.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            nonces: Nonces::new(setup.secret.derive(b"meshwire turn nonce v1")),
            throttle: Throttle::new(setup.limits.answers_per_second),
            setup,
            void: Void::default(),
            allocations: HashMap::new(),
            flows: HashMap::new(),
            relayed: HashMap::new(),
            members: HashMap::new(),
            deadlines: BinaryHeap::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            next: 0,
        }
    }

    /// What to do besides, until there is nothing.
    pub fn poll_event(&mut self) -> Option<Event<R>> {
        self.events.pop_front()
    }

    /// When [`Self::expire`] has something to do, on [`Now::tick`]'s clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }

    /// Ends what has expired.
    pub fn expire(&mut self, now: Now) {
        while let Some(Reverse((at, id))) = self.deadlines.peek().copied() {
            if at > now.tick {
                break;
            }
            self.deadlines.pop();
            let Some(allocation) = self.allocations.get_mut(&id) else { continue };
            if allocation.queued != at {
                continue; // an earlier deadline has taken this one's place
            }
            if allocation.expires <= now.tick {
                self.counters.expired += 1;
                self.remove(id);
            } else {
                allocation.queued = allocation.expires;
                self.deadlines.push(Reverse((allocation.expires, id)));
            }
        }
    }

    /// A client's stream has ended, and its allocation with it.
    pub fn forget(&mut self, flow: &Flow) {
        if let Some(id) = self.flows.get(flow).copied() {
            self.remove(id);
        }
    }

    /// Whether a client has an allocation.
    #[must_use]
    pub fn has_allocation(&self, flow: &Flow) -> bool {
        self.flows.contains_key(flow)
    }

    /// This host has these addresses from now on: what is relayed to them ends with the next datagram.
    pub fn set_own(&mut self, own: Vec<IpAddr>) {
        self.setup.policy.own = own;
    }

    /// Ends a member's allocations and voids the credentials that it was given until now.
    pub fn delete_member(&mut self, member: &str, now: Now) {
        self.void.delete_member(member, now.unix_ms);
        self.delete_where(|m, _| m.id() == member);
    }

    /// Voids one credential and ends what was made with it.
    pub fn revoke(&mut self, username: &str, now: Now) {
        self.void.revoke(username, now.unix_ms);
        self.delete_where(|_, name| name == username);
    }

    /// Ends everything.
    pub fn close(&mut self) {
        self.delete_where(|_, _| true);
    }

    fn delete_where(&mut self, which: impl Fn(&Member, &str) -> bool) {
        let found = self.allocations.iter().filter(|(_, a)| which(&a.member, &a.username));
        let found: Vec<_> = found.map(|(id, a)| (*id, a.flow)).collect();
        for (id, flow) in found {
            self.counters.deleted += 1;
            self.remove(id);
            if flow.is_stream() {
                self.events.push_back(Event::Hangup { flow });
            }
        }
    }

    fn remove(&mut self, id: AllocationId) {
        let Some(allocation) = self.take(id) else { return };
        if let State::Open { relay, relayed } = allocation.state {
            self.relayed.remove(&relayed);
            self.events.push_back(Event::Closed { relay });
        }
    }

    fn take(&mut self, id: AllocationId) -> Option<Allocation<R>> {
        let allocation = self.allocations.remove(&id)?;
        self.flows.remove(&allocation.flow);
        if let Some(usage) = self.members.get_mut(&allocation.member) {
            usage.allocations = usage.allocations.saturating_sub(1);
        }
        Some(allocation)
    }

    /// How much is held, for tests.
    pub(crate) fn sizes(&self) -> Sizes {
        let most = |which: usize| {
            self.allocations.values().map(|a| a.sizes()[which]).max().unwrap_or_default()
        };
        Sizes {
            allocations: self.allocations.len(),
            flows: self.flows.len(),
            relayed: self.relayed.len(),
            most_per_member: self.members.values().map(|u| u.allocations).max().unwrap_or(0),
            permissions: most(0),
            channels: most(1),
            numbers: most(2),
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Allocations right now.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }
}
