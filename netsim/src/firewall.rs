//! A stateful firewall for IPv4 and IPv6, without translation. Seen from a router it stands on the
//! inside of the NAT: it knows inside addresses.
//!
//! The default for IPv6 is RFC 6092's: what inside starts is answered, what outside starts is not,
//! ICMPv6 errors about known flows pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::error::ConfigError;
use crate::packet::{ACK, Protocol, SYN, Transport, View};
use crate::prefix::{Prefix, pack};
use crate::reason::Reason;
use crate::session::{Dependence, Kind, Lifetimes, Remote, Sessions, Way};
use crate::time::Time;

/// What a firewall lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallConfig {
    /// Rules for what starts inside; the first that fits counts. What fits none is allowed.
    pub outbound: Vec<Rule>,
    /// Rules for what starts outside, before `inbound_v4` and `inbound_v6`.
    pub inbound: Vec<Rule>,
    /// IPv4 that starts outside.
    pub inbound_v4: Inbound,
    /// IPv6 that starts outside.
    pub inbound_v6: Inbound,
    /// How long flows are remembered. RFC 6092, REC-14 and REC-35 want UDP's above 2 minutes and
    /// TCP's at 2 hours 4 minutes.
    pub lifetimes: Lifetimes,
    /// Inside endpoints that are remembered.
    pub max_endpoints: usize,
    /// Remote ends per inside endpoint.
    pub max_sessions: usize,
}

/// What is done with packets that start a flow from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// They pass.
    Open,
    /// Only what the inside has asked for passes, as precisely as this (RFC 6092, REC-17).
    Answers(Dependence),
    /// Nothing passes, not even answers.
    Closed,
}

/// Which packets a rule is about and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// One protocol; all if none.
    pub protocol: Option<Protocol>,
    /// Destination ports; all if none.
    pub ports: Option<RangeInclusive<u16>>,
    /// Addresses outside; all if none.
    pub outside: Option<Prefix>,
    /// What becomes of them.
    pub action: Action,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped.
    Drop,
    /// It is dropped and its sender is told: RST for TCP, ICMP otherwise.
    Reject,
}

impl Rule {
    /// A rule for all ports and addresses of a protocol.
    #[must_use]
    pub fn new(action: Action, protocol: Protocol) -> Self {
        Self { protocol: Some(protocol), ports: None, outside: None, action }
    }

    /// A rule for one destination port.
    #[must_use]
    pub fn port(action: Action, protocol: Protocol, port: u16) -> Self {
        Self { ports: Some(port..=port), ..Self::new(action, protocol) }
    }

    /// A rule for everything.
    #[must_use]
    pub fn all(action: Action) -> Self {
        Self { protocol: None, ports: None, outside: None, action }
    }

    fn fits(&self, view: &View, outside: IpAddr) -> bool {
        self.protocol.is_none_or(|p| p == view.ip.protocol)
            && self.ports.as_ref().is_none_or(|r| r.contains(&view.ports().1))
            && self.outside.is_none_or(|p| p.contains(outside))
    }
}

impl Default for FirewallConfig {
    fn default() -> Self {
        Self {
            outbound: Vec::new(),
            inbound: Vec::new(),
            inbound_v4: Inbound::Open,
            inbound_v6: Inbound::Answers(Dependence::AddressAndPortDependent),
            lifetimes: Lifetimes::RFC,
            max_endpoints: 65_536,
            max_sessions: 1024,
        }
    }
}

/// What a firewall says to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It passes.
    Pass,
    /// It is dropped.
    Drop(Reason),
    /// It is dropped, and its sender is told.
    Reject,
}

/// Protocol number, inside address and port.
type Endpoint = (u8, u128, u16);

/// What is remembered of one inside endpoint.
#[derive(Clone, Debug)]
struct Flows {
    sessions: Sessions,
    /// When `ends` will look at it: no later than its first session ends.
    check_at: Time,
}

/// A firewall. It changes no packet.
#[derive(Clone, Debug)]
pub struct Firewall {
    config: FirewallConfig,
    flows: BTreeMap<Endpoint, Flows>,
    /// When each endpoint is looked at next.
    ends: BTreeSet<(Time, Endpoint)>,
}

impl Firewall {
    /// # Errors
    /// [`ConfigError`] for limits or lifetimes of zero.
    pub fn new(config: &FirewallConfig) -> Result<Self, ConfigError> {
        for (limit, what) in
            [(config.max_endpoints, "inside endpoints"), (config.max_sessions, "sessions")]
        {
            if limit == 0 {
                return Err(ConfigError::ZeroLimit(what));
            }
        }
        if let Some((what, _)) = config.lifetimes.all().iter().find(|(_, d)| d.is_zero()) {
            return Err(ConfigError::ZeroTimeout(what));
        }
        Ok(Self { config: config.clone(), flows: BTreeMap::new(), ends: BTreeSet::new() })
    }

    /// Forgets every flow.
    pub fn reboot(&mut self) {
        self.flows.clear();
        self.ends.clear();
    }

