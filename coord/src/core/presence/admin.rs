//! Disconnecting others (inventory B-116 to B-125): who is affected, and how.
//!
//! | identity | disconnect | kick |
//! |---|---|---|
//! | control plane, connected | closed 1000 `disconnected`; its lease goes on | skipped |
//! | session or service with a connection of its own | closed 1000 `disconnected`; its lease goes on | closed 4001 `kicked`, left |
//! | session or service bound to its member's | `unbound{disconnected}`; its lease goes on | `unbound{kicked}`, left |
//! | control plane in grace | nothing | skipped |
//! | session or service in grace | nothing | left |
//!
//! A member's key stands for all that it has.

use std::collections::BTreeSet;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::{UnboundReason, close};
use meshwire_signaling::{MeshId, PublicKey};

use super::{Effect, Presence};

/// Whom to disconnect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// These members, sessions and services.
    Keys(Vec<PublicKey>),
    /// Everybody but this member.
    AllBut(PublicKey),
}

/// What a disconnect comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnected {
    /// Identities that were disconnected, in key order.
    pub affected: Vec<PublicKey>,
    /// Control planes that a kick leaves alone, in key order.
    pub skipped: Vec<PublicKey>,
    /// Sessions and services that were kicked: mail to them is refused from now on.
    pub ended: Vec<(PublicKey, PublicKey)>,
    /// What follows.
    pub effects: Vec<Effect>,
}

impl Presence {
    /// Disconnects identities of a mesh at `tick`; see the module's documentation.
    pub fn disconnect(&mut self, mesh: &MeshId, who: &Who, kick: bool, tick: u64) -> Disconnected {
        let mut done = Disconnected::default();
        for key in self.meant(mesh, who) {
            let identity = (*mesh, key);
            let Some(held) = self.held.get(&identity) else { continue };
            let (kind, member, holder) = (held.kind, held.member, held.holder);
            let own = holder.and_then(|c| self.conns.get(&c)).is_some_and(|c| c.key == key);
            match (kind, kick, holder) {
                (IdentityKind::Member, true, _) => done.skipped.push(key),
                (_, true, holder) => {
                    done.affected.push(key);
                    done.ended.push((key, member));
                    // Told first, so that its node knows why before it learns anything else.
                    done.effects.extend(holder.map(|conn| match own {
                        true => Effect::Close { conn, code: close::KICKED, reason: "kicked" },
                        false => Effect::Unbound { conn, key, reason: UnboundReason::Kicked },
                    }));
                    done.effects.extend(self.end(&identity));
                }
                (_, false, Some(conn)) if own => {
                    done.affected.push(key);
                    let (code, reason) = (close::NORMAL, "disconnected");
                    done.effects.push(Effect::Close { conn, code, reason });
                }
                (_, false, Some(conn)) => {
                    done.affected.push(key);
                    if let Some(c) = self.conns.get_mut(&conn) {
                        c.identities.retain(|k| *k != key);
                    }
                    self.wait_for(&identity, tick);
                    let reason = UnboundReason::Disconnected;
                    done.effects.push(Effect::Unbound { conn, key, reason });
                }
                (_, false, None) => {}
            }
        }
        done
    }

    /// The identities that are meant and there, in key order.
    fn meant(&self, mesh: &MeshId, who: &Who) -> BTreeSet<PublicKey> {
        let there = self.held.iter().filter(|((m, _), _)| m == mesh);
        match who {
            Who::AllBut(member) => {
                there.filter(|(_, h)| h.member != *member).map(|((_, key), _)| *key).collect()
            }
            Who::Keys(keys) => keys
                .iter()
                .flat_map(|key| {
                    let all = self.of_member.get(&(*mesh, *key)).into_iter().flatten().copied();
                    all.chain(self.held.contains_key(&(*mesh, *key)).then_some(*key))
                })
                .collect(),
        }
    }
}
