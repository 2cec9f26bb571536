//! Negotiating direct paths, and the servers that help with it (design section 6).
//!
//! ```text
//! ana                      broker                      bob
//!  | p2p_offer {req} -------> | ------- p2p_offer -----> |   sealed for bob; kept nowhere
//!  | <------------- ok {req} |                          |   once it is in the queue of bob's socket
//!  | <----------- p2p_answer | <------- p2p_answer {req} |
//!  | <-------- p2p_candidate + p2p_candidate ----------> |   any number, both ways
//!  | <-------------- p2p_bye + p2p_bye ----------------> |   ends the attempt
//! ```
//!
//! What the payload holds: [`crate::p2p`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Frame;
use crate::UnixMillis;
use crate::id::{AttemptId, Blob, PublicKey};

/// Which step of a negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum P2pKind {
    /// Opens an attempt.
    Offer,
    /// Takes it up.
    Answer,
    /// Further addresses.
    Candidate,
    /// Ends it.
    Bye,
}

impl P2pKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Offer, Self::Answer, Self::Candidate, Self::Bye];

    /// The wire word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Answer => "answer",
            Self::Candidate => "candidate",
            Self::Bye => "bye",
        }
    }
}

/// One step of a negotiation between two identities, whichever type of frame it travels in. Nothing
/// here is to be believed by the recipient before [`crate::p2p::open`] has said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P2pFrame {
    /// Which step.
    pub kind: P2pKind,
    /// For whom: an identity of the same mesh, as a rule a member.
    pub to: PublicKey,
    /// By whom: an identity of the sender's socket, as a rule its member.
    pub from: PublicKey,
    /// The name of what negotiates: see [`crate::p2p::is_adapter`].
    pub adapter: String,
    /// The attempt.
    pub attempt: AttemptId,
    /// Sealed by the sender for the recipient; at most [`crate::limits::MAX_P2P`] bytes.
    pub payload: Blob,
    /// The broker's word: the sender's socket came to it over loopback. Nodes say nothing here.
    pub loopback: bool,
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident($kind:ident) = $wire:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(tag = "type", rename = $wire)]
            pub struct $name {
                /// Request number; absent from broker to node.
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub req: Option<u64>,
                /// See [`P2pFrame::to`].
                pub to: PublicKey,
                /// See [`P2pFrame::from`].
                pub from: PublicKey,
                /// See [`P2pFrame::adapter`].
                pub adapter: String,
                /// See [`P2pFrame::attempt`].
                pub attempt: AttemptId,
                /// See [`P2pFrame::payload`].
                pub payload: Blob,
                /// See [`P2pFrame::loopback`].
                #[serde(default, skip_serializing_if = "std::ops::Not::not")]
                pub loopback: bool,
            }

            impl From<$name> for P2pFrame {
                fn from(f: $name) -> Self {
                    let $name { req: _, to, from, adapter, attempt, payload, loopback } = f;
                    Self { kind: P2pKind::$kind, to, from, adapter, attempt, payload, loopback }
                }
            }
        )*

        impl P2pFrame {
            /// The frame that carries it: with a request number from node to broker, without one from
            /// broker to node.
            #[must_use]
            pub fn into_frame(self, req: Option<u64>) -> Frame {
                let Self { kind, to, from, adapter, attempt, payload, loopback } = self;
                match kind {
                    $(P2pKind::$kind => {
                        $name { req, to, from, adapter, attempt, payload, loopback }.into()
                    })*
                }
            }
        }
    };
}

steps! {
    /// Opens an attempt at a direct path.
    P2pOffer(Offer) = "p2p_offer";
    /// Takes an offer up.
    P2pAnswer(Answer) = "p2p_answer";
    /// Further addresses of either side.
    P2pCandidate(Candidate) = "p2p_candidate";
    /// Ends an attempt, or the path that came of it.
    P2pBye(Bye) = "p2p_bye";
}

/// Asks for servers that help two nodes to reach each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "turn_credentials")]
pub struct TurnCredentials {
    /// Request number.
    pub req: u64,
}

/// A TURN server (RFC 8656) as this member may use it for a while.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnServer {
    /// Where it is: `udp:HOST:PORT`, `tcp:HOST:PORT` or `tls:HOST:PORT`, best first.
    pub addresses: Vec<String>,
    /// For the long-term credential mechanism (RFC 8489 section 9.2).
    pub username: String,
    /// See `username`.
    pub password: String,
    /// When they end, Unix milliseconds.
    pub expires_at: UnixMillis,
}

impl fmt::Debug for TurnServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnServer")
            .field("addresses", &self.addresses)
            .field("username", &self.username)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// The answer to [`TurnCredentials`]; both lists are empty where the broker has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "turn_servers")]
pub struct TurnServers {
    /// Request number.
    pub req: u64,
    /// TURN servers, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<TurnServer>,
    /// STUN servers over UDP (RFC 8489), as `HOST:PORT`. Two ports of one host let a node learn how its
    /// NAT maps and filters (RFC 5780).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stun: Vec<String>,
}
