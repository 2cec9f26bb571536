//! What happens at a node, for programs.

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::{EnvelopeId, MeshId, PublicKey};

use meshwire_transport::direct::Reach;

use super::identity::Viewer;
use crate::core::outbox::OutboxState;
use crate::path::Cause;
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
        /// Our identity that wrote it.
        author: PublicKey,
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
    /// A member, session or service came or went, or a member was admitted.
    Presence {
        /// The mesh.
        mesh: MeshId,
        /// The identity.
        key: PublicKey,
        /// Its member; the same key for members.
        member: PublicKey,
        /// What it is.
        kind: IdentityKind,
        /// Whether it is there now.
        online: bool,
    },
    /// What a member says of itself, or its groups, changed.
    PeerChanged {
        /// The mesh.
        mesh: MeshId,
        /// The member.
        member: PublicKey,
    },
    /// A direct path to a member came up, or went down.
    Path {
        /// The mesh.
        mesh: MeshId,
        /// The member.
        peer: PublicKey,
        /// Between which kinds of addresses it goes; none if it went down.
        reach: Option<Reach>,
        /// Why it went down.
        cause: Option<Cause>,
    },
    /// One of our own sessions started or ended.
    Session {
        /// The mesh.
        mesh: MeshId,
        /// The session.
        key: PublicKey,
        /// Its name.
        name: String,
        /// Whether it started.
        started: bool,
        /// Why it ended.
        why: Option<String>,
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

impl Event {
    /// Whether `viewer` gets to hear of this. Sessions hear of mail for them and, where they may read
    /// it, for their member, of their own messages, of others' presence and of the link: of nothing
    /// that is another session's (inventory C-013), and no echo of themselves (C-014).
    #[must_use]
    pub fn concerns(&self, viewer: &Viewer) -> bool {
        let Viewer::Session { mesh, key, member, inbox } = viewer else { return true };
        match self {
            Self::Message(row) => {
                let to = row.item.recipient;
                // What an ended session left is the member's, and nothing new to that session.
                let left = row.handed_on && to != *key;
                let theirs = to == *key && !row.handed_on;
                row.item.mesh == *mesh && (theirs || (*inbox && (left || to == *member)))
            }
            Self::Outbox { mesh: of, author, .. } => of == mesh && author == key,
            Self::Link { mesh: of, .. }
            | Self::Path { mesh: of, .. }
            | Self::PeerChanged { mesh: of, .. } => of == mesh,
            Self::Presence { mesh: of, key: who, .. } => of == mesh && who != key,
            Self::Session { mesh: of, key: who, .. } => of == mesh && who != key,
            Self::NameConflict { mesh: of, .. } => of == mesh,
            // For whoever looks after the node.
            Self::Misbehaviour { .. } => false,
        }
    }
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
    /// A group statement that its member has not made.
    FalseGroup,
    /// A step of a negotiation that its sender has not made, or not for this.
    TamperedNegotiation,
    /// A step of a negotiation that was signed long ago or is of the future: held back, or one of both clocks
    /// is wrong.
    UntimelyNegotiation,
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
            Self::FalseGroup => "false_group",
            Self::TamperedNegotiation => "tampered_negotiation",
            Self::UntimelyNegotiation => "untimely_negotiation",
        }
    }
}
