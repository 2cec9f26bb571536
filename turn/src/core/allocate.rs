//! Allocate and Refresh (RFC 8656 sections 7 and 8).

use std::cmp::Reverse;
use std::io;
use std::net::SocketAddr;

use super::allocation::{Allocation, LIFETIME_MAX, LIFETIME_MIN, Pending, State};
use super::request::{Asker, No};
use super::{AllocationId, Event, Family, Flow, Now, Open, Outcome, Server, Via};
use crate::addr_policy::canonical;
use crate::metrics::Refused;
use crate::stun::{Builder, Class, Message, Method, attr};

/// REQUESTED-TRANSPORT's number of UDP.
const UDP: u8 = 17;

/// What an Allocate asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    family: Family,
    even: bool,
    additional: bool,
    lifetime: u64,
}

fn family(value: &[u8]) -> Option<Family> {
    match value.first() {
        Some(1) if value.len() == 4 => Some(Family::V4),
        Some(2) if value.len() == 4 => Some(Family::V6),
        _ => None,
    }
}

/// LIFETIME as milliseconds within our bounds; 0 stays 0.
fn lifetime(message: &Message<'_>) -> Result<Option<u64>, No> {
    let Some(value) = message.attribute(attr::LIFETIME) else { return Ok(None) };
    let value: [u8; 4] = value.try_into().map_err(|_| No(400, "LIFETIME has 4 bytes"))?;
    Ok(Some(match u32::from_be_bytes(value) {
        0 => 0,
        seconds => (u64::from(seconds) * 1_000).clamp(LIFETIME_MIN, LIFETIME_MAX),
    }))
}

fn seconds(milliseconds: u64) -> [u8; 4] {
    u32::try_from(milliseconds / 1_000).unwrap_or(u32::MAX).to_be_bytes()
}

/// Reads an Allocate, in the order of RFC 8656 section 7.2. Reserving a second port (EVEN-PORT with
/// R, RESERVATION-TOKEN) and a second family are refused in the ways that it provides for.
fn wish(message: &Message<'_>) -> Result<Wish, No> {
    let present = |kind| message.attribute(kind);
    match present(attr::REQUESTED_TRANSPORT) {
        Some([UDP, _, _, _]) => {}
        Some([_, _, _, _]) => return Err(No(442, "Unsupported Transport Protocol: use UDP")),
        _ => return Err(No(400, "REQUESTED-TRANSPORT is needed")),
    }
    let wanted = present(attr::REQUESTED_ADDRESS_FAMILY);
    let additional = present(attr::ADDITIONAL_ADDRESS_FAMILY);
    let even = present(attr::EVEN_PORT);
    if present(attr::RESERVATION_TOKEN).is_some() {
        let clash = wanted.is_some() || additional.is_some() || even.is_some();
        return Err(if clash {
            No(400, "RESERVATION-TOKEN goes with no family and no EVEN-PORT")
        } else {
            No(508, "No such reservation")
        });
    }
    if let Some(value) = additional
        && (family(value) != Some(Family::V6) || wanted.is_some() || even.is_some())
    {
        return Err(No(400, "ADDITIONAL-ADDRESS-FAMILY is IPv6, alone"));
    }
    let family = match wanted {
        None => Family::V4,
        Some(value) => family(value).ok_or(No(440, "Address Family not Supported"))?,
    };
    match even {
        None | Some([0]) => {}
        Some([flags]) if flags & 0x80 != 0 => return Err(No(508, "Ports are not reserved here")),
        Some([_]) => {}
        Some(_) => return Err(No(400, "EVEN-PORT has 1 byte")),
    }
    let lifetime = lifetime(message)?.filter(|l| *l > 0).unwrap_or(LIFETIME_MIN);
    Ok(Wish { family, even: even.is_some(), additional: additional.is_some(), lifetime })
}

