//! One allocation.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use zeroize::Zeroizing;

use super::{Family, Flow};
use crate::auth::Member;
use crate::stun::Integrity;

/// Shortest lifetime, milliseconds: RFC 8656 section 7.2's default, and its least.
pub(crate) const LIFETIME_MIN: u64 = 600_000;
/// Longest lifetime (section 7.2 recommends an hour).
pub(crate) const LIFETIME_MAX: u64 = 3_600_000;
/// How long a permission holds (section 9).
pub(crate) const PERMISSION: u64 = 300_000;
/// How long a channel is bound (section 12).
pub(crate) const CHANNEL: u64 = 600_000;

/// How the request that made an allocation is to be answered.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) lifetime: u64,
    pub(crate) integrity: Integrity,
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) fingerprint: bool,
    /// ADDITIONAL-ADDRESS-FAMILY was asked for.
    pub(crate) additional: bool,
}

#[derive(Debug)]
pub(crate) enum State<R> {
    /// Its socket is being opened.
    Opening(Box<Pending>),
    Open {
        relay: R,
        relayed: SocketAddr,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Channel {
    pub(crate) peer: SocketAddr,
    pub(crate) expires: u64,
}

#[derive(Debug)]
pub(crate) struct Allocation<R> {
    pub(crate) flow: Flow,
    pub(crate) member: Member,
    /// The credential that it was made or last refreshed with.
    pub(crate) username: Box<str>,
    /// The request that made it, so that its retransmits are known.
    pub(crate) transaction: [u8; 12],
    pub(crate) additional: bool,
    pub(crate) family: Family,
    pub(crate) state: State<R>,
    pub(crate) expires: u64,
    /// The deadline that is in the queue, at `expires` or before it.
    pub(crate) queued: u64,
    permissions: HashMap<IpAddr, u64>,
    channels: HashMap<u16, Channel>,
    numbers: HashMap<SocketAddr, u16>,
}

impl<R> Allocation<R> {
    pub(crate) fn opening(
        flow: Flow,
        member: Member,
        username: &str,
        transaction: [u8; 12],
        family: Family,
        pending: Pending,
        expires: u64,
    ) -> Self {
        Self {
            flow,
            member,
            username: username.into(),
            transaction,
            additional: pending.additional,
            family,
            state: State::Opening(Box::new(pending)),
            expires,
            queued: expires,
            permissions: HashMap::new(),
            channels: HashMap::new(),
            numbers: HashMap::new(),
        }
    }

    pub(crate) fn is_permitted(&self, ip: IpAddr, tick: u64) -> bool {
        self.permissions.get(&ip).is_some_and(|expires| *expires > tick)
    }

    /// Whether permissions for `ips` can be held beside those that are live.
    pub(crate) fn has_room_for(&mut self, ips: &[IpAddr], limit: usize, tick: u64) -> bool {
        let new = ips.iter().filter(|ip| !self.permissions.contains_key(ip)).count();
        if self.permissions.len() + new > limit {
            self.permissions.retain(|_, expires| *expires > tick);
        }
        self.permissions.len() + new <= limit
    }

    pub(crate) fn permit(&mut self, ip: IpAddr, tick: u64) {
        self.permissions.insert(ip, tick.saturating_add(PERMISSION));
    }

    /// The peer that a number is bound to.
    pub(crate) fn channel(&self, number: u16, tick: u64) -> Option<SocketAddr> {
        self.channels.get(&number).filter(|c| c.expires > tick).map(|c| c.peer)
    }

    /// The number that a peer is bound to.
    pub(crate) fn number(&self, peer: SocketAddr, tick: u64) -> Option<u16> {
        let number = self.numbers.get(&peer)?;
        self.channel(*number, tick).map(|_| *number)
    }

    /// Whether one more channel can be held beside those that are live.
    pub(crate) fn has_room_for_channel(&mut self, number: u16, limit: usize, tick: u64) -> bool {
        if self.channels.len() >= limit && !self.channels.contains_key(&number) {
            self.channels.retain(|_, c| c.expires > tick);
            let channels = &self.channels;
            self.numbers.retain(|_, n| channels.contains_key(n));
        }
        self.channels.len() < limit || self.channels.contains_key(&number)
    }

    /// Binds or prolongs; neither is bound to something else that is live.
    pub(crate) fn bind(&mut self, number: u16, peer: SocketAddr, tick: u64) {
        let expires = tick.saturating_add(CHANNEL);
        if let Some(old) = self.channels.insert(number, Channel { peer, expires })
            && old.peer != peer
        {
            self.numbers.remove(&old.peer);
        }
        if let Some(old) = self.numbers.insert(peer, number)
            && old != number
        {
            self.channels.remove(&old);
        }
    }

    /// Permissions, channels and channels by peer that are held, live or not.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.permissions.len(), self.channels.len(), self.numbers.len()]
    }
}
