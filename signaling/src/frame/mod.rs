//! What goes over the WebSocket between a node and its broker, and over the broker's HTTP.
//!
//! Every frame is one map with a `type`; requests carry `req`, answers echo it. An unknown `type`
//! is answered with an `unknown_type` error, unknown fields are ignored, and an error is never
//! answered.
//!
//! ```text
//! node                                broker
//!   |  <------------ challenge -------- |   on connect
//!   |  hello -------------------------> |   within 5 s
//!   |  <------------ hello_ack -------- |
//!   |  bind --------------------------> |   further identities of the same member
//!   |  send --------------------------> |
//!   |  <------------ accepted --------- |   after the commit is on disk
//!   |  <------------ message ---------- |   claimed for 30 s
//!   |  client_ack / client_nack ------> |   after the inbox row is on disk
//!   |  <------------ receipt ---------- |   to the author, until confirmed or expired
//!   |  receipt_ack -------------------> |
//!   |  <------------ drained ---------- |   nothing is waiting any more
//! ```

mod error;
mod hello;
pub mod http;
mod invite;
mod p2p;
mod presence;
mod send;

pub use error::{ErrorFrame, close, code};
pub use hello::{
    Bind, Bound, Bye, Challenge, EXPORTER_LABEL, Features, Goaway, Hello, HelloAck, HelloAckBody,
    HelloBody, Lease, Limits, Param, ResumeToken, Unbind, Unbound, UnboundReason, feature,
};
pub use invite::{InviteCreate, InviteInfo, InviteList, InviteRevoke, Invites, Joined, Ok};
pub use p2p::{
    P2pAnswer, P2pBye, P2pCandidate, P2pFrame, P2pKind, P2pOffer, TurnCredentials, TurnServer,
    TurnServers,
};
pub use presence::{
    About, Attendance, Disconnect, Disconnected, ListPeers, PeerChanged, PeerInfo, Peers, Presence,
    PresenceEvent, PresenceInfo, Profile, Resync, SetGroup, SetPresence, Status,
};
pub use send::{
    Accepted, Batch, ClientAck, ClientNack, Drained, MessageFrame, MessageState, ReceiptAck,
    ReceiptFrame, RecipientsChanged, Send,
};

use crate::codec::{self, CodecError, Encoding};
use crate::limits::MAX_FRAME;

/// Why a frame could not be read. `req` is there when it could be made out, for the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Not decodable, or not this type's fields.
    #[error("malformed frame: {error}")]
    Malformed {
        /// What is wrong.
        error: CodecError,
        /// The request's number, if readable.
        req: Option<u64>,
    },
    /// A type that this version does not know.
    #[error("unknown frame type {kind:?}")]
    UnknownType {
        /// The type.
        kind: String,
        /// The request's number, if any.
        req: Option<u64>,
    },
}

macro_rules! frames {
    ($($variant:ident($ty:ty) = $name:literal),* $(,)?) => {
        /// Any frame.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        #[allow(missing_docs, clippy::large_enum_variant)]
        pub enum Frame { $($variant($ty)),* }

        impl Frame {
            /// Every type this version knows.
            pub const TYPES: &'static [&'static str] = &[$($name),*];

            /// The wire name of this frame's type.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name),* }
            }

            /// Encodes for a connection.
            #[must_use]
            pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
                match self { $(Self::$variant(f) => codec::encode(encoding, f)),* }
            }

            /// Decodes strictly.
            ///
            /// # Errors
            /// [`FrameError`].
            pub fn decode(encoding: Encoding, bytes: &[u8]) -> Result<Self, FrameError> {
                let malformed = |req| move |error| FrameError::Malformed { error, req };
                if bytes.len() > MAX_FRAME {
                    let error = CodecError::TooLong { len: bytes.len(), max: MAX_FRAME };
                    return Err(FrameError::Malformed { error, req: None });
                }
                let peek = codec::check(encoding, bytes).map_err(malformed(None))?;
                let req = peek.req;
                let Some(kind) = peek.kind else {
                    let error = CodecError::Invalid("a frame is a map with a short `type`".into());
                    return Err(FrameError::Malformed { error, req });
                };
                match kind.as_str() {
                    $($name => codec::decode_checked(encoding, bytes)
                        .map(Self::$variant)
                        .map_err(malformed(req)),)*
                    _ => Err(FrameError::UnknownType { kind, req }),
                }
            }
        }

        $(impl From<$ty> for Frame {
            fn from(f: $ty) -> Self { Self::$variant(f) }
        })*
    };
}

frames! {
    Challenge(Challenge) = "challenge",
    Hello(Hello) = "hello",
    HelloAck(HelloAck) = "hello_ack",
    Bind(Bind) = "bind",
    Bound(Bound) = "bound",
    Unbind(Unbind) = "unbind",
    Unbound(Unbound) = "unbound",
    Bye(Bye) = "bye",
    Goaway(Goaway) = "goaway",
    Send(Send) = "send",
    Accepted(Accepted) = "accepted",
    RecipientsChanged(RecipientsChanged) = "recipients_changed",
    Message(MessageFrame) = "message",
    ClientAck(ClientAck) = "client_ack",
    ClientNack(ClientNack) = "client_nack",
    Receipt(ReceiptFrame) = "receipt",
    ReceiptAck(ReceiptAck) = "receipt_ack",
    Drained(Drained) = "drained",
    ListPeers(ListPeers) = "list_peers",
    Peers(Peers) = "peers",
    Presence(Presence) = "presence",
    PeerChanged(PeerChanged) = "peer_changed",
    Resync(Resync) = "resync",
    SetPresence(SetPresence) = "set_presence",
    SetGroup(SetGroup) = "group",
    Disconnect(Disconnect) = "disconnect",
    Disconnected(Disconnected) = "disconnected",
    InviteCreate(InviteCreate) = "invite_create",
    InviteList(InviteList) = "invite_list",
    Invites(Invites) = "invites",
    InviteRevoke(InviteRevoke) = "invite_revoke",
    P2pOffer(P2pOffer) = "p2p_offer",
    P2pAnswer(P2pAnswer) = "p2p_answer",
    P2pCandidate(P2pCandidate) = "p2p_candidate",
    P2pBye(P2pBye) = "p2p_bye",
    TurnCredentials(TurnCredentials) = "turn_credentials",
    TurnServers(TurnServers) = "turn_servers",
    Ok(Ok) = "ok",
    Error(ErrorFrame) = "error",
}
