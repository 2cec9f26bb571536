//! A router: between inside networks and one uplink, with a NAT and a firewall or without.
//!
//! Order from inside: TTL, firewall, NAT. From outside: TTL, NAT, firewall. It says where a packet goes
//! and does not send anything itself.

use std::net::{IpAddr, Ipv4Addr};

use crate::error::ConfigError;
use crate::firewall::{Decision, Firewall, FirewallConfig};
use crate::nat::{Nat, NatConfig, Output, Pair, Verdict};
use crate::packet::{
    End, IcmpError, View, decrement_ttl, echo_reply, header_checksum_ok, icmp_error, rewrite_v4,
    tcp_reset,
};
use crate::prefix::Prefix;
use crate::reason::Reason;
use crate::time::Time;
use crate::topology::IfaceId;

/// What a router does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// Translation of IPv4; none if none. Its outside addresses are the uplink's IPv4 addresses.
    pub nat: Option<NatConfig>,
    /// Filtering.
    pub firewall: Option<FirewallConfig>,
    /// Whether its own addresses answer echo requests.
    pub answers_ping: bool,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self { nat: None, firewall: None, answers_ping: true }
    }
}

impl RouterConfig {
    /// The same with addresses translated one to one instead of whatever it did before.
    #[must_use]
    pub fn with_pairs(self, pairs: Vec<Pair>) -> Self {
        Self { nat: Some(NatConfig::OneToOne(pairs)), ..self }
    }
}

/// The source of errors where a router has no address of the family (RFC 7600).
const NAMELESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));

/// What becomes of a packet at a router.
#[derive(Debug)]
pub(crate) enum Routed {
    /// It goes on through this interface.
    To(IfaceId),
    /// The router itself was meant; this is its reply.
    Absorbed(Vec<u8>),
    /// The NAT keeps it for now.
    Held,
    /// It goes nowhere, and this goes back.
    Drop(Reason, Option<Vec<u8>>),
}

pub(crate) struct Router {
    pub(crate) name: String,
    seed: u64,
    config: RouterConfig,
    nat: Option<Nat>,
    firewall: Option<Firewall>,
    outside: IfaceId,
    /// Inside prefixes, longest first.
    inside: Vec<(Prefix, IfaceId)>,
    addresses: Vec<(IfaceId, Vec<IpAddr>)>,
    /// The earliest timer that the engine holds for this router.
    pub(crate) timer: Option<Time>,
}

fn v4(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    let only = |a: &IpAddr| if let IpAddr::V4(a) = a { Some(*a) } else { None };
    addresses.iter().filter_map(only).collect()
}

impl Router {
    pub(crate) fn new(
        seed: u64,
        name: &str,
        config: RouterConfig,
        outside: (IfaceId, &[IpAddr]),
    ) -> Result<Self, ConfigError> {
        let nat = match &config.nat {
            Some(nat) => Some(Nat::new(seed, name, nat, &v4(outside.1))?),
            None => None,
        };
        let firewall = config.firewall.as_ref().map(Firewall::new).transpose()?;
        Ok(Self {
            name: name.to_owned(),
            seed,
            config,
            nat,
            firewall,
            outside: outside.0,
            inside: Vec::new(),
            addresses: vec![(outside.0, outside.1.to_vec())],
            timer: None,
        })
    }

    pub(crate) fn add_inside(&mut self, iface: IfaceId, prefixes: &[Prefix], addrs: &[IpAddr]) {
        self.inside.extend(prefixes.iter().map(|p| (*p, iface)));
        self.inside.sort_by_key(|(p, _)| std::cmp::Reverse(p.length()));
        self.addresses.push((iface, addrs.to_vec()));
    }

    pub(crate) fn nat(&mut self) -> Option<&mut Nat> {
        self.nat.as_mut()
    }

    pub(crate) fn held(&self) -> usize {
        self.nat.as_ref().map_or(0, Nat::held)
    }

    /// The next inside hop or the uplink.
    pub(crate) fn route(&self, to: IpAddr) -> IfaceId {
        let inside = self.inside.iter().find(|(p, _)| p.contains(to));
        inside.map_or(self.outside, |(_, iface)| *iface)
    }

