//! Data in both directions (RFC 8656 sections 11 and 12).

use std::net::SocketAddr;

use super::allocation::State;
use super::{AllocationId, Flow, Now, Outcome, Server};
use crate::addr_policy::canonical;
use crate::metrics::Refused;
use crate::stun::{Builder, Class, Message, Method, attr, channel_header, decode_xor, padding};

/// How data travels to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrap {
    /// Behind a channel's header.
    Channel(u16),
    /// In a Data indication.
    Indication {
        /// Whose data.
        peer: SocketAddr,
        /// Which indication.
        transaction: [u8; 12],
    },
}

/// Data's way to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The client.
    pub flow: Flow,
    /// Around the data.
    pub wrap: Wrap,
}

impl Delivery {
    /// Appends what goes out for `data`; nothing where it is too long for that.
    pub fn write(&self, data: &[u8], out: &mut Vec<u8>) {
        match self.wrap {
            Wrap::Channel(number) => {
                let Ok(length) = u16::try_from(data.len()) else { return };
                out.extend(channel_header(number, length));
                out.extend(data);
                if self.flow.is_stream() {
                    out.resize(out.len() + padding(data.len()), 0);
                }
            }
            Wrap::Indication { .. } if data.len() > INDICATION => {}
            Wrap::Indication { peer, transaction } => {
                let message = Builder::new(Class::Indication, Method::Data, &transaction)
                    .xor_address(attr::XOR_PEER_ADDRESS, peer)
                    .attribute(attr::DATA, data);
                out.extend(message.finish());
            }
        }
    }
}

/// Most data that fits into an indication, beside an IPv6 peer.
const INDICATION: usize = 65_500;

fn size(data: &[u8]) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

impl<R: Clone> Server<R> {
    pub(super) fn channel_message<'a>(
        &mut self,
        now: Now,
        flow: &Flow,
        number: u16,
        data: &'a [u8],
    ) -> Outcome<'a, R> {
        let Some(id) = self.flows.get(flow).copied() else { return Outcome::Nothing };
        let allocation = self.allocations.get(&id);
        let Some(peer) = allocation.and_then(|a| a.channel(number, now.tick)) else {
            self.counters.refuse(Refused::NoPermission);
            return Outcome::Nothing;
        };
        // The policy judged this peer when it was bound. What can have changed since is whether
        // one of our own ports is still a relayed one.
        self.forward(now, id, peer, data)
    }

    pub(super) fn send_indication<'a>(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'a>,
    ) -> Outcome<'a, R> {
        let Some(id) = self.flows.get(flow).copied() else { return Outcome::Nothing };
        let unknown = message.attributes().any(|a| attr::is_unknown(a.kind));
        let peer = message.attribute(attr::XOR_PEER_ADDRESS);
        let peer = peer.and_then(|value| decode_xor(value, message.transaction()));
        let (false, Some(peer), Some(data)) = (unknown, peer, message.attribute(attr::DATA)) else {
            self.counters.refuse(Refused::Malformed);
            return Outcome::Nothing;
        };
        let live = |peer| self.relayed.contains_key(&peer);
        if let Err(refusal) = self.setup.policy.check(peer, live) {
            self.refused_peer(refusal);
            return Outcome::Nothing;
        }
        let peer = canonical(peer);
        if !self.allocations.get(&id).is_some_and(|a| a.is_permitted(peer.ip(), now.tick)) {
            self.counters.refuse(Refused::NoPermission);
            return Outcome::Nothing;
        }
        self.forward(now, id, peer, data)
    }

    fn forward<'a>(
        &mut self,
        now: Now,
        id: AllocationId,
        peer: SocketAddr,
        data: &'a [u8],
    ) -> Outcome<'a, R> {
        let Some(allocation) = self.allocations.get(&id) else { return Outcome::Nothing };
        let State::Open { relay, relayed } = &allocation.state else { return Outcome::Nothing };
        let (relay, relayed) = (relay.clone(), *relayed);
        let inner = self.relayed.get(&peer).copied();
        if inner.is_none() && self.setup.policy.is_own(peer.ip()) {
            self.refused_peer(crate::addr_policy::Refusal::Own);
            return Outcome::Nothing;
        }
        let (member, transport) = (allocation.member.clone(), allocation.flow.transport);
        if !self.claim_bytes(&member, size(data), now.tick) {
            self.counters.refuse(Refused::ByteQuota);
            return Outcome::Nothing;
        }
        self.counters.count_to_peers(member.kind(), transport, size(data));
        match inner {
            // The peer is another client of ours: no need for the detour through the system.
            Some(other) => match self.peer_sent(now, other, relayed, data.len()) {
                Some(delivery) => Outcome::ToClient(delivery, data),
                None => Outcome::Nothing,
            },
            None => Outcome::ToPeer { relay, peer, data },
        }
    }

    /// Says where `length` bytes go that `peer` sent to an allocation's relayed address, if
    /// anywhere.
    pub fn peer_sent(
        &mut self,
        now: Now,
        id: AllocationId,
        peer: SocketAddr,
        length: usize,
    ) -> Option<Delivery> {
        let peer = canonical(peer);
        let allocation = self.allocations.get(&id)?;
        let permitted = allocation.is_permitted(peer.ip(), now.tick);
        let own = self.setup.policy.is_own(peer.ip()) && !self.relayed.contains_key(&peer);
        if !permitted || own {
            self.counters.refuse(Refused::NoPermission);
            return None;
        }
        let flow = allocation.flow;
        let channel = allocation.number(peer, now.tick);
        let member = allocation.member.clone();
        let bytes = u64::try_from(length).unwrap_or(u64::MAX);
        if !self.claim_bytes(&member, bytes, now.tick) {
            self.counters.refuse(Refused::ByteQuota);
            return None;
        }
        self.counters.count_to_clients(member.kind(), flow.transport, bytes);
        let wrap = match channel {
            Some(number) => Wrap::Channel(number),
            None => {
                let mut transaction = [0; 12];
                transaction[4..].copy_from_slice(&self.next.to_be_bytes());
                self.next += 1;
                Wrap::Indication { peer, transaction }
            }
        };
        Some(Delivery { flow, wrap })
    }
}