impl<R: Clone> Server<R> {
    pub(super) fn allocate<'a>(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        asker: Asker,
    ) -> Outcome<'a, R> {
        if let Some(id) = self.flows.get(flow) {
            return match self.repeat(now, *id, message, &asker) {
                Ok(outcome) => outcome,
                Err(no) => self.deny(message, &asker, no),
            };
        }
        match self.start(now, flow, message, &asker) {
            Ok(open) => Outcome::Open(open),
            Err(no) => self.deny(message, &asker, no),
        }
    }

    /// A second Allocate from the same client: the same one again, or a mistake.
    fn repeat<'a>(
        &self,
        now: Now,
        id: AllocationId,
        message: &Message<'_>,
        asker: &Asker,
    ) -> Result<Outcome<'a, R>, No> {
        const MISMATCH: No = No(437, "Allocation Mismatch");
        let allocation = self.allocations.get(&id).ok_or(MISMATCH)?;
        if allocation.transaction != *message.transaction() || allocation.member != asker.member {
            return Err(MISMATCH);
        }
        let State::Open { relayed, .. } = &allocation.state else {
            return Ok(Outcome::Nothing);
        };
        let left = allocation.expires.saturating_sub(now.tick);
        let flow = allocation.flow;
        let mut reply =
            granted(&flow, message.transaction(), *relayed, left, allocation.additional)
                .integrity(asker.integrity, &asker.key);
        if message.has_fingerprint() {
            reply = reply.fingerprint();
        }
        Ok(Outcome::Reply(reply.finish(), Via::Same))
    }

    fn start(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        asker: &Asker,
    ) -> Result<Open, No> {
        let Wish { family, even, additional, lifetime } = wish(message)?;
        let offered = match family {
            Family::V4 => self.setup.v4,
            Family::V6 => self.setup.v6,
        };
        if !offered {
            return Err(No(440, "Address Family not Supported"));
        }
        if self.allocations.len() >= self.setup.limits.allocations {
            self.counters.refuse(Refused::Full);
            return Err(No(508, "Insufficient Capacity"));
        }
        if !self.claim_allocation(&asker.member, now.tick) {
            self.counters.refuse(Refused::MemberQuota);
            return Err(No(486, "Allocation Quota Reached"));
        }
        let id = AllocationId(self.next);
        self.next += 1;
        let pending = Pending {
            lifetime,
            integrity: asker.integrity,
            key: asker.key.clone(),
            fingerprint: message.has_fingerprint(),
            additional,
        };
        let expires = now.tick.saturating_add(lifetime);
        let allocation = Allocation::opening(
            *flow,
            asker.member.clone(),
            &asker.username,
            *message.transaction(),
            family,
            pending,
            expires,
        );
        self.allocations.insert(id, allocation);
        self.flows.insert(*flow, id);
        self.deadlines.push(Reverse((expires, id)));
        Ok(Open { allocation: id, family, even })
    }

    /// The driver opened the socket (its handle, and the address that others reach it at) or could
    /// not. Gives the answer and whom it is for; nothing where the client has gone.
    pub fn opened(
        &mut self,
        id: AllocationId,
        socket: io::Result<(R, SocketAddr)>,
    ) -> Option<(Flow, Vec<u8>)> {
        let is_opening =
            self.allocations.get(&id).is_some_and(|a| matches!(a.state, State::Opening(_)));
        let (relay, relayed) = match socket {
            Ok((relay, _)) if !is_opening => {
                self.events.push_back(Event::Closed { relay });
                return None;
            }
            Err(_) if !is_opening => return None,
            Ok((relay, relayed)) => (relay, canonical(relayed)),
            Err(_) => return self.not_opened(id),
        };
        let allocation = self.allocations.get_mut(&id)?;
        let opened = State::Open { relay, relayed };
        let State::Opening(pending) = std::mem::replace(&mut allocation.state, opened) else {
            return None;
        };
        self.relayed.insert(relayed, id);
        self.counters.allocated += 1;
        let (flow, transaction) = (allocation.flow, allocation.transaction);
        let reply = granted(&flow, &transaction, relayed, pending.lifetime, pending.additional);
        Some((flow, pending.sign(reply)))
    }

    /// Removes an allocation whose socket could not be opened.
    fn not_opened(&mut self, id: AllocationId) -> Option<(Flow, Vec<u8>)> {
        let allocation = self.take(id)?;
        let State::Opening(pending) = allocation.state else { return None };
        self.counters.refuse(Refused::NoSocket);
        let reply = Builder::new(Class::Error, Method::Allocate, &allocation.transaction);
        Some((allocation.flow, pending.sign(reply.error(508, "Insufficient Capacity"))))
    }

    /// An open allocation of the asker's. Its member may have got new credentials meanwhile.
    pub(super) fn own(
        &mut self,
        flow: &Flow,
        asker: &Asker,
    ) -> Result<(AllocationId, &mut Allocation<R>), No> {
        const MISSING: No = No(437, "Allocation Mismatch");
        let id = *self.flows.get(flow).ok_or(MISSING)?;
        let allocation = self.allocations.get_mut(&id).ok_or(MISSING)?;
        if allocation.member != asker.member {
            return Err(No(441, "Wrong Credentials"));
        }
        if !matches!(allocation.state, State::Open { .. }) {
            return Err(MISSING);
        }
        allocation.username.clone_from(&asker.username);
        Ok((id, allocation))
    }

    pub(super) fn refresh(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        asker: &Asker,
    ) -> Result<Builder, No> {
        let lifetime = lifetime(message)?.unwrap_or(LIFETIME_MIN);
        let (id, allocation) = self.own(flow, asker)?;
        if let Some(value) = message.attribute(attr::REQUESTED_ADDRESS_FAMILY)
            && family(value) != Some(allocation.family)
        {
            return Err(No(443, "Peer Address Family Mismatch"));
        }
        if lifetime == 0 {
            self.remove(id);
        } else {
            let expires = now.tick.saturating_add(lifetime);
            allocation.expires = expires;
            if expires < allocation.queued {
                allocation.queued = expires;
                self.deadlines.push(Reverse((expires, id)));
            }
        }
        let reply = Builder::new(Class::Success, Method::Refresh, message.transaction());
        Ok(reply.attribute(attr::LIFETIME, &seconds(lifetime)))
    }
}

impl Pending {
    fn sign(&self, reply: Builder) -> Vec<u8> {
        let reply = reply.integrity(self.integrity, &self.key);
        let reply = if self.fingerprint { reply.fingerprint() } else { reply };
        reply.finish()
    }
}

fn granted(
    flow: &Flow,
    transaction: &[u8; 12],
    relayed: SocketAddr,
    left: u64,
    additional: bool,
) -> Builder {
    let reply = Builder::new(Class::Success, Method::Allocate, transaction)
        .xor_address(attr::XOR_RELAYED_ADDRESS, relayed)
        .attribute(attr::LIFETIME, &seconds(left))
        .xor_address(attr::XOR_MAPPED_ADDRESS, canonical(flow.client));
    if additional {
        // Family 2, error 440: the client asks for it from another port of its own.
        reply.attribute(attr::ADDRESS_ERROR_CODE, &[2, 0, 4, 40])
    } else {
        reply
    }
}
