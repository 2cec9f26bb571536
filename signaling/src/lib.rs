//! The meshwire protocol: keys, signed layouts, envelopes, frames and codecs.
//!
//! This crate does no I/O, reads no clock and draws no randomness: every nonce, seed and time is an
//! argument, so that the same code runs in a node, in the broker, in the simulator and in a test
//! vector. `docs/protocol.md` describes the same shapes for someone without Rust.
//!
//! | module | what it holds |
//! |---|---|
//! | [`id`] | keys, mesh ids, envelope ids, hashes, names |
//! | [`sign`] | signing domains and the one signed layout |
//! | [`seal`] | pair keys, box, secretbox, wraps |
//! | [`receipt`] | proof of what a recipient did with an envelope |
//! | [`envelope`] | the message that travels, and what is sealed in it |
//! | [`invite`] | genesis, capability, claim, certificate chain, invite link |
//! | [`attest`] | a member vouching for a session or service key |
//! | [`group`] | group names, and who is in them by their own word |
//! | [`p2p`] | what two nodes seal for each other to negotiate a direct path |
//! | [`stream`] | opens, keys and records of streams |
//! | [`frame`] | what goes over the WebSocket between node and broker |
//! | [`codec`] | strict MessagePack and JSON |
//! | [`limits`] | every number that both sides agree on |

pub mod attest;
pub mod codec;
pub mod envelope;
pub mod frame;
pub mod group;
pub mod id;
pub mod invite;
pub mod limits;
pub mod p2p;
pub mod receipt;
pub mod seal;
pub mod sign;
pub mod stream;

pub use envelope::{Channel, Content, Durability, Envelope, Header, Priority, Target};
pub use id::{
    AttemptId, EnvelopeId, Hash, InstanceId, MeshId, PublicKey, SecretKey, Signature, StreamId,
    UnixMillis,
};
