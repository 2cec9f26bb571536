//! Errors, their codes, and the WebSocket close codes.

use serde::{Deserialize, Serialize};

use crate::id::{EnvelopeId, PublicKey};

/// Something the other side asked for, or sent, was refused. Never answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "error")]
pub struct ErrorFrame {
    /// The request this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub req: Option<u64>,
    /// The envelope this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<EnvelopeId>,
    /// One of [`code`], or a newer word.
    pub code: String,
    /// For people: what is wrong and what would be valid.
    pub message: String,
    /// Whether the same request can never succeed.
    #[serde(default)]
    pub permanent: bool,
    /// When to try again, in milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// For `target_gone`: the member that the session belonged to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<PublicKey>,
}

impl ErrorFrame {
    /// A refusal that would be the same next time.
    #[must_use]
    pub fn permanent(code: &str, message: impl Into<String>) -> Self {
        Self {
            req: None,
            id: None,
            code: code.to_owned(),
            message: message.into(),
            permanent: true,
            retry_after_ms: None,
            member: None,
        }
    }

    /// A refusal that may pass.
    #[must_use]
    pub fn transient(code: &str, message: impl Into<String>, retry_after_ms: u64) -> Self {
        Self {
            permanent: false,
            retry_after_ms: Some(retry_after_ms),
            ..Self::permanent(code, message)
        }
    }

    /// With the request it answers.
    #[must_use]
    pub fn to_req(mut self, req: Option<u64>) -> Self {
        self.req = req;
        self
    }
}

/// Words of [`ErrorFrame::code`] and of HTTP errors.
pub mod code {
    /// The frame does not decode.
    pub const MALFORMED: &str = "malformed";
    /// The frame's type is unknown to the receiver.
    pub const UNKNOWN_TYPE: &str = "unknown_type";
    /// A frame before the hello, or a second hello.
    pub const NO_HELLO: &str = "no_hello";
    /// No hello came in time.
    pub const HELLO_TIMEOUT: &str = "hello_timeout";
    /// The key is no member of the mesh.
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// The mesh is not on this broker.
    pub const UNKNOWN_MESH: &str = "unknown_mesh";
    /// A public key is no usable key.
    pub const BAD_KEY: &str = "bad_key";
    /// A signature does not hold.
    pub const BAD_SIGNATURE: &str = "bad_signature";
    /// The hello answers another challenge: a replay.
    pub const BAD_CHALLENGE: &str = "bad_challenge";
    /// The hello is meant for a broker with another key.
    pub const WRONG_BROKER: &str = "wrong_broker";
    /// The hello's channel binding is not this connection's.
    pub const BAD_BINDING: &str = "bad_binding";
    /// The hello's time is more than 60 s off.
    pub const TIMESTAMP_SKEW: &str = "timestamp_skew";
    /// The hello counter did not grow: a copied or restored home.
    pub const STALE_INSTANCE: &str = "stale_instance";
    /// The attestation is malformed.
    pub const ATTESTATION_MALFORMED: &str = "attestation_malformed";
    /// The attestation is over.
    pub const ATTESTATION_EXPIRED: &str = "attestation_expired";
    /// The attestation lives too long.
    pub const ATTESTATION_TTL: &str = "attestation_ttl_too_long";
    /// The attestation is for another key or by another member.
    pub const ATTESTATION_MISMATCH: &str = "attestation_mismatch";
    /// The same key is connected from another instance.
    pub const ALREADY_CONNECTED: &str = "already_connected";
    /// The broker is full.
    pub const CAPACITY: &str = "capacity";
    /// A feature that one side requires is missing on the other.
    pub const FEATURE_MISSING: &str = "feature_missing";
    /// Too many requests; `retry_after_ms` says when.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// A part is larger than the advertised limit.
    pub const TOO_LARGE: &str = "too_large";
    /// The envelope is malformed.
    pub const BAD_ENVELOPE: &str = "bad_envelope";
    /// The envelope's author is not an identity of this socket.
    pub const NOT_YOURS: &str = "not_yours";
    /// The envelope is past its expiry.
    pub const EXPIRED: &str = "expired";
    /// No such member, session, group or topic.
    pub const UNKNOWN_TARGET: &str = "unknown_target";
    /// A group send's batches do not fit together.
    pub const BAD_BATCH: &str = "bad_batch";
    /// The group's name, or the statement about it, is none.
    pub const BAD_GROUP: &str = "bad_group";
    /// A later statement about the same group is known.
    pub const STALE_STATEMENT: &str = "stale_statement";
    /// The session has ended; its member still lives.
    pub const TARGET_GONE: &str = "target_gone";
    /// The recipient is away and the envelope is not to be queued.
    pub const OFFLINE: &str = "offline";
    /// This id was used for another envelope.
    pub const CONFLICT: &str = "conflict";
    /// Too much waits for this recipient.
    pub const QUEUE_FULL: &str = "queue_full";
    /// The caller's role does not allow this.
    pub const FORBIDDEN: &str = "forbidden";
    /// Well-formed, but not supported here.
    pub const UNSUPPORTED: &str = "unsupported";
    /// No such invite.
    pub const INVITE_NOT_FOUND: &str = "invite_not_found";
    /// The invite was revoked.
    pub const INVITE_REVOKED: &str = "invite_revoked";
    /// The invite is over.
    pub const INVITE_EXPIRED: &str = "invite_expired";
    /// The invite has admitted as many as it allows.
    pub const INVITE_EXHAUSTED: &str = "invite_exhausted";
    /// The invite, or the claim on it, was tampered with.
    pub const INVITE_TAMPERED: &str = "invite_tampered";
    /// The name is taken by another key.
    pub const NAME_TAKEN: &str = "name_taken";
    /// The admin token is missing or wrong.
    pub const BAD_TOKEN: &str = "bad_token";
    /// It exists already.
    pub const EXISTS: &str = "exists";
    /// The broker could not; try again.
    pub const UNAVAILABLE: &str = "unavailable";
}

/// WebSocket close codes (inventory appendix 3).
pub mod close {
    /// Done: a newer socket of the same identity, or a soft disconnect.
    pub const NORMAL: u16 = 1000;
    /// The broker is stopping; come back.
    pub const GOING_AWAY: u16 = 1001;
    /// Not WebSocket (RFC 6455 section 7.4.1).
    pub const PROTOCOL: u16 = 1002;
    /// A text message was not UTF-8 (RFC 6455 section 8.1).
    pub const NOT_TEXT: u16 = 1007;
    /// A frame was larger than the limit (RFC 6455 section 7.4.1).
    pub const TOO_BIG: u16 = 1009;
    /// The hello was refused; the reason is its error code.
    pub const REFUSED: u16 = 1008;
    /// The broker is too busy; come back later (RFC 6455 registry: try again later).
    pub const TRY_LATER: u16 = 1013;
    /// Removed by an admin; rejoin by hand.
    pub const KICKED: u16 = 4001;
    /// The identity is revoked.
    pub const REVOKED: u16 = 4002;
    /// The same key is connected from another instance.
    pub const ALREADY_CONNECTED: u16 = 4004;
    /// The reader did not keep up.
    pub const SLOW_CONSUMER: u16 = 4008;
    /// A required feature is missing.
    pub const FEATURE: u16 = 4010;

    /// Whether reconnecting by itself cannot help.
    #[must_use]
    pub const fn is_terminal(code: u16) -> bool {
        matches!(code, KICKED | REVOKED | ALREADY_CONNECTED | FEATURE)
    }
}
