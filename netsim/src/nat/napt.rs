//! Translation of addresses and ports, packet by packet.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::config::{Forward, Limits, MidStream, Napt, Refusal, UnsolicitedSyn};
use super::fragments::{self, Fate, Fragments, Later};
use super::ports::Chooser;
use super::syn::Unsolicited;
use super::table::{Endpoint, Mappings};
use super::{MappingInfo, Output, Verdict};
use crate::dice::Dice;
use crate::packet::{
    ACK, End, FIN, IcmpError, Protocol, RST, SYN, Transport, View, icmp_error, rewrite_v4,
    tcp_reset,
};
use crate::prefix::pack;
use crate::reason::Reason;
use crate::session::{Kind, Remote, Session, Way};
use crate::time::Time;

#[derive(Clone, Debug)]
pub(super) struct Translator {
    pub(super) config: Napt,
    pub(super) mappings: Mappings,
    chooser: Chooser,
    fragments: Fragments,
    syns: Unsolicited,
    out: VecDeque<Output>,
}

/// An endpoint as sessions know it.
pub(super) fn remote((address, port): Endpoint) -> Remote {
    (pack(address.into()), port)
}

/// A packet's protocol, ends and TCP flags, as a NAT sees them.
pub(super) struct Flow {
    pub(super) kind: Kind,
    pub(super) source: Endpoint,
    pub(super) destination: Endpoint,
    flags: u8,
}

pub(super) fn flow(view: &View, (from, to): (Ipv4Addr, Ipv4Addr)) -> Option<Flow> {
    let (source, destination) = view.ports();
    let (kind, flags) = match view.transport {
        Transport::Udp { .. } => (Kind::Udp, 0),
        Transport::Tcp { flags, .. } => (Kind::Tcp, flags),
        Transport::Query { .. } => (Kind::Query, 0),
        Transport::Error | Transport::Later | Transport::Other => return None,
    };
    Some(Flow { kind, source: (from, source), destination: (to, destination), flags })
}

impl Translator {
    pub(super) fn new(config: &Napt, external: &[Ipv4Addr], dice: Dice) -> Self {
        let mut new = Self {
            config: config.clone(),
            mappings: Mappings::new(config),
            chooser: Chooser::new(dice),
            fragments: Fragments::default(),
            syns: Unsolicited::default(),
            out: VecDeque::new(),
        };
        new.restart(external);
        new
    }

    pub(super) fn config(&self) -> &Napt {
        &self.config
    }

    pub(super) fn held(&self) -> usize {
        let waiting = |o: &&Output| !matches!(o, Output::Say(_));
        self.fragments.held() + self.out.iter().filter(waiting).count()
    }

    /// Forgets all but the configured forwards.
    pub(super) fn restart(&mut self, external: &[Ipv4Addr]) {
        self.mappings = Mappings::new(&self.config);
        self.syns = Unsolicited::default();
        let mut lost = Vec::new();
        self.fragments.clear(&mut lost);
        self.out.extend(lost.into_iter().map(|p| Output::Lost(Reason::Fragment, p)));
        for Forward { tcp, external: index, port, to, to_port } in &self.config.forwards {
            if let Some(address) = external.get(*index) {
                let kind = if *tcp { Kind::Tcp } else { Kind::Udp };
                self.mappings.insert(kind, (*to, *to_port), (*address, *port), (0, 0), true);
            }
        }
    }

    pub(super) fn pass(
        &mut self,
        now: Time,
        packet: &mut Vec<u8>,
        view: &View,
        external: &[Ipv4Addr],
        ends: (Ipv4Addr, Ipv4Addr),
        out: bool,
    ) -> Verdict {
        self.expire(now);
        let way = if out { Way::Out } else { Way::In };
        let fragment = view.ip.fragment.and_then(|f| fragments::key(way, view, f));
        let later = view.transport == Transport::Later;
        if self.is_exempt(ends, view, out) {
            return Verdict::Forward;
        }
        if !out && !external.contains(&ends.1) {
            return Verdict::drop(Reason::NoRoute);
        }
        let verdict = match (view.transport, fragment) {
            (Transport::Later, Some(key)) => self.follow(now, key, packet),
            (Transport::Error, None) => self.error(packet, view, external, ends, out),
            _ => match flow(view, ends) {
                None => Verdict::drop(Reason::Untranslatable),
                Some(flow) if out => self.outbound(now, packet, view, external, &flow),
                Some(flow) => self.inbound(now, packet, view, &flow),
            },
        };
        if let (false, Some(key)) = (later, fragment) {
            self.lead(now, key, packet, &verdict, out);
        }
        verdict
    }

