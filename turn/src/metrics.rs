//! What is counted.

pub(crate) mod text;

use std::collections::BTreeMap;

use crate::addr_policy::Refusal;
use crate::auth::Kind;
use crate::core::Transport;

/// Why something was not done, addresses aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// Neither STUN nor channel data, or a Send without what it needs.
    Malformed,
    /// Too many answers to one prefix.
    Throttled,
    /// The nonce is another's, or too old.
    StaleNonce,
    /// Not what the secret makes of that username.
    WrongCredential,
    /// Its time is over.
    ExpiredCredential,
    /// Its member was deleted, or it was revoked.
    DeletedCredential,
    /// Another member's allocation.
    OtherMember,
    /// The member has as many allocations as it may.
    MemberQuota,
    /// The server has.
    Full,
    /// No port could be bound.
    NoSocket,
    /// The member's bytes per second are used up.
    ByteQuota,
    /// Data without a permission or channel.
    NoPermission,
    /// The system or the client did not take it in time.
    Congested,
}

impl Refused {
    pub(crate) const ALL: [Self; 13] = [
        Self::Malformed,
        Self::Throttled,
        Self::StaleNonce,
        Self::WrongCredential,
        Self::ExpiredCredential,
        Self::DeletedCredential,
        Self::OtherMember,
        Self::MemberQuota,
        Self::Full,
        Self::NoSocket,
        Self::ByteQuota,
        Self::NoPermission,
        Self::Congested,
    ];

    /// As metrics name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Throttled => "throttled",
            Self::StaleNonce => "stale-nonce",
            Self::WrongCredential => "wrong-credential",
            Self::ExpiredCredential => "expired-credential",
            Self::DeletedCredential => "deleted-credential",
            Self::OtherMember => "other-member",
            Self::MemberQuota => "member-quota",
            Self::Full => "full",
            Self::NoSocket => "no-socket",
            Self::ByteQuota => "byte-quota",
            Self::NoPermission => "no-permission",
            Self::Congested => "congested",
        }
    }
}

/// Datagrams and their payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many.
    pub datagrams: u64,
    /// How many bytes of payload.
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, bytes: u64) {
        self.datagrams = self.datagrams.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Everything since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Binding requests answered.
    pub bindings: u64,
    /// Allocations made.
    pub allocated: u64,
    /// Allocations that expired.
    pub expired: u64,
    /// Allocations that ended because a member or credential was deleted, or the server stopped.
    pub deleted: u64,
    /// Data from clients, by who they are and how they come.
    pub to_peers: BTreeMap<(Kind, Transport), Traffic>,
    /// Data to clients.
    pub to_clients: BTreeMap<(Kind, Transport), Traffic>,
    /// What was not done, by cause.
    pub refused: BTreeMap<Refused, u64>,
    /// Peers that the address policy refused, by cause.
    pub refused_peers: BTreeMap<Refusal, u64>,
}

impl Counters {
    pub(crate) fn refuse(&mut self, why: Refused) {
        *self.refused.entry(why).or_default() += 1;
    }

    pub(crate) fn refuse_peer(&mut self, why: Refusal) {
        *self.refused_peers.entry(why).or_default() += 1;
    }

    /// Counts signed refusals that nothing else counts.
    pub(crate) fn answered(&mut self, code: u16) {
        if code == 441 {
            self.refuse(Refused::OtherMember);
        }
    }

    pub(crate) fn count_to_peers(&mut self, kind: Kind, transport: Transport, bytes: u64) {
        self.to_peers.entry((kind, transport)).or_default().add(bytes);
    }

    pub(crate) fn count_to_clients(&mut self, kind: Kind, transport: Transport, bytes: u64) {
        self.to_clients.entry((kind, transport)).or_default().add(bytes);
    }
}
