//! Sending, delivery and receipts.

use serde::{Deserialize, Serialize};

use crate::UnixMillis;
use crate::envelope::Envelope;
use crate::id::{EnvelopeId, PublicKey};
use crate::receipt::Receipt;

/// The state of a message, the same words on every path, in API and command line (design section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// In the author's outbox.
    Queued,
    /// The broker has it on disk.
    Relayed,
    /// Handed to a direct path.
    Sent,
    /// The recipient's own receipt says that it has it.
    Delivered,
    /// Its time ran out before a receipt came.
    Expired,
    /// Refused for good.
    Failed,
}

impl MessageState {
    /// The wire word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Relayed => "relayed",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }
}

/// Which part of a group send's wraps this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// From 0, without gaps.
    pub index: u32,
    /// The send counts once the last batch is in.
    pub last: bool,
}

/// An envelope for the broker to accept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "send")]
pub struct Send {
    /// Request number.
    pub req: u64,
    /// The envelope.
    pub envelope: Envelope,
    /// For group sends with more than one batch of wraps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
}

/// The broker has the envelope on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "accepted")]
pub struct Accepted {
    /// Request number.
    pub req: u64,
    /// The envelope's id.
    pub id: EnvelopeId,
    /// Where it stands: the least advanced recipient.
    pub state: MessageState,
    /// Whether it was there before.
    #[serde(default)]
    pub duplicate: bool,
    /// Recipients of a group send who get nothing because too much waits for them already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub full: Vec<PublicKey>,
}

/// The wraps of a group send are not for those who are in the group now. Send again, with the same
/// envelope and the wraps completed, after a look at one's own copy of the roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "recipients_changed")]
pub struct RecipientsChanged {
    /// Request number.
    pub req: u64,
    /// The envelope's id.
    pub id: EnvelopeId,
    /// Who lacks a wrap; at most [`crate::limits::MAX_CHANGED`], so that there may be more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<PublicKey>,
    /// Who has a wrap and is not to have one; at most as many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<PublicKey>,
}

/// A delivery to one of the socket's identities, claimed for [`crate::limits::CLAIM_LEASE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "message")]
pub struct MessageFrame {
    /// Which identity it is for.
    pub to: PublicKey,
    /// The envelope; with the author's chain at the first from that author on a connection.
    pub envelope: Envelope,
    /// When the broker accepted it, Unix milliseconds.
    pub accepted_at: UnixMillis,
    /// 1 for the first push.
    pub attempt: u32,
}

/// The envelope is in the recipient's inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "client_ack")]
pub struct ClientAck {
    /// The envelope's author key.
    pub from: PublicKey,
    /// The envelope's id.
    pub id: EnvelopeId,
    /// For the author.
    pub receipt: Receipt,
}

/// The recipient does not take the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "client_nack")]
pub struct ClientNack {
    /// The envelope's author key.
    pub from: PublicKey,
    /// The envelope's id.
    pub id: EnvelopeId,
    /// The recipient's key.
    pub by: PublicKey,
    /// One of [`crate::receipt::reason`].
    pub reason: String,
    /// Whether a later push cannot change that; if not, it is pushed again after the lease.
    pub permanent: bool,
    /// For the author, where the refusal is permanent and a key for it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// A recipient's receipt, to the author; repeated at each connect until confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "receipt")]
pub struct ReceiptFrame {
    /// The envelope's author key.
    pub from: PublicKey,
    /// The envelope's id.
    pub id: EnvelopeId,
    /// What the recipient says.
    pub receipt: Receipt,
}

/// The author has noted the receipt; the broker may forget it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "receipt_ack")]
pub struct ReceiptAck {
    /// The envelope's author key.
    pub from: PublicKey,
    /// The envelope's id.
    pub id: EnvelopeId,
    /// Whose receipt it was.
    pub by: PublicKey,
}

/// Everything that waited for this socket has been pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "drained")]
pub struct Drained {}
