//! The path through the broker's WebSocket.
//!
//! ```text
//! RelayLink (handle) --frames--> writer --\
//!      |                                   WebSocket (one task per link, a connection at a time)
//! LinkEvents <------- reader -------------/
//!
//! Down --connect, hello--> Up --lost--> Down (waits as `backoff` says) --> …
//!                           \--close()--> Closed
//! ```
//!
//! - [`RelayLink::open`] starts a task that connects, says hello and comes back for ever, except
//!   after a terminal close code ([`is_terminal`]): then a last [`LinkEvent::Down`] without
//!   `retry_in` comes and the events end.
//! - `Down`'s code is the broker's error code, or `close_NNNN` where it only closed the socket.
//! - [`RelayLink::carry`] puts a stream on the link: its records go beside the frames, which go first.
//! - Every queue is bounded. Reader and writer do not wait for each other, so whoever reads the
//!   events may await [`MessageLink::send`], `answer` and `confirm` meanwhile. It must not await
//!   tickets or requests: their answers come behind the events that it has not read yet. Should it
//!   read nothing for [`STALE_AFTER`], the connection is given up, as the broker's watchdog does by
//!   then, and everything that waited is told so: no mistake in a reader wedges a link.
//!
//! [`is_terminal`]: meshwire_signaling::frame::close::is_terminal
//! [`STALE_AFTER`]: meshwire_signaling::limits::STALE_AFTER

pub mod backoff;
mod connect;
mod credit;
mod driver;
pub mod hello;
mod records;
mod session;
mod state;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{
    Batch, Bind, Bye, ClientAck, ClientNack, Disconnect, Disconnected, Features, Frame,
    InviteCreate, InviteInfo, InviteList, InviteRevoke, ListPeers, P2pFrame, Peers, ReceiptAck,
    Send as SendFrame, SetGroup, SetPresence, TurnCredentials, TurnServers, Unbind,
};
use meshwire_signaling::limits::MAX_P2P;
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::sign::Signed;
use meshwire_signaling::stream::carry::Way;
use meshwire_signaling::{Envelope, EnvelopeId, Hash, InstanceId, MeshId, PublicKey, SecretKey};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::link::{Answer, LinkError, LinkEvent, MessageLink, PathKind, Ticket};
use crate::net::Net;
use crate::stream::Live;
use crate::url::BaseUrl;
pub use records::Carried;
use records::Records;
use state::{Shared, Up};

/// Events that wait for their reader: a full delivery window (64) and as much again of receipts and
/// presence, twice.
const EVENTS: usize = 256;
/// How long a request may take: people who wait for it do not wait longer.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);

/// What a relay link needs to know.
#[derive(Clone)]
pub struct RelayConfig {
    /// The broker's address.
    pub base: BaseUrl,
    /// SHA-256 of its TLS key (SPKI), where it is self-signed.
    pub pin: Option<Hash>,
    /// The mesh.
    pub mesh: MeshId,
    /// The broker's key as the mesh names it.
    pub broker: PublicKey,
    /// The member's key.
    pub identity: SecretKey,
    /// How frames are written.
    pub encoding: Encoding,
    /// What this node can.
    pub features: Features,
    /// Features that the broker must have.
    pub requires: Vec<String>,
    /// Name and version of the program, for the broker's log.
    pub agent: String,
    /// Where hello counters come from.
    pub counter: Arc<dyn HelloCounter>,
}

impl fmt::Debug for RelayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayConfig")
            .field("base", &self.base)
            .field("mesh", &self.mesh)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// The counter could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the hello counter is not available: {0}")]
pub struct CounterError(pub String);

/// The durable hello counter of an outbox (design section 3).
#[async_trait]
pub trait HelloCounter: Send + Sync {
    /// The instance and its next counter, which is on disk before this returns.
    ///
    /// # Errors
    /// [`CounterError`]; the link tries again later.
    async fn next(&self) -> Result<(InstanceId, u64), CounterError>;

    /// The broker has seen this counter before (a copied or restored home): makes a new instance.
    ///
    /// # Errors
    /// [`CounterError`]; the link tries again later.
    async fn renew(&self) -> Result<(), CounterError>;
}

/// A link through the broker; see the module's documentation. Dropping it closes it.
pub struct RelayLink {
    shared: Arc<Shared>,
    records: Arc<Records>,
    closing: watch::Sender<bool>,
    /// Its other end is dropped when the task has ended.
    done: watch::Receiver<()>,
}

impl fmt::Debug for RelayLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayLink").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Drop for RelayLink {
    fn drop(&mut self) {
        // Lets the writer run dry and say goodbye; the task learns it from `closing`'s end.
        self.shared.close();
    }
}

