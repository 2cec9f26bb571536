//! Network address translation between IPv4 addresses (NAT44), as RFC 4787 (UDP), 5382 (TCP), 5508
//! (ICMP) and 6888 (carriers) describe it.
//!
//! | part | what |
//! |---|---|
//! | `config` | what a NAT does, as data; refuses what cannot be |
//! | `napt` | addresses and ports |
//! | `table`, `ports`, `fragments`, `syn` | its mappings, choice of ports, fragments, late answers |
//! | `errors` | ICMP errors and the packets that they quote |
//! | `basic` | addresses one to one |
//!
//! # Drive contract
//! Hand each packet to [`Nat::outbound`] or [`Nat::inbound`] with the current time; it is rewritten in
//! place and the [`Verdict`] says where it goes. Then drain [`Nat::poll`], now and at
//! [`Nat::next_deadline`]. Time never goes back. After a drop the packet's bytes are those that came.
//! IPv6 passes unchanged.

mod basic;
mod config;
mod errors;
mod fragments;
mod napt;
mod ports;
mod syn;
mod table;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use crate::dice::Dice;
use crate::error::ConfigError;
use crate::packet::{Protocol, View};
use crate::reason::Reason;
use crate::time::Time;
pub use config::{
    Behaviour, Exempt, Forward, Limits, MidStream, Napt, NatConfig, Pair, Pooling, PortRule, Ports,
    Refusal, Taken, UnsolicitedSyn,
};

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to the other side.
    Forward,
    /// It came from inside and goes back inside (hairpin).
    Turn,
    /// It is for the NAT's own address: an echo request that nobody else wants.
    Own,
    /// It was taken, and waits for the first fragment of its packet.
    Held,
    /// It goes nowhere.
    Drop {
        /// Why.
        reason: Reason,
        /// What its sender is told, if anything. It goes back the way the packet came.
        answer: Option<Vec<u8>>,
    },
}

impl Verdict {
    fn drop(reason: Reason) -> Self {
        Self::Drop { reason, answer: None }
    }
}

/// Something that a NAT does later than the packet that caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A packet that waited goes inside.
    Inside(Vec<u8>),
    /// A packet that waited goes outside.
    Outside(Vec<u8>),
    /// The NAT itself says something to the outside.
    Say(Vec<u8>),
    /// A packet that waited is dropped.
    Lost(Reason, Vec<u8>),
}

/// A mapping as seen from without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingInfo {
    /// UDP, TCP or ICMP.
    pub protocol: Protocol,
    /// The inside endpoint.
    pub inside: SocketAddrV4,
    /// The outside endpoint.
    pub external: SocketAddrV4,
    /// Remote ends it knows.
    pub sessions: usize,
}

/// A NAT.
#[derive(Clone, Debug)]
pub struct Nat {
    external: Vec<Ipv4Addr>,
    kind: Translator,
}

#[derive(Clone, Debug)]
enum Translator {
    Ports(Box<napt::Translator>),
    OneToOne(basic::Translator),
}

impl Nat {
    /// A NAT with these outside addresses. Ports are drawn from the stream `nat:NAME` of the seed.
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration contradicts itself or the addresses.
    pub fn new(
        seed: u64,
        name: &str,
        config: &NatConfig,
        external: &[Ipv4Addr],
    ) -> Result<Self, ConfigError> {
        config.check(external)?;
        let kind = match config {
            NatConfig::Ports(napt) => {
                let dice = Dice::new(seed, &format!("nat:{name}"));
                Translator::Ports(Box::new(napt::Translator::new(napt, external, dice)))
            }
            NatConfig::OneToOne(pairs) => Translator::OneToOne(basic::Translator::new(pairs)),
        };
        Ok(Self { external: external.to_vec(), kind })
    }

    /// A packet from inside.
    pub fn outbound(&mut self, now: Time, packet: &mut Vec<u8>) -> Verdict {
        self.pass(now, packet, true)
    }

    /// A packet from outside.
    pub fn inbound(&mut self, now: Time, packet: &mut Vec<u8>) -> Verdict {
        self.pass(now, packet, false)
    }

    fn pass(&mut self, now: Time, packet: &mut Vec<u8>, out: bool) -> Verdict {
        let view = match View::parse(packet) {
            Ok(view) => view,
            Err(_) => return Verdict::drop(Reason::Malformed),
        };
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (view.ip.source, view.ip.destination)
        else {
            return Verdict::Forward;
        };
        match &mut self.kind {
            Translator::Ports(t) => {
                t.pass(now, packet, &view, &self.external, (source, destination), out)
            }
            Translator::OneToOne(t) => t.pass(packet, &view, (source, destination), out),
        }
    }

    /// What is due; None when nothing is.
    pub fn poll(&mut self, now: Time) -> Option<Output> {
        match &mut self.kind {
            Translator::Ports(t) => t.poll(now),
            Translator::OneToOne(_) => None,
        }
    }

    /// When [`Self::poll`] has something next. Mappings end without anybody being told.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        match &self.kind {
            Translator::Ports(t) => t.next_deadline(),
            Translator::OneToOne(_) => None,
        }
    }

    /// The outside has other addresses now: all mappings die, forwards move. Drain [`Self::poll`].
    ///
    /// # Errors
    /// [`ConfigError`] when the configuration cannot be done with these addresses; nothing changes.
    pub fn readdress(&mut self, external: &[Ipv4Addr]) -> Result<(), ConfigError> {
        match &mut self.kind {
            Translator::Ports(t) => {
                NatConfig::Ports(Box::new(t.config().clone())).check(external)?;
                t.restart(external);
            }
            Translator::OneToOne(t) => t.readdress(&self.external, external)?,
        }
        self.external = external.to_vec();
        Ok(())
    }

    /// Forgets everything that was not configured. Drain [`Self::poll`].
    pub fn reboot(&mut self) {
        if let Translator::Ports(t) = &mut self.kind {
            t.restart(&self.external);
        }
    }

    /// Packets that it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.kind {
            Translator::Ports(t) => t.held(),
            Translator::OneToOne(_) => 0,
        }
    }

    /// Its outside addresses.
    #[must_use]
    pub fn external(&self) -> &[Ipv4Addr] {
        &self.external
    }

    /// The mappings that are alive, forwards among them.
    #[must_use]
    pub fn mappings(&mut self, now: Time) -> Vec<MappingInfo> {
        match &mut self.kind {
            Translator::Ports(t) => t.mappings(now),
            Translator::OneToOne(_) => Vec::new(),
        }
    }
}
