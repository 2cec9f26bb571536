//! What a NAT's mapping or a firewall remembers of each remote end: until when, and for TCP how far
//! the connection has come. Shared by [`crate::nat`] and [`crate::firewall`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::packet::{ACK, FIN, RST, SYN};
use crate::time::Time;

/// How precisely mapping or filtering looks at the remote end (RFC 4787 sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependence {
    /// It does not look.
    EndpointIndependent,
    /// At the address.
    AddressDependent,
    /// At address and port.
    AddressAndPortDependent,
}

/// A remote end, packed: address in the upper 128 bits' place, port beside it.
pub(crate) type Remote = (u128, u16);

impl Dependence {
    /// What is left of a remote end when looked at this precisely.
    pub(crate) fn mask(self, remote: Remote) -> Remote {
        match self {
            Self::EndpointIndependent => (0, 0),
            Self::AddressDependent => (remote.0, 0),
            Self::AddressAndPortDependent => remote,
        }
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Out,
    In,
}

/// How long sessions last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// UDP, once the remote end has answered. RFC 4787, REQ-5: not less than 2 minutes, 5 or more by
    /// default.
    pub udp: Duration,
    /// UDP before any answer; Linux's conntrack waits 30 s for one. The same as `udp` in RFC 4787.
    pub udp_unanswered: Duration,
    /// When `udp` takes the place of `udp_unanswered`. None: with the first answer. Some: with the
    /// first packet behind an answer that comes later than this after the session's first packet; one
    /// question and its answer are then no reason for it. Linux: 2 s (nf_conntrack_proto_udp.c).
    pub udp_stream_after: Option<Duration>,
    /// Established TCP connections. RFC 5382, REQ-5: not less than 2 hours and 4 minutes.
    pub tcp_established: Duration,
    /// TCP connections being opened or closed. RFC 5382, REQ-5: not less than 4 minutes.
    pub tcp_transitory: Duration,
    /// ICMP queries. RFC 5508, REQ-2: not less than 60 s.
    pub icmp: Duration,
}

impl Lifetimes {
    /// Exactly what the RFCs recommend.
    pub const RFC: Self = Self {
        udp: Duration::from_secs(300),
        udp_unanswered: Duration::from_secs(300),
        udp_stream_after: None,
        tcp_established: Duration::from_secs(7_440),
        tcp_transitory: Duration::from_secs(240),
        icmp: Duration::from_secs(60),
    };

    /// Their names and values, for checks.
    pub(crate) fn all(&self) -> [(&'static str, Duration); 5] {
        [
            ("UDP", self.udp),
            ("unanswered UDP", self.udp_unanswered),
            ("established TCP", self.tcp_established),
            ("transitory TCP", self.tcp_transitory),
            ("ICMP", self.icmp),
        ]
    }
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self::RFC
    }
}

/// What kind of flow a session is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Udp,
    Tcp,
    Query,
}

const SYN_OUT: u8 = 1;
const SYN_IN: u8 = 2;
const FIN_OUT: u8 = 4;
const FIN_IN: u8 = 8;
const RESET: u8 = 16;
const OPEN: u8 = 32;

/// One remote end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Session {
    pub(crate) deadline: Time,
    /// When its first packet passed.
    began: Option<Time>,
    answered: bool,
    tcp: u8,
}

impl Session {
    /// Whether the TCP connection is over: reset, or closed by both.
    pub(crate) fn closed(&self) -> bool {
        self.tcp & RESET != 0 || self.tcp & (FIN_OUT | FIN_IN) == FIN_OUT | FIN_IN
    }

    /// A packet passes. `refresh` says whether it may prolong a UDP or ICMP session.
    pub(crate) fn touch(
        &mut self,
        now: Time,
        kind: Kind,
        way: Way,
        flags: u8,
        lifetimes: &Lifetimes,
        refresh: bool,
    ) {
        let life = match kind {
            Kind::Tcp => {
                self.step(way, flags);
                if self.tcp & OPEN != 0 && !self.closed() {
                    lifetimes.tcp_established
                } else {
                    lifetimes.tcp_transitory
                }
            }
            Kind::Udp => {
                let began = *self.began.get_or_insert(now);
                let was_answered = self.answered;
                self.answered |= way == Way::In;
                let settled = match lifetimes.udp_stream_after {
                    None => self.answered,
                    Some(after) => was_answered && now > began + after,
                };
                if settled { lifetimes.udp } else { lifetimes.udp_unanswered }
            }
            Kind::Query => lifetimes.icmp,
        };
        if kind == Kind::Tcp || refresh {
            self.deadline = now + life;
        }
    }

    /// Follows a TCP connection (RFC 9293 section 3.3.2, from the middle).
    fn step(&mut self, way: Way, flags: u8) {
        let (syn, fin) = if way == Way::Out { (SYN_OUT, FIN_OUT) } else { (SYN_IN, FIN_IN) };
        if flags & RST != 0 {
            self.tcp |= RESET;
            return;
        }
        if flags & SYN != 0 {
            if self.closed() {
                self.tcp = 0;
            }
            self.tcp |= syn;
        } else if flags & ACK != 0 && self.tcp & (SYN_OUT | SYN_IN) == SYN_OUT | SYN_IN {
            self.tcp |= OPEN;
        }
        if flags & FIN != 0 {
            self.tcp |= fin;
        }
    }

    /// Takes a connection for open without having seen its handshake.
    pub(crate) fn adopt(&mut self) {
        self.tcp |= SYN_OUT | SYN_IN | OPEN;
    }
}

/// The sessions of one inside endpoint, by remote end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions(pub(crate) BTreeMap<Remote, Session>);

impl Sessions {
    /// The live session with exactly this remote end.
    pub(crate) fn get(&mut self, now: Time, remote: Remote) -> Option<&mut Session> {
        self.0.get_mut(&remote).filter(|s| s.deadline > now)
    }

    /// Whether a packet from `remote` passes a filter this precise.
    pub(crate) fn admits(&self, now: Time, filtering: Dependence, remote: Remote) -> bool {
        let alive = |s: &Session| s.deadline > now;
        match filtering {
            Dependence::EndpointIndependent => self.0.values().any(alive),
            Dependence::AddressDependent => {
                self.0.range((remote.0, 0)..=(remote.0, u16::MAX)).any(|(_, s)| alive(s))
            }
            Dependence::AddressAndPortDependent => self.0.get(&remote).is_some_and(alive),
        }
    }

    /// When the next of them ends.
    pub(crate) fn next_end(&self) -> Option<Time> {
        self.0.values().map(|s| s.deadline).min()
    }

    /// When the last of them ends.
    pub(crate) fn last_end(&self) -> Option<Time> {
        self.0.values().map(|s| s.deadline).max()
    }
}