    fn address(&self, iface: IfaceId, like: IpAddr) -> IpAddr {
        let of = self.addresses.iter().find(|(i, _)| *i == iface);
        let fits = |a: &&IpAddr| a.is_ipv4() == like.is_ipv4();
        let here = of.and_then(|(_, list)| list.iter().find(fits));
        let any = || self.addresses.iter().flat_map(|(_, list)| list).find(fits);
        here.or_else(any).copied().unwrap_or(NAMELESS)
    }

    /// Whether a packet to this address is the router's own business before any translation.
    fn is_own(&self, to: IpAddr) -> bool {
        let translated = self.nat.is_some() && to.is_ipv4();
        self.addresses
            .iter()
            .any(|(iface, list)| (*iface != self.outside || !translated) && list.contains(&to))
    }

    fn own(&self, packet: &[u8], view: &View) -> Routed {
        match echo_reply(packet, view).filter(|_| self.config.answers_ping) {
            Some(reply) => Routed::Absorbed(reply),
            None => Routed::Drop(Reason::NotServed, None),
        }
    }

    /// A packet came in through `from`.
    pub(crate) fn forward(&mut self, now: Time, from: IfaceId, packet: &mut Vec<u8>) -> Routed {
        let Ok(view) = View::parse(packet) else { return Routed::Drop(Reason::Malformed, None) };
        if !header_checksum_ok(packet, &view.ip) {
            return Routed::Drop(Reason::BadChecksum, None);
        }
        let to = view.ip.destination;
        if self.is_own(to) {
            return self.own(packet, &view);
        }
        if !decrement_ttl(packet, &view, 1) {
            let me = self.address(from, to);
            let answer = icmp_error(me, IcmpError::TimeExceeded, packet);
            return Routed::Drop(Reason::TtlExpired, answer);
        }
        if from == self.outside {
            self.inward(now, packet, &view)
        } else {
            self.outward(now, from, packet, &view)
        }
    }

    fn outward(&mut self, now: Time, from: IfaceId, packet: &mut Vec<u8>, view: &View) -> Routed {
        let next = self.route(view.ip.destination);
        if next != self.outside {
            return Routed::To(next);
        }
        if let Some(firewall) = &mut self.firewall {
            match firewall.outbound(now, packet) {
                Decision::Pass => {}
                Decision::Drop(reason) => return Routed::Drop(reason, None),
                Decision::Reject => return self.reject(from, packet, view),
            }
        }
        let Some(nat) = &mut self.nat else { return Routed::To(self.outside) };
        match nat.outbound(now, packet) {
            Verdict::Forward => Routed::To(self.outside),
            Verdict::Turn => match View::parse(packet) {
                Ok(turned) => Routed::To(self.route(turned.ip.destination)),
                Err(_) => Routed::Drop(Reason::Malformed, None),
            },
            Verdict::Own => self.own(packet, view),
            Verdict::Held => Routed::Held,
            Verdict::Drop { reason, answer } => {
                Routed::Drop(reason, answer.map(|a| self.signed(from, a)))
            }
        }
    }

    fn inward(&mut self, now: Time, packet: &mut Vec<u8>, view: &View) -> Routed {
        if let Some(nat) = &mut self.nat {
            match nat.inbound(now, packet) {
                Verdict::Forward | Verdict::Turn => {}
                Verdict::Own => return self.own(packet, view),
                Verdict::Held => return Routed::Held,
                Verdict::Drop { reason, answer } => return Routed::Drop(reason, answer),
            }
        }
        if let Some(firewall) = &mut self.firewall {
            match firewall.inbound(now, packet) {
                Decision::Pass => {}
                Decision::Drop(reason) => return Routed::Drop(reason, None),
                Decision::Reject => return self.reject(self.outside, packet, view),
            }
        }
        let to = View::parse(packet).map_or(view.ip.destination, |v| v.ip.destination);
        match self.route(to) {
            // What came down the uplink never goes back up: two routers would play ball with it.
            next if next == self.outside => {
                let me = self.address(self.outside, to);
                let answer = icmp_error(me, IcmpError::HostUnreachable, packet);
                Routed::Drop(Reason::NoRoute, answer.filter(|_| self.nat.is_none()))
            }
            next => Routed::To(next),
        }
    }

