//! What events look like to programs: a name and JSON each.

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::{EnvelopeId, MeshId, PublicKey};
use meshwire_transport::direct::Reach;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{InboxMessage, PeerKind, schema};
use crate::node::{Event, Node};
use crate::path::Cause;

/// An event; the name of its kind stands in the stream's `event:` line.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Shape {
    Ready(ReadyEvent),
    Message(Box<InboxMessage>),
    Outbox(OutboxEvent),
    Link(LinkEvent),
    Presence(PresenceEvent),
    Peer(PeerEvent),
    Path(PathEvent),
    Session(SessionEvent),
    Misbehaviour(MisbehaviourEvent),
    Lagged(LaggedEvent),
}

/// `ready`: the stream has begun. Its `id` is a place to resume from, as those of messages are.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReadyEvent {
    /// Messages that surfaced after this place follow.
    pub(super) after: u64,
}

/// `outbox`: a message of ours moved on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OutboxEvent {
    /// The mesh.
    #[schema(value_type = schema::MeshId)]
    mesh: MeshId,
    /// The mesh's name.
    mesh_name: String,
    /// The message.
    #[schema(value_type = schema::MessageId)]
    id: EnvelopeId,
    /// Our identity that wrote it.
    #[schema(value_type = schema::Key)]
    author: PublicKey,
    /// Where it is now.
    #[schema(value_type = schema::MessageState)]
    state: MessageState,
    /// Why, where that needs a reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `link`: a broker's connection came up or went down.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LinkEvent {
    /// The mesh.
    #[schema(value_type = schema::MeshId)]
    mesh: MeshId,
    /// The mesh's name.
    mesh_name: String,
    /// Whether it is up.
    up: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `presence`: a member, session or service came or went.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PresenceEvent {
    /// The mesh.
    #[schema(value_type = schema::MeshId)]
    mesh: MeshId,
    /// The mesh's name.
    mesh_name: String,
    /// Who.
    #[schema(value_type = schema::Key)]
    key: PublicKey,
    /// Its member; the same key for members.
    #[schema(value_type = schema::Key)]
    member: PublicKey,
    /// What it is.
    kind: PeerKind,
    /// Whether it is there now.
    online: bool,
}

/// `peer`: what a member says of itself changed, or its name comes with another key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PeerEvent {
    /// The mesh.
    #[schema(value_type = schema::MeshId)]
    mesh: MeshId,
    /// The mesh's name.
    mesh_name: String,
    /// Who.
    #[schema(value_type = schema::Key)]
    key: PublicKey,
    /// With `name_pinned_to`: the name that somebody else had before.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Another key that this name belonged to before: take care.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Key>)]
    name_pinned_to: Option<PublicKey>,
}

/// `path`: a direct path to a member came up or went down.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PathEvent {
    /// The mesh.
    #[schema(value_type = schema::MeshId)]
    mesh: MeshId,
    /// The mesh's name.
    mesh_name: String,
    /// The member.
    #[schema(value_type = schema::Key)]
    peer: PublicKey,
    /// Whether it is up.
    up: bool,
    /// Between which kinds of addresses: `host`, `nat`, `mapped` or `relayed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<&'static str>,
    /// Why it went down, a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// `session`: a session of this node started or ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionEvent {
    /// The mesh.
    #[schema(value_type = schema::MeshId)]
    mesh: MeshId,
    /// The mesh's name.
    mesh_name: String,
    /// The session.
    #[schema(value_type = schema::Key)]
    key: PublicKey,
    /// Its name.
    name: String,
    /// Whether it started.
    started: bool,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `misbehaviour`: the broker or a peer did something that honest ones do not.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MisbehaviourEvent {
    /// The mesh.
    #[schema(value_type = schema::MeshId)]
    mesh: MeshId,
    /// The mesh's name.
    mesh_name: String,
    /// What it did, a word.
    what: &'static str,
}

/// `lagged`: the reader was too slow, events were left out, and the stream ends. Messages are not
/// lost: resume after the last one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LaggedEvent {
    /// How many were left out.
    pub(super) missed: u64,
}

impl Shape {
    /// How `node` shows an event.
    pub(super) fn of(node: &Node, event: Event) -> Self {
        let named = |mesh: &MeshId| node.mesh_name(mesh);
        match event {
            Event::Message(row) => Self::Message(Box::new(node.show(*row))),
            Event::Outbox { mesh, id, author, state, reason } => Self::Outbox(OutboxEvent {
                mesh_name: named(&mesh),
                mesh,
                id,
                author,
                state: state.public(),
                reason,
            }),
            Event::Link { mesh, up, reason } => {
                Self::Link(LinkEvent { mesh_name: named(&mesh), mesh, up, reason })
            }
            Event::Presence { mesh, key, member, kind, online } => Self::Presence(PresenceEvent {
                mesh_name: named(&mesh),
                mesh,
                key,
                member,
                kind: match kind {
                    IdentityKind::Member => PeerKind::Member,
                    IdentityKind::Session => PeerKind::Session,
                    IdentityKind::Service => PeerKind::Service,
                },
                online,
            }),
            Event::PeerChanged { mesh, member } => Self::Peer(PeerEvent {
                mesh_name: named(&mesh),
                mesh,
                key: member,
                name: None,
                name_pinned_to: None,
            }),
            Event::NameConflict { mesh, name, pinned, key } => Self::Peer(PeerEvent {
                mesh_name: named(&mesh),
                mesh,
                key,
                name: Some(name),
                name_pinned_to: Some(pinned),
            }),
            Event::Path { mesh, peer, reach, cause } => Self::Path(PathEvent {
                mesh_name: named(&mesh),
                mesh,
                peer,
                up: reach.is_some(),
                reach: reach.map(Reach::as_str),
                reason: cause.map(Cause::as_str),
            }),
            Event::Session { mesh, key, name, started, why } => Self::Session(SessionEvent {
                mesh_name: named(&mesh),
                mesh,
                key,
                name,
                started,
                reason: why,
            }),
            Event::Misbehaviour { mesh, what } => Self::Misbehaviour(MisbehaviourEvent {
                mesh_name: named(&mesh),
                mesh,
                what: what.as_str(),
            }),
        }
    }

    /// The name of its kind.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Ready(_) => "ready",
            Self::Message(_) => "message",
            Self::Outbox(_) => "outbox",
            Self::Link(_) => "link",
            Self::Presence(_) => "presence",
            Self::Peer(_) => "peer",
            Self::Path(_) => "path",
            Self::Session(_) => "session",
            Self::Misbehaviour(_) => "misbehaviour",
            Self::Lagged(_) => "lagged",
        }
    }

    /// The place to resume from once this was read, where there is one.
    pub(super) fn id(&self) -> Option<u64> {
        match self {
            Self::Ready(ready) => Some(ready.after),
            Self::Message(message) => Some(message.order),
            _ => None,
        }
    }
}