    /// A later fragment goes where its first one went.
    fn follow(&mut self, now: Time, key: u128, packet: &mut Vec<u8>) -> Verdict {
        match self.fragments.later(now, key, packet) {
            Later::Held => Verdict::Held,
            Later::NoRoom => Verdict::drop(Reason::Fragment),
            Later::Follow(Fate::Dropped(reason)) => Verdict::drop(reason),
            Later::Follow(Fate::Sent { source, destination, turned }) => {
                fragments::follow(packet, source, destination);
                if turned { Verdict::Turn } else { Verdict::Forward }
            }
        }
    }

    /// A first fragment was decided on: those that wait for it follow.
    fn lead(&mut self, now: Time, key: u128, packet: &[u8], verdict: &Verdict, out: bool) {
        let ends = View::parse(packet).ok().map(|v| (v.ip.source, v.ip.destination));
        let fate = match (verdict, ends) {
            (
                Verdict::Forward | Verdict::Turn,
                Some((std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination))),
            ) => Fate::Sent { source, destination, turned: *verdict == Verdict::Turn },
            (Verdict::Drop { reason, .. }, _) => Fate::Dropped(*reason),
            _ => Fate::Dropped(Reason::Fragment),
        };
        for mut waiting in self.fragments.first(now, key, fate) {
            self.out.push_back(match fate {
                Fate::Dropped(reason) => Output::Lost(reason, waiting),
                Fate::Sent { source, destination, turned } => {
                    fragments::follow(&mut waiting, source, destination);
                    if out && !turned { Output::Outside(waiting) } else { Output::Inside(waiting) }
                }
            });
        }
    }

    fn is_exempt(&self, (from, to): (Ipv4Addr, Ipv4Addr), view: &View, out: bool) -> bool {
        let (outer, port) = if out { (to, view.ports().1) } else { (from, view.ports().0) };
        let hit = |port: u16| {
            self.config
                .exempt
                .iter()
                .any(|e| e.to.contains(outer.into()) && e.port.is_none_or(|p| p == port))
        };
        !self.config.exempt.is_empty() && hit(port)
    }

    fn outbound(
        &mut self,
        now: Time,
        packet: &mut [u8],
        view: &View,
        external: &[Ipv4Addr],
        flow: &Flow,
    ) -> Verdict {
        let turn = external.contains(&flow.destination.0);
        if turn && matches!(view.transport, Transport::Query { .. }) {
            return Verdict::Own;
        }
        if turn && !self.config.hairpin {
            return Verdict::drop(Reason::NoHairpin);
        }
        let outer = match self.leave(now, packet, view, external, flow) {
            Ok(outer) => outer,
            Err(verdict) => return verdict,
        };
        let target = if turn {
            match self.enter(now, flow, outer, packet, view) {
                Ok(inside) => Some(inside),
                Err(verdict) => return verdict,
            }
        } else {
            None
        };
        rewrite_v4(packet, view, End::Source, outer.0, outer.1);
        let Some((address, port)) = target else { return Verdict::Forward };
        rewrite_v4(packet, view, End::Destination, address, port);
        Verdict::Turn
    }

    fn inbound(&mut self, now: Time, packet: &mut [u8], view: &View, flow: &Flow) -> Verdict {
        if matches!(view.transport, Transport::Query { request: true, .. }) {
            return Verdict::Own;
        }
        match self.enter(now, flow, flow.source, packet, view) {
            Err(verdict) => verdict,
            Ok((address, port)) => {
                rewrite_v4(packet, view, End::Destination, address, port);
                Verdict::Forward
            }
        }
    }

    /// The outside endpoint for a packet from inside; makes the mapping if need be.
    fn leave(
        &mut self,
        now: Time,
        packet: &[u8],
        view: &View,
        external: &[Ipv4Addr],
        flow: &Flow,
    ) -> Result<Endpoint, Verdict> {
        let Flow { kind, source, destination, flags } = *flow;
        let to = remote(destination);
        let found = self.mappings.leaving(kind, source, to);
        let opens = flags & (SYN | ACK) == SYN;
        // What answers, ends or resets never opens anything; for others of unknown connections see
        // MidStream.
        let middle = flags & (SYN | ACK | FIN | RST) == ACK;
        let adopted = middle && self.config.mid_stream == MidStream::Adopt;
        let welcome = opens || adopted || found.is_some_and(|slot| self.knows(now, slot, to));
        let stray = kind == Kind::Tcp && !welcome;
        if stray {
            let answer = (self.config.mid_stream == MidStream::Reset)
                .then(|| tcp_reset(packet, view))
                .flatten();
            return Err(Verdict::Drop { reason: Reason::TcpState, answer });
        }
        let slot = match found {
            Some(slot) => slot,
            None => match self.create(kind, source, to, external) {
                Ok(slot) => slot,
                Err(reason) => return Err(self.refuse(reason, packet)),
            },
        };
        if !self.note(now, slot, to, Way::Out, flags, kind == Kind::Tcp && !opens) {
            return Err(self.refuse(Reason::Limit, packet));
        }
        let outer = self.mappings.get(slot).map_or(source, |m| m.external);
        if opens {
            self.syns.opened(outer, destination);
        }
        Ok(outer)
    }

    fn knows(&mut self, now: Time, slot: u32, to: Remote) -> bool {
        self.mappings.get(slot).is_some_and(|m| m.sessions.get(now, to).is_some())
    }

    fn create(
        &mut self,
        kind: Kind,
        source: Endpoint,
        to: Remote,
        external: &[Ipv4Addr],
    ) -> Result<u32, Reason> {
        let Limits { mappings, per_subscriber, .. } = self.config.limits;
        let full = self.mappings.live() >= mappings
            || per_subscriber.is_some_and(|limit| self.mappings.count(source.0, kind) >= limit);
        if full {
            return Err(Reason::Limit);
        }
        let outer = self
            .chooser
            .choose(&self.config, external, &self.mappings, kind, source, to)
            .ok_or(Reason::NoPorts)?;
        Ok(self.mappings.insert(kind, source, outer, to, false))
    }

    fn refuse(&self, reason: Reason, packet: &[u8]) -> Verdict {
        let what = match self.config.refusal {
            Refusal::Silent => return Verdict::drop(reason),
            Refusal::Prohibited => IcmpError::Prohibited,
            Refusal::HostUnreachable => IcmpError::HostUnreachable,
        };
        // The unspecified source is replaced by the router, which knows its inside address.
        let answer = icmp_error(Ipv4Addr::UNSPECIFIED.into(), what, packet);
        Verdict::Drop { reason, answer }
    }

    /// The inside endpoint for a packet from `from` to the NAT's `flow.destination`.
    fn enter(
        &mut self,
        now: Time,
        flow: &Flow,
        from: Endpoint,
        packet: &[u8],
        view: &View,
    ) -> Result<Endpoint, Verdict> {
        let Flow { kind, destination, flags, .. } = *flow;
        let opens = kind == Kind::Tcp && flags & (SYN | ACK) == SYN;
        let sender = remote(from);
        let filtering = self.mappings.behaviour(kind).filtering;
        let slot = self.mappings.entering(kind, destination, sender);
        let verdict = match slot.and_then(|s| Some((s, self.mappings.get(s)?))) {
            None => Err(Reason::NoMapping),
            Some((slot, m)) => {
                let known = kind == Kind::Tcp && m.sessions.get(now, sender).is_some();
                let admitted = m.fixed || m.sessions.admits(now, filtering, sender);
                match (admitted, kind == Kind::Tcp && !known && !opens) {
                    (true, false) => Ok((slot, m.inside)),
                    (true, true) => Err(Reason::TcpState),
                    (false, _) => Err(Reason::Filtered),
                }
            }
        };
        match verdict {
            Ok((slot, inside)) => {
                if self.note(now, slot, sender, Way::In, flags, false) {
                    Ok(inside)
                } else {
                    Err(Verdict::drop(Reason::Limit))
                }
            }
            Err(_) if opens => Err(self.unsolicited(now, destination, from, packet, view)),
            Err(reason) => Err(Verdict::drop(reason)),
        }
    }

    fn unsolicited(
        &mut self,
        now: Time,
        external: Endpoint,
        from: Endpoint,
        packet: &[u8],
        view: &View,
    ) -> Verdict {
        let answer = match self.config.unsolicited_syn {
            UnsolicitedSyn::Drop => None,
            UnsolicitedSyn::Reset => tcp_reset(packet, view),
            UnsolicitedSyn::Wait(wait) => {
                self.syns.came(now + wait, external, from, packet);
                None
            }
        };
        Verdict::Drop { reason: Reason::UnsolicitedSyn, answer }
    }

    /// A packet of this mapping passes: its session begins or lasts longer. False when there is no
    /// room for the session.
    fn note(
        &mut self,
        now: Time,
        slot: u32,
        peer: Remote,
        way: Way,
        flags: u8,
        adopt: bool,
    ) -> bool {
        let limit = usize::try_from(self.config.limits.sessions).unwrap_or(usize::MAX);
        let Some(mapping) = self.mappings.get(slot) else { return false };
        let (kind, fixed) = (mapping.kind, mapping.fixed);
        let exact = self.mappings.precision(kind, fixed).mask(peer);
        let lifetimes = self.config.lifetimes;
        let refresh = way == Way::Out || self.config.inbound_refresh;
        let Some(mapping) = self.mappings.get(slot) else { return false };
        let full = mapping.sessions.0.len() >= limit;
        let known = mapping.sessions.0.get_mut(&exact);
        let before = known.as_ref().map(|s| s.deadline);
        let deadline = match known {
            Some(session) => {
                session.touch(now, kind, way, flags, &lifetimes, refresh);
                session.deadline
            }
            None if full => return false,
            None => {
                let last = mapping.sessions.last_end();
                let mut session = Session::default();
                if adopt {
                    session.adopt();
                }
                // What comes in first lasts no longer than what let it in, unless it refreshes.
                session.touch(now, kind, way, flags, &lifetimes, true);
                if !refresh && kind != Kind::Tcp {
                    session.deadline = last.unwrap_or(session.deadline);
                }
                let deadline = session.deadline;
                mapping.sessions.0.insert(exact, session);
                deadline
            }
        };
        if before.is_none_or(|b| deadline < b) {
            self.mappings.scheduled(slot, peer, deadline, before.is_none() && way == Way::In);
        }
        true
    }

    fn expire(&mut self, now: Time) {
        self.mappings.expire(now);
        let mut lost = Vec::new();
        self.fragments.expire(now, &mut lost);
        self.out.extend(lost.into_iter().map(|p| Output::Lost(Reason::Fragment, p)));
    }

    pub(super) fn poll(&mut self, now: Time) -> Option<Output> {
        self.expire(now);
        while let Some(answer) = self.syns.due(now) {
            self.out.extend(answer.map(Output::Say));
        }
        self.out.pop_front()
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        if !self.out.is_empty() {
            return Some(Time::ZERO);
        }
        self.syns.next_deadline().into_iter().chain(self.fragments.next_deadline()).min()
    }

    pub(super) fn mappings(&mut self, now: Time) -> Vec<MappingInfo> {
        self.mappings.expire(now);
        let socket = |(address, port): Endpoint| SocketAddrV4::new(address, port);
        let info = self.mappings.iter().map(|m| MappingInfo {
            protocol: match m.kind {
                Kind::Udp => Protocol::Udp,
                Kind::Tcp => Protocol::Tcp,
                Kind::Query => Protocol::Icmp,
            },
            inside: socket(m.inside),
            external: socket(m.external),
            sessions: m.sessions.0.len(),
        });
        info.collect()
    }
}