impl RelayLink {
    /// Starts the link's task. Must be called inside a tokio runtime.
    #[must_use]
    pub fn open(net: Arc<dyn Net>, config: RelayConfig) -> (Arc<Self>, mpsc::Receiver<LinkEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (closing, closed) = watch::channel(false);
        let (running, done) = watch::channel(());
        let shared = Arc::new(Shared::default());
        let records = Arc::new(Records::default());
        let driver =
            driver::Driver::new(net, config, shared.clone(), records.clone(), events, closed);
        tokio::spawn(async move {
            driver.run().await;
            drop(running);
        });
        (Arc::new(Self { shared, records, closing, done }), receiver)
    }

    /// One page of the mesh's members in key order: those after `after`, or only `key`.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn list_peers(
        &self,
        after: Option<PublicKey>,
        key: Option<PublicKey>,
    ) -> Result<Peers, LinkError> {
        match self.ask(|req, _| ListPeers { req, after, key }.into()).await? {
            Frame::Peers(peers) => Ok(peers),
            other => Err(unexpected(&other)),
        }
    }

    /// Registers an invite: its capability, signed by this member.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn invite_create(&self, capability: Signed) -> Result<(), LinkError> {
        done(&self.ask(|req, _| InviteCreate { req, capability }.into()).await?)
    }

    /// The mesh's newest invites.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn invite_list(&self) -> Result<Vec<InviteInfo>, LinkError> {
        match self.ask(|req, _| InviteList { req }.into()).await? {
            Frame::Invites(invites) => Ok(invites.invites),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends an invite.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn invite_revoke(&self, invite: PublicKey) -> Result<(), LinkError> {
        done(&self.ask(|req, _| InviteRevoke { req, invite }.into()).await?)
    }

    /// Binds a further identity of this member to the current connection; to be repeated at each
    /// [`LinkEvent::Up`]. Says whether its presence goes on from an earlier connection.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn bind(&self, key: &SecretKey, attestation: Signed) -> Result<bool, LinkError> {
        let public = key.public();
        let answer = self.ask(|req, hello| {
            let proof = Bind::prove(hello, key, &attestation);
            Bind { req, key: public, attestation, proof }.into()
        });
        match answer.await? {
            Frame::Bound(bound) if bound.key == public => Ok(bound.resumed),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a bound identity: the broker refuses mail to it from now on.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn unbind(&self, key: PublicKey) -> Result<(), LinkError> {
        done(&self.ask(|req, _| Unbind { req, key }.into()).await?)
    }

    /// Changes what an identity of this link says of itself; `change.req` is filled in.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn set_presence(&self, change: SetPresence) -> Result<(), LinkError> {
        done(&self.ask(|req, _| SetPresence { req, ..change }.into()).await?)
    }

    /// Joins or leaves a group, by a [`meshwire_signaling::group::GroupStatement`] of this member.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn set_group(&self, statement: Signed) -> Result<(), LinkError> {
        done(&self.ask(|req, _| SetGroup { req, statement }.into()).await?)
    }

    /// Closes connections of others; `ask.req` is filled in.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn disconnect(&self, ask: Disconnect) -> Result<Disconnected, LinkError> {
        match self.ask(|req, _| Disconnect { req, ..ask }.into()).await? {
            Frame::Disconnected(done) => Ok(done),
            other => Err(unexpected(&other)),
        }
    }

    /// Has a step of a negotiation carried to its recipient's node. When this returns, it waits for that
    /// node's socket; nobody says whether it arrives.
    ///
    /// # Errors
    /// [`LinkError::TooLarge`] for a payload that the broker would refuse; [`LinkError::Refused`] among
    /// others with the codes `offline`, `queue_full`, `rate_limited` and `feature_missing`.
    pub async fn p2p(&self, frame: P2pFrame) -> Result<(), LinkError> {
        let (len, max) = (frame.payload.len(), MAX_P2P);
        if len > max {
            return Err(LinkError::TooLarge { len, max });
        }
        done(&self.ask(|req, _| frame.into_frame(Some(req))).await?)
    }

    /// The servers that help this member's node to reach others, with credentials for a while.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn turn_credentials(&self) -> Result<TurnServers, LinkError> {
        match self.ask(|req, _| TurnCredentials { req }.into()).await? {
            Frame::TurnServers(servers) => Ok(servers),
            other => Err(unexpected(&other)),
        }
    }

    /// Carries a stream between `from`, an identity of this link, and `to`, on each connection to a broker that
    /// can, until what this returns is dropped. The opener calls it before it sends the open, so that the answer
    /// finds it.
    pub fn carry(&self, live: Live, from: PublicKey, to: PublicKey) -> Carried {
        self.records.carry(live, Way { from, to })
    }

    /// The network may have changed under the connection, which would not notice for a minute: has it
    /// show within a second that it lives, or else makes a new one at once.
    pub fn doubt(&self) {
        if let Ok(up) = self.shared.up() {
            up.pending.doubt();
        }
    }

    /// Tells the broker that this node leaves on purpose, before [`MessageLink::close`]: its presence
    /// ends at once.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn bye(&self) -> Result<(), LinkError> {
        self.tell(Bye {}.into()).await
    }

    /// Makes one request on the current connection; `make` gets its number and the hello's hash.
    async fn ask(&self, make: impl FnOnce(u64, &Hash) -> Frame) -> Result<Frame, LinkError> {
        let asking = async {
            let up = self.shared.up()?;
            let lost = || self.shared.lost();
            let _permit = up.asks.clone().acquire_owned().await.map_err(|_| lost())?;
            let room = up.frames.reserve().await.map_err(|_| lost())?;
            let (asked, answer) = up.pending.ask();
            room.send(make(asked.req(), &up.hello));
            // Not kept while waiting: a closing link says goodbye when the last of these is gone.
            drop(up);
            answer.await.unwrap_or_else(|_| Err(lost()))
        };
        timeout(ASK_TIMEOUT, asking).await.unwrap_or(Err(LinkError::TimedOut))
    }

    /// Sends all batches of wraps but the last. Nobody waits for their answers: a broker that does
    /// not have one of them refuses the last.
    async fn send_batches(
        &self,
        up: &Up,
        mut envelope: Envelope,
    ) -> Result<(Envelope, Option<Batch>), LinkError> {
        if envelope.wraps.len() <= up.max_wraps {
            return Ok((envelope, None));
        }
        let wraps = std::mem::take(&mut envelope.wraps);
        let mut chunks = wraps.chunks(up.max_wraps).peekable();
        let mut index = 0;
        while let Some(chunk) = chunks.next() {
            let part = Envelope { wraps: chunk.to_vec(), ..envelope.clone() };
            let batch = Some(Batch { index, last: chunks.peek().is_none() });
            if chunks.peek().is_none() {
                return Ok((part, batch));
            }
            let room = up.frames.reserve().await.map_err(|_| self.shared.lost())?;
            room.send(SendFrame { req: up.pending.next_req(), envelope: part, batch }.into());
            index += 1;
        }
        Ok((envelope, None))
    }

    /// Queues a frame that nobody answers.
    async fn tell(&self, frame: Frame) -> Result<(), LinkError> {
        let up = self.shared.up()?;
        up.frames.send(frame).await.map_err(|_| self.shared.lost())
    }
}

