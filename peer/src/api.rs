//! What a node can be asked for, in types that go over its local socket as JSON and are called
//! directly where there is no node process. Every answer of a verb carries [`SCHEMA_VERSION`].

mod error;
mod mail;
mod mesh;
mod node;
mod path;
mod peers;
pub(crate) mod schema;
mod session;
mod stream;

pub use error::{ApiError, Conflict, ErrorKind};
pub use mail::{
    Deleted, Inbox, InboxDelete, InboxMessage, Message, MessageStatus, Outbox, Ping, PingLegs,
    Pong, Recipient, Requeue, Send, WaitFor,
};
pub use mesh::{CreateInvite, CreateMesh, Invite, InviteRow, Invites, Join, MeshInfo};
pub use node::{Done, Health, MeshStatus, Status, Version};
pub use path::{AskPath, DirectPath, PathEntry, PathReport};
pub use peers::{
    Disconnect, Disconnected, Group, GroupMember, GroupRole, ListGroups, ListPeers, Named, Peer,
    PeerKind, PeerPath, PeerPathKind, Presence, SafetyNumber, SetGroup, SetPresence, Verify,
};
pub use session::{EndSession, ListSessions, Session, SessionStarted, StartSession};
pub use stream::{
    AcceptStream, CloseStream, ListStreams, OpenStream, ResetBy, StreamCancel, StreamEvent,
    StreamOrder, StreamProgress, StreamReset, StreamRow, StreamState, StreamStop, StreamStopped,
};

/// Version of the shapes in this module; grows when a field changes meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// Shows all but the secrets.
macro_rules! debug_without_secrets {
    ($($ty:ident { $($field:ident),* })*) => {
        $(impl std::fmt::Debug for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($ty))$(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        })*
    };
}

debug_without_secrets! {
    CreateMesh { name, broker_url, member_name }
    Join { member_name }
    Invite { invite, mesh_name, uses, role, expires_at }
    SessionStarted { session }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secrets() {
        let join = Join { invite: "the-secret-link".into(), member_name: "bob".into() };
        assert!(format!("{join:?}").contains("bob") && !format!("{join:?}").contains("secret"));
    }
}
