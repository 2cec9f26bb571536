//! What every path between two nodes can do with messages.
//!
//! A [`MessageLink`] carries envelopes one way and acks the other. What comes in is a stream of
//! [`LinkEvent`]s, handed out as a bounded channel when the link is made; a reader that stops
//! reading slows the link down and grows nothing. [`crate::conformance`] holds every adapter to the
//! same behaviour.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use meshwire_signaling::frame::{
    ErrorFrame, HelloAckBody, MessageState, P2pFrame, PeerInfo, Presence, UnboundReason,
};
use meshwire_signaling::receipt::Receipt;
use meshwire_signaling::{Envelope, EnvelopeId, PublicKey, UnixMillis};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Which kind of path a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PathKind {
    /// Through the broker's WebSocket.
    Relay,
    /// Within one process.
    Memory,
    /// QUIC from node to node.
    Quic,
}

/// An envelope that came in and waits for [`MessageLink::answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Which of our identities it is for, as the carrier says; the header has the last word.
    pub to: PublicKey,
    /// The envelope, unverified.
    pub envelope: Envelope,
    /// When the carrier took it over, Unix milliseconds.
    pub accepted_at: UnixMillis,
    /// 1 for the first time.
    pub attempt: u32,
}

/// The code of [`LinkEvent::Down`] when the other end closed a direct path on purpose.
pub const CLOSED: &str = "closed";

/// What happens on a link.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LinkEvent {
    /// The link is usable. Relay links bring the broker's verified ack.
    Up(Option<Box<HelloAckBody>>),
    /// The link is not usable.
    Down {
        /// Why, for people.
        reason: String,
        /// The machine-readable word, where the other side gave one.
        code: Option<String>,
        /// When the link will try again; none when it has given up for good.
        retry_in: Option<Duration>,
    },
    /// An envelope.
    Envelope(Box<Inbound>),
    /// A recipient's receipt for an envelope of ours, unverified.
    Receipt {
        /// Our identity that signed the envelope.
        from: PublicKey,
        /// The envelope.
        id: EnvelopeId,
        /// What the recipient says.
        receipt: Receipt,
    },
    /// All that had waited for us has been handed over.
    Drained,
    /// Somebody came, went or was admitted.
    Presence(Box<Presence>),
    /// What a member says of itself, or its groups, changed.
    PeerChanged(Box<PeerInfo>),
    /// News were lost: the roster is to be read again.
    Resync,
    /// A step of a negotiation, as the carrier brought it: nothing of it is verified.
    P2p(Box<P2pFrame>),
    /// The connection does not speak for one of our bound identities any more.
    Unbound {
        /// The identity.
        key: PublicKey,
        /// Why.
        reason: UnboundReason,
    },
}

/// Our verdict on an envelope that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The receipt says what became of it: delivered, or refused for good.
    Final {
        /// The envelope's author.
        from: PublicKey,
        /// The envelope.
        id: EnvelopeId,
        /// For the author.
        receipt: Receipt,
    },
    /// It is for a session of ours that has ended: the receipt is by our member.
    Gone {
        /// The envelope's author.
        from: PublicKey,
        /// The envelope.
        id: EnvelopeId,
        /// The session.
        by: PublicKey,
        /// For the author.
        receipt: Receipt,
    },
    /// Refused for good, but there is no key to make a receipt with.
    Refused {
        /// The envelope's author.
        from: PublicKey,
        /// The envelope.
        id: EnvelopeId,
        /// Our identity it was for.
        by: PublicKey,
        /// One of [`meshwire_signaling::receipt::reason`].
        reason: String,
    },
    /// Not now: it may come again.
    Later {
        /// The envelope's author.
        from: PublicKey,
        /// The envelope.
        id: EnvelopeId,
        /// Our identity it was for.
        by: PublicKey,
        /// Why, for the log.
        reason: String,
    },
}

/// The carrier's word that it has an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    /// How far it is.
    pub state: MessageState,
    /// Whether the carrier had it before.
    pub duplicate: bool,
    /// Recipients of a group send who get nothing: too much waits for them already.
    pub full: Vec<PublicKey>,
}

/// Why a link did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Not connected now, or the connection was lost before the answer came.
    #[error("the link is down")]
    Down,
    /// Closed by us; it will not come back.
    #[error("the link is closed")]
    Closed,
    /// Larger than this link carries.
    #[error("{len} bytes are more than this link carries ({max})")]
    TooLarge {
        /// How many bytes it has.
        len: usize,
        /// How many it may have.
        max: usize,
    },
    /// The other side refused.
    #[error("{}", .0.message)]
    Refused(Box<ErrorFrame>),
    /// A group send's wraps are not for those who are in the group now; as far as one answer says.
    #[error("the group's members have changed: {} are missing, {} are gone", missing.len(), gone.len())]
    RecipientsChanged {
        /// Who lacks a wrap.
        missing: Vec<PublicKey>,
        /// Who is not to have one.
        gone: Vec<PublicKey>,
    },
    /// No answer came in time; the request may have had its effect all the same.
    #[error("no answer came in time")]
    TimedOut,
    /// The other side answered something else than was asked.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

/// Resolves when the carrier has the envelope, or will not have it. Dropping it cancels nothing.
pub struct Ticket(oneshot::Receiver<Result<Handed, LinkError>>);

impl Ticket {
    /// A ticket and what resolves it; dropping the latter means [`LinkError::Down`].
    #[must_use]
    pub fn new() -> (oneshot::Sender<Result<Handed, LinkError>>, Self) {
        let (tx, rx) = oneshot::channel();
        (tx, Self(rx))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

impl Future for Ticket {
    type Output = Result<Handed, LinkError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|r| r.unwrap_or(Err(LinkError::Down)))
    }
}

/// A path for messages.
#[async_trait]
pub trait MessageLink: fmt::Debug + Send + Sync {
    /// Which kind of path this is.
    fn kind(&self) -> PathKind;

    /// Whether it is usable right now.
    fn is_up(&self) -> bool;

    /// Hands an envelope over. Envelopes leave in the order of these calls; the call itself waits
    /// only for room in the link's bounded queue.
    ///
    /// # Errors
    /// [`LinkError::Down`], [`LinkError::Closed`] or [`LinkError::TooLarge`] at once; the rest
    /// through the ticket.
    async fn send(&self, envelope: Envelope) -> Result<Ticket, LinkError>;

    /// Answers an envelope that came in.
    ///
    /// # Errors
    /// [`LinkError::Down`] or [`LinkError::Closed`]; the envelope will then come again.
    async fn answer(&self, answer: Answer) -> Result<(), LinkError>;

    /// Tells the carrier that a receipt has been noted.
    ///
    /// # Errors
    /// [`LinkError::Down`] or [`LinkError::Closed`]; the receipt will then come again.
    async fn confirm(
        &self,
        from: PublicKey,
        id: EnvelopeId,
        by: PublicKey,
    ) -> Result<(), LinkError>;

    /// Closes the link for good, after what was handed over has left.
    async fn close(&self);
}