fn unexpected(frame: &Frame) -> LinkError {
    LinkError::Unexpected(frame.kind().to_owned())
}

fn done(frame: &Frame) -> Result<(), LinkError> {
    if matches!(frame, Frame::Ok(_)) { Ok(()) } else { Err(unexpected(frame)) }
}

#[async_trait]
impl MessageLink for RelayLink {
    fn kind(&self) -> PathKind {
        PathKind::Relay
    }

    fn is_up(&self) -> bool {
        self.shared.up().is_ok()
    }

    async fn send(&self, envelope: Envelope) -> Result<Ticket, LinkError> {
        let up: Arc<Up> = self.shared.up()?;
        let (len, max) = (envelope.body.len(), up.max_body);
        if len > max {
            return Err(LinkError::TooLarge { len, max });
        }
        let lost = |_| self.shared.lost();
        let _turn = up.turn.lock().await;
        let permit = up.sends.clone().acquire_owned().await.map_err(lost)?;
        let (envelope, batch) = self.send_batches(&up, envelope).await?;
        let room = up.frames.reserve().await.map_err(|_| self.shared.lost())?;
        let (done, ticket) = Ticket::new();
        let req = up.pending.send(done, permit);
        room.send(SendFrame { req, envelope, batch }.into());
        Ok(ticket)
    }

    async fn answer(&self, answer: Answer) -> Result<(), LinkError> {
        let nack = |from, id, by, reason, permanent| ClientNack {
            from,
            id,
            by,
            reason,
            permanent,
            receipt: None,
        };
        self.tell(match answer {
            Answer::Final { from, id, receipt } if receipt.verdict == Verdict::Delivered => {
                ClientAck { from, id, receipt }.into()
            }
            Answer::Final { from, id, receipt } => {
                let by = receipt.by;
                let reason = receipt.reason.clone().unwrap_or_default();
                let receipt = Some(receipt);
                ClientNack { from, id, by, reason, permanent: true, receipt }.into()
            }
            Answer::Gone { from, id, by, receipt } => {
                let reason = receipt.reason.clone().unwrap_or_default();
                let receipt = Some(receipt);
                ClientNack { from, id, by, reason, permanent: true, receipt }.into()
            }
            Answer::Refused { from, id, by, reason } => nack(from, id, by, reason, true).into(),
            Answer::Later { from, id, by, reason } => nack(from, id, by, reason, false).into(),
        })
        .await
    }

    async fn confirm(
        &self,
        from: PublicKey,
        id: EnvelopeId,
        by: PublicKey,
    ) -> Result<(), LinkError> {
        self.tell(ReceiptAck { from, id, by }.into()).await
    }

    async fn close(&self) {
        self.shared.close();
        self.closing.send_replace(true);
        // Fails, that is ends, when the task drops its end.
        let _ = self.done.clone().changed().await;
    }
}
