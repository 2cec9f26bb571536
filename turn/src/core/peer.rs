//! CreatePermission and ChannelBind (RFC 8656 sections 10 and 12).

use std::net::{IpAddr, SocketAddr};

use super::request::{Asker, No};
use super::{Family, Flow, Now, Server};
use crate::addr_policy::{Refusal, canonical};
use crate::stun::{Builder, CHANNELS, Class, Message, Method, attr, decode_xor};

/// Peers in one CreatePermission.
const PEERS: usize = 64;

const FORBIDDEN: No = No(403, "Forbidden: this peer is not relayed to");
const FAMILY: No = No(443, "Peer Address Family Mismatch");

impl<R: Clone> Server<R> {
    /// Counts a refusal by the address policy.
    pub(super) fn refused_peer(&mut self, refusal: Refusal) {
        self.counters.refuse_peer(refusal);
    }

    pub(super) fn create_permission(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        asker: &Asker,
    ) -> Result<Builder, No> {
        let limit = self.setup.limits.permissions;
        let family = self.own(flow, asker)?.1.family;
        let addresses = message.attributes().filter(|a| a.kind == attr::XOR_PEER_ADDRESS);
        let addresses = addresses.map(|a| decode_xor(a.value, message.transaction()));
        let addresses: Option<Vec<SocketAddr>> = addresses.take(PEERS + 1).collect();
        let peers = match addresses {
            Some(peers) if (1..=PEERS).contains(&peers.len()) => peers,
            _ => return Err(No(400, "XOR-PEER-ADDRESS is needed, at most 64 of them")),
        };
        for peer in &peers {
            let live = |peer| self.relayed.contains_key(&peer);
            if let Err(refusal) = self.setup.policy.check_permission(*peer, live) {
                self.refused_peer(refusal);
                return Err(FORBIDDEN);
            }
        }
        // Judged after the policy, so that the hidden forms of a forbidden address are forbidden.
        let peers: Vec<IpAddr> = peers.into_iter().map(|p| canonical(p).ip()).collect();
        if peers.iter().any(|ip| Family::of((*ip, 0).into()) != family) {
            return Err(FAMILY);
        }
        let (_, allocation) = self.own(flow, asker)?;
        if !allocation.has_room_for(&peers, limit, now.tick) {
            return Err(No(508, "Too many permissions"));
        }
        for ip in peers {
            allocation.permit(ip, now.tick);
        }
        Ok(Builder::new(Class::Success, Method::CreatePermission, message.transaction()))
    }

    pub(super) fn channel_bind(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        asker: &Asker,
    ) -> Result<Builder, No> {
        let limits = self.setup.limits;
        let family = self.own(flow, asker)?.1.family;
        let number = match message.attribute(attr::CHANNEL_NUMBER) {
            Some([high, low, _, _]) => u16::from_be_bytes([*high, *low]),
            _ => return Err(No(400, "CHANNEL-NUMBER is needed")),
        };
        if !CHANNELS.contains(&number) {
            return Err(No(400, "A channel's number is 0x4000 to 0x7ffe"));
        }
        let peer = message.attribute(attr::XOR_PEER_ADDRESS);
        let peer = peer.and_then(|value| decode_xor(value, message.transaction()));
        let peer = peer.ok_or(No(400, "XOR-PEER-ADDRESS is needed"))?;
        let live = |peer| self.relayed.contains_key(&peer);
        if let Err(refusal) = self.setup.policy.check(peer, live) {
            self.refused_peer(refusal);
            return Err(FORBIDDEN);
        }
        let peer = canonical(peer);
        if Family::of(peer) != family {
            return Err(FAMILY);
        }
        let (_, allocation) = self.own(flow, asker)?;
        let tick = now.tick;
        if allocation.channel(number, tick).is_some_and(|bound| bound != peer) {
            return Err(No(400, "That channel is bound to another peer"));
        }
        if allocation.number(peer, tick).is_some_and(|bound| bound != number) {
            return Err(No(400, "That peer is bound to another channel"));
        }
        if !allocation.has_room_for_channel(number, limits.channels, tick)
            || !allocation.has_room_for(&[peer.ip()], limits.permissions, tick)
        {
            return Err(No(508, "Too many channels"));
        }
        allocation.bind(number, peer, tick);
        allocation.permit(peer.ip(), tick);
        Ok(Builder::new(Class::Success, Method::ChannelBind, message.transaction()))
    }
}
