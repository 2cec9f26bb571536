//! What happens at a node, for programs.

use meshwire_signaling::{EnvelopeId, MeshId, PublicKey};

use crate::core::outbox::OutboxState;
use crate::store::InboxRow;

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A message surfaced.
    Message(Box<InboxRow>),
    /// A message of ours moved on.
    Outbox {
        /// The mesh.
        mesh: MeshId,
        /// The message.
        id: EnvelopeId,
        /// Where it is now.
        state: OutboxState,
        /// Why, where that needs a reason.
        reason: Option<String>,
    },
    /// A broker's connection came up or went down.
    Link {
        /// The mesh.
        mesh: MeshId,
        /// Whether it is up.
        up: bool,
        /// Why it is not.
        reason: Option<String>,
    },
    /// A member came, went, or was admitted.
    Presence {
        /// The mesh.
        mesh: MeshId,
        /// The member.
        member: PublicKey,
        /// Whether it is there now.
        online: bool,
    },
    /// A name is shown with another key than at first contact: take care.
    NameConflict {
        /// The mesh.
        mesh: MeshId,
        /// The name.
        name: String,
        /// The key that it belonged to.
        pinned: PublicKey,
        /// The key that it comes with now.
        key: PublicKey,
    },
    /// The broker or a peer did something that honest ones do not.
    Misbehaviour {
        /// The mesh.
        mesh: MeshId,
        /// What it did.
        what: Misbehaviour,
    },
}

/// What hostile brokers and peers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// A receipt whose MAC the recipient cannot have made.
    ForgedReceipt,
    /// An envelope whose signature does not hold, or whose body does not open.
    TamperedEnvelope,
    /// An envelope under an id that was used for another one.
    ReusedId,
    /// A member whose certificate chain does not hold.
    FalseMember,
}

impl Misbehaviour {
    /// A word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ForgedReceipt => "forged_receipt",
            Self::TamperedEnvelope => "tampered_envelope",
            Self::ReusedId => "reused_id",
            Self::FalseMember => "false_member",
        }
    }
}