    fn reject(&self, from: IfaceId, packet: &[u8], view: &View) -> Routed {
        let me = self.address(from, view.ip.source);
        let answer =
            tcp_reset(packet, view).or_else(|| icmp_error(me, IcmpError::Prohibited, packet));
        Routed::Drop(Reason::Firewall, answer)
    }

    /// Puts the router's address into an answer of its NAT, which knows none inside.
    fn signed(&self, from: IfaceId, mut answer: Vec<u8>) -> Vec<u8> {
        if let Ok(view) = View::parse(&answer)
            && view.ip.source.is_unspecified()
            && let IpAddr::V4(me) = self.address(from, view.ip.source)
        {
            rewrite_v4(&mut answer, &view, End::Source, me, 0);
        }
        answer
    }

    /// The packet that was to leave through `out` could not; tells its sender, through the NAT back.
    pub(crate) fn complain(
        &mut self,
        now: Time,
        out: IfaceId,
        what: IcmpError,
        packet: &[u8],
    ) -> Option<(IfaceId, Vec<u8>)> {
        let source = View::parse(packet).ok()?.ip.source;
        let me = self.address(self.outside, source);
        let mut error = icmp_error(me, what, packet)?;
        let back_inside = out == self.outside;
        if let Some(nat) = &mut self.nat
            && source.is_ipv4()
        {
            let own = matches!(source, IpAddr::V4(a) if nat.external().contains(&a));
            if back_inside && own {
                if nat.inbound(now, &mut error) != Verdict::Forward {
                    return None;
                }
            } else if !back_inside {
                match nat.outbound(now, &mut error) {
                    Verdict::Forward | Verdict::Turn => {}
                    _ => return None,
                }
            }
        }
        let to = View::parse(&error).ok()?.ip.destination;
        Some((self.route(to), error))
    }

    /// What the NAT has to say by now.
    pub(crate) fn poll(&mut self, now: Time) -> Option<Output> {
        self.nat.as_mut()?.poll(now)
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.nat.as_ref()?.next_deadline()
    }

    pub(crate) fn outside(&self) -> IfaceId {
        self.outside
    }

    pub(crate) fn readdress(&mut self, addrs: &[IpAddr]) -> Result<(), ConfigError> {
        if let Some(nat) = &mut self.nat {
            nat.readdress(&v4(addrs))?;
        }
        if let Some((_, list)) = self.addresses.first_mut() {
            *list = addrs.to_vec();
        }
        Ok(())
    }

    pub(crate) fn readdress_inside(&mut self, iface: IfaceId, addrs: &[IpAddr]) {
        if let Some((_, list)) = self.addresses.iter_mut().find(|(i, _)| *i == iface) {
            *list = addrs.to_vec();
        }
    }

    pub(crate) fn reboot(&mut self) {
        if let Some(nat) = &mut self.nat {
            nat.reboot();
        }
        if let Some(firewall) = &mut self.firewall {
            firewall.reboot();
        }
    }

    pub(crate) fn set_firewall(&mut self, new: Option<&FirewallConfig>) -> Result<(), ConfigError> {
        self.firewall = new.map(Firewall::new).transpose()?;
        Ok(())
    }

    /// Puts another firewall, or none, in place and hands out the old one with its flows.
    #[cfg(target_os = "linux")]
    pub(crate) fn swap_firewall(&mut self, new: Option<Firewall>) -> Option<Firewall> {
        std::mem::replace(&mut self.firewall, new)
    }

    /// Whether the NAT could be this one.
    pub(crate) fn check_nat(&self, config: &NatConfig) -> Result<(), ConfigError> {
        config.check(&self.addresses.first().map(|(_, list)| v4(list)).unwrap_or_default())
    }

    /// Another translation from now on; all mappings die. A NAT that was there hands over what it
    /// held to nobody: drain [`Self::poll`] before.
    pub(crate) fn set_nat(&mut self, new: Option<&NatConfig>) -> Result<(), ConfigError> {
        let addrs = self.addresses.first().map(|(_, list)| v4(list)).unwrap_or_default();
        self.nat = new.map(|config| Nat::new(self.seed, &self.name, config, &addrs)).transpose()?;
        Ok(())
    }
}