    /// Inside endpoints that it remembers.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.flows.len()
    }

    /// A packet from inside, before any translation.
    pub fn outbound(&mut self, now: Time, packet: &[u8]) -> Decision {
        let Ok(view) = View::parse(packet) else { return Decision::Drop(Reason::Malformed) };
        let outside = view.ip.destination;
        let fits = self.config.outbound.iter().find(|r| r.fits(&view, outside));
        let action = fits.map_or(Action::Allow, |r| r.action);
        // Errors, later fragments and answers to what came in belong to flows decided on before.
        let (local, remote) = ends(&view, Way::Out);
        let part = matches!(view.transport, Transport::Error | Transport::Later)
            || (action != Action::Allow && self.admitted(now, local, remote));
        match action {
            Action::Drop if !part => return Decision::Drop(Reason::Firewall),
            Action::Reject if !part => return Decision::Reject,
            _ => {}
        }
        self.note(now, &view, Way::Out)
    }

    /// A packet for inside, after any translation.
    pub fn inbound(&mut self, now: Time, packet: &[u8]) -> Decision {
        let Ok(view) = View::parse(packet) else { return Decision::Drop(Reason::Malformed) };
        let outside = view.ip.source;
        let policy =
            if outside.is_ipv4() { self.config.inbound_v4 } else { self.config.inbound_v6 };
        if let Some(rule) = self.config.inbound.iter().find(|r| r.fits(&view, outside)) {
            match rule.action {
                Action::Allow => return self.note(now, &view, Way::In),
                Action::Drop => return Decision::Drop(Reason::Firewall),
                Action::Reject => return Decision::Reject,
            }
        }
        let filtering = match policy {
            Inbound::Open => return self.note(now, &view, Way::In),
            Inbound::Closed => return Decision::Drop(Reason::Firewall),
            Inbound::Answers(filtering) => filtering,
        };
        self.expire(now);
        let passes = match view.transport {
            Transport::Later => true,
            Transport::Error => self.quoted_is_known(now, packet, &view),
            Transport::Tcp { flags, .. } if flags & (SYN | ACK) != SYN => {
                let (local, remote) = ends(&view, Way::In);
                self.flows.get_mut(&local).is_some_and(|f| f.sessions.get(now, remote).is_some())
            }
            _ => {
                let (local, remote) = ends(&view, Way::In);
                self.flows.get(&local).is_some_and(|f| f.sessions.admits(now, filtering, remote))
            }
        };
        if passes { self.note(now, &view, Way::In) } else { Decision::Drop(Reason::Firewall) }
    }

    fn admitted(&mut self, now: Time, local: Endpoint, remote: Remote) -> bool {
        self.expire(now);
        self.flows.get_mut(&local).is_some_and(|f| f.sessions.get(now, remote).is_some())
    }

    /// Whether an ICMP error is about a packet that went out.
    fn quoted_is_known(&mut self, now: Time, packet: &[u8], view: &View) -> bool {
        let quote = packet.get(view.ip.transport + 8..view.ip.end).unwrap_or_default();
        let Ok(inner) = View::parse_quoted(quote) else { return false };
        let (local, remote) = ends(&inner, Way::Out);
        self.flows.get_mut(&local).is_some_and(|f| f.sessions.get(now, remote).is_some())
    }

    fn note(&mut self, now: Time, view: &View, way: Way) -> Decision {
        let policy =
            if view.ip.source.is_ipv4() { self.config.inbound_v4 } else { self.config.inbound_v6 };
        if policy == Inbound::Open && self.config.outbound.is_empty() {
            // Nothing will ever ask whether this flow is known.
            return Decision::Pass;
        }
        let (kind, flags) = match view.transport {
            Transport::Udp { .. } => (Kind::Udp, 0),
            Transport::Tcp { flags, .. } => (Kind::Tcp, flags),
            Transport::Query { .. } => (Kind::Query, 0),
            // Other protocols pass as a flow between two addresses.
            Transport::Other => (Kind::Udp, 0),
            Transport::Error | Transport::Later => return Decision::Pass,
        };
        self.expire(now);
        let (local, remote) = ends(view, way);
        let full = self.flows.len() >= self.config.max_endpoints;
        if full && !self.flows.contains_key(&local) {
            return Decision::Drop(Reason::Limit);
        }
        let flows = self
            .flows
            .entry(local)
            .or_insert_with(|| Flows { sessions: Sessions::default(), check_at: Time::MAX });
        let sessions = &mut flows.sessions.0;
        if sessions.len() >= self.config.max_sessions && !sessions.contains_key(&remote) {
            return Decision::Drop(Reason::Limit);
        }
        let session = sessions.entry(remote).or_default();
        session.touch(now, kind, way, flags, &self.config.lifetimes, true);
        if session.deadline < flows.check_at {
            self.ends.remove(&(flows.check_at, local));
            flows.check_at = session.deadline;
            self.ends.insert((flows.check_at, local));
        }
        Decision::Pass
    }

    fn expire(&mut self, now: Time) {
        while let Some((at, local)) = self.ends.first().copied()
            && at <= now
        {
            self.ends.remove(&(at, local));
            let Some(flows) = self.flows.get_mut(&local) else { continue };
            flows.sessions.0.retain(|_, s| s.deadline > now);
            match flows.sessions.next_end() {
                Some(next) => {
                    flows.check_at = next;
                    self.ends.insert((next, local));
                }
                None => {
                    self.flows.remove(&local);
                }
            }
        }
    }
}

/// The inside endpoint and the remote end of a packet.
fn ends(view: &View, way: Way) -> (Endpoint, Remote) {
    let (source, destination) = (pack(view.ip.source), pack(view.ip.destination));
    let (from, to) = view.ports();
    let protocol = view.ip.protocol.number();
    // An identifier belongs to whoever asks; the other end has none.
    let query = matches!(view.transport, Transport::Query { .. });
    let other = |port| if query { 0 } else { port };
    match way {
        Way::Out => ((protocol, source, from), (destination, other(to))),
        Way::In => ((protocol, destination, to), (source, other(from))),
    }
}
