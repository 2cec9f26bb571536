//! A node of a virtual world.

use std::sync::Arc;

use meshwire_netsim::simnet::SimHost;
use meshwire_peer::Node;
use meshwire_peer::api::{
    ApiError, AskPath, DirectPath, Done, Inbox, InboxMessage, ListPeers, Message, MessageStatus,
    PathReport, Send,
};
use meshwire_peer::node::MemoryHome;
use meshwire_peer::path::{PathMode, Via};
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::{EnvelopeId, Priority};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Duration;

use super::WorldError;
use super::interfaces::SimInterfaces;
use crate::direct::{Settings, paths_with};

/// Rows of an inbox that are listed: more than any run sends.
const INBOX: u32 = 1_000;

/// Longest time until somebody who waits looks again, should an event not tell of a change.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A node that can be stopped and started: its home outlives it.
///
/// What waits here waits for ever: bound it with [`tokio::time::timeout`], whose time is virtual, too.
#[derive(Debug)]
pub struct VirtualNode {
    name: String,
    host: SimHost,
    home: MemoryHome,
    mode: PathMode,
    running: Option<Node>,
}

impl VirtualNode {
    pub(super) async fn new(name: &str, host: SimHost, mode: PathMode) -> Result<Self, WorldError> {
        let home = MemoryHome::default();
        let mut node = Self { name: name.to_owned(), host, home, mode, running: None };
        node.start().await?;
        Ok(node)
    }

    /// Its name, as a member too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &SimHost {
        &self.host
    }

    /// The node itself, for everything else that can be asked of it.
    ///
    /// # Errors
    /// [`WorldError::Stopped`].
    pub fn node(&self) -> Result<&Node, WorldError> {
        self.running.as_ref().ok_or_else(|| WorldError::Stopped(self.name.clone()))
    }

    /// Starts it with what it knew before.
    ///
    /// # Errors
    /// [`WorldError::Running`], [`WorldError::Node`].
    pub async fn start(&mut self) -> Result<(), WorldError> {
        if self.running.is_some() {
            return Err(WorldError::Running(self.name.clone()));
        }
        let net = Arc::new(self.host.clone());
        let settings = Settings { mode: self.mode, ..Settings::default() };
        let interfaces = Arc::new(SimInterfaces::new(self.host.clone()));
        let paths = paths_with(net.clone(), interfaces, settings).await?;
        let node = Box::pin(Node::in_memory(net, &self.home, paths)).await;
        self.running = Some(node.map_err(|e| self.says(e))?);
        Ok(())
    }

    /// Stops it; what it has accepted goes out after the next start.
    ///
    /// # Errors
    /// [`WorldError::Stopped`].
    pub async fn stop(&mut self) -> Result<(), WorldError> {
        let node = self.running.take().ok_or_else(|| WorldError::Stopped(self.name.clone()))?;
        node.close().await;
        Ok(())
    }

    /// Puts a text for `to` (a name or `@group`) into the outbox.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn send(&self, to: &str, text: &str) -> Result<EnvelopeId, WorldError> {
        let ask = Send {
            mesh: None,
            to: to.to_owned(),
            message: text.to_owned(),
            priority: Priority::default(),
            reply_to: None,
            idempotency_key: None,
            ttl_ms: None,
            wait: None,
            timeout_ms: None,
        };
        Ok(self.node()?.send(ask).await.map_err(|e| self.says(e))?.id)
    }

    /// Where a message that it sent stands.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn message(&self, id: EnvelopeId) -> Result<Message, WorldError> {
        let ask = MessageStatus { id: id.to_string() };
        self.node()?.message(ask).await.map_err(|e| self.says(e))
    }

    /// Waits until a message is in a state.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn reaches(&self, id: EnvelopeId, state: MessageState) -> Result<(), WorldError> {
        self.wait(async || Ok((self.message(id).await?.state == state).then_some(()))).await
    }

    /// Waits for the recipient's receipt of a message.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn delivered(&self, id: EnvelopeId) -> Result<(), WorldError> {
        self.reaches(id, MessageState::Delivered).await
    }

    /// What came in, in the order in which it surfaced; at most 1,000. It stays unread.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn inbox(&self) -> Result<Vec<InboxMessage>, WorldError> {
        let ask = Inbox { peek: true, limit: Some(INBOX), ..Inbox::default() };
        self.node()?.inbox(ask).await.map_err(|e| self.says(e))
    }

    /// The texts of [`Self::inbox`].
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn texts(&self) -> Result<Vec<String>, WorldError> {
        Ok(self.inbox().await?.into_iter().map(|m| m.message).collect())
    }

    /// Waits until so many messages have come in.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn received(&self, count: usize) -> Result<Vec<InboxMessage>, WorldError> {
        self.wait(async || Ok(Some(self.inbox().await?).filter(|rows| rows.len() >= count))).await
    }

    /// The state of its connection to the broker: `connecting`, `up`, `down` and so on, as in status.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn link(&self) -> Result<String, WorldError> {
        let status = self.node()?.status(Done {}).await.map_err(|e| self.says(e))?;
        Ok(status.meshes.into_iter().next().map(|m| m.link).unwrap_or_default())
    }

    /// Waits until it is connected to the broker.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn connected(&self) -> Result<(), WorldError> {
        self.wait(async || Ok((self.link().await? == "up").then_some(()))).await
    }

    /// Waits until it has heard of a member, which it does when both are connected. Who is not known
    /// cannot be written to.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn knows(&self, name: &str) -> Result<(), WorldError> {
        self.wait(async || {
            let peers = self.node()?.peers(ListPeers::default()).await.map_err(|e| self.says(e))?;
            Ok(peers.iter().any(|p| p.name == name).then_some(()))
        })
        .await
    }

    /// Which path messages to a peer take.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn path(&self, peer: &str) -> Result<PathReport, WorldError> {
        let ask = AskPath { mesh: None, peer: peer.to_owned() };
        self.node()?.path(ask).await.map_err(|e| self.says(e))
    }

    /// Waits until messages to a peer go directly, if need be through a TURN server.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn is_direct(&self, peer: &str) -> Result<DirectPath, WorldError> {
        self.goes(peer, |_| true).await
    }

    /// Waits until messages to a peer go over a direct path that `fits`.
    ///
    /// # Errors
    /// [`WorldError`].
    pub async fn goes(
        &self,
        peer: &str,
        fits: impl Fn(&DirectPath) -> bool,
    ) -> Result<DirectPath, WorldError> {
        self.wait(async || {
            let report = self.path(peer).await?;
            Ok(report.direct.filter(|d| report.via == Via::Direct && fits(d)))
        })
        .await
    }

    /// An error of its node.
    pub(super) fn says(&self, error: ApiError) -> WorldError {
        WorldError::Node { name: self.name.clone(), error }
    }

    /// Looks after each event until there is what is looked for.
    async fn wait<T>(
        &self,
        look: impl AsyncFn() -> Result<Option<T>, WorldError>,
    ) -> Result<T, WorldError> {
        let mut events = self.node()?.events();
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            let next = tokio::time::timeout(LOOK_AGAIN, events.recv()).await;
            if matches!(next, Ok(Err(RecvError::Closed))) {
                return Err(WorldError::Stopped(self.name.clone()));
            }
        }
    }
}
