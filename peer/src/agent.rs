//! One way to ask, whoever does the work: the home's background node, or this process.

use std::sync::Arc;
use std::time::Duration;

use meshwire_transport::net::Net;

use crate::api::{
    ApiError, CreateInvite, CreateMesh, Done, ErrorKind, Inbox, InboxMessage, Invite, InviteRow,
    Invites, Join, ListPeers, MeshInfo, Message, MessageStatus, Outbox, Peer, Requeue,
    SafetyNumber, Send, Status, Verify,
};
use crate::client::Client;
use crate::home::Home;
use crate::node::Node;

/// How long a verb waits for another verb that has the home.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// See the module's documentation.
#[derive(Debug)]
pub enum Agent {
    /// This process works with the home itself.
    Own(Node),
    /// The home's background node does.
    Remote(Client),
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident($ask:ty) -> $answer:ty, $path:literal, $wait:expr;)*) => {
        impl Agent {
            $($(#[$doc])*
            ///
            /// # Errors
            /// [`ApiError`].
            pub async fn $name(&self, ask: $ask) -> Result<$answer, ApiError> {
                match self {
                    Self::Own(node) => node.$name(ask).await,
                    Self::Remote(client) => {
                        #[allow(clippy::redundant_closure_call)]
                        let wait = Duration::from_millis(($wait)(&ask));
                        client.post($path, &ask, wait).await
                    }
                }
            })*
        }
    };
}

verbs! {
    /// Founds a mesh.
    create_mesh(CreateMesh) -> MeshInfo, "/v1/meshes", |_: &CreateMesh| 0;
    /// Joins a mesh.
    join(Join) -> MeshInfo, "/v1/join", |_: &Join| 0;
    /// Makes an invite.
    invite(CreateInvite) -> Invite, "/v1/invite", |_: &CreateInvite| 0;
    /// Lists invites, or ends one.
    invites(Invites) -> Vec<InviteRow>, "/v1/invites", |_: &Invites| 0;
    /// Lists members.
    peers(ListPeers) -> Vec<Peer>, "/v1/peers", |_: &ListPeers| 0;
    /// Sends a message: it is durable when this returns.
    send(Send) -> Message, "/v1/send", |ask: &Send| ask.timeout_ms.unwrap_or(0);
    /// Says where a message stands.
    message(MessageStatus) -> Message, "/v1/message", |_: &MessageStatus| 0;
    /// Lists messages that were sent.
    outbox(Outbox) -> Vec<Message>, "/v1/outbox", |_: &Outbox| 0;
    /// Sends a message anew.
    requeue(Requeue) -> Message, "/v1/outbox/requeue", |_: &Requeue| 0;
    /// Lists messages that came in.
    inbox(Inbox) -> Vec<InboxMessage>, "/v1/inbox", |ask: &Inbox| ask.wait_ms.unwrap_or(0);
    /// The safety number with a peer.
    verify(Verify) -> SafetyNumber, "/v1/verify", |_: &Verify| 0;
    /// How the node is.
    status(Done) -> Status, "/v1/status", |_: &Done| 0;
}

impl Agent {
    /// The home's background node if it runs, else this process: then the home is this process's
    /// alone until [`Self::close`].
    ///
    /// # Errors
    /// [`ApiError`]; `home_busy` if another verb does not finish.
    pub async fn open(net: Arc<dyn Net>, home: &Home) -> Result<Self, ApiError> {
        let until = net.now() + LOCK_PATIENCE;
        loop {
            if let Some(lock) = home.try_lock()? {
                return Ok(Self::Own(Node::open(net, home, lock).await?));
            }
            let client = Client::new(home.socket());
            let asked: Result<Status, _> =
                client.post("/v1/status", &Done {}, Duration::ZERO).await;
            match asked {
                Ok(_) => return Ok(Self::Remote(client)),
                // Another verb has the home for a moment, or the node is just coming up.
                Err(_) if net.now() < until => tokio::time::sleep(LOCK_POLL).await,
                Err(e) => {
                    let text = format!("another meshwire works with this home: {}", e.message);
                    return Err(ApiError::new(ErrorKind::Io, "home_busy", text));
                }
            }
        }
    }

    /// Whether this process does the work.
    #[must_use]
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// In this process: waits until every broker is connected, what waited there has come and the
    /// outbox has left, or the time is over. A background node does that all the time.
    pub async fn settle(&self, patience: Duration) {
        if let Self::Own(node) = self {
            node.settle(patience).await;
        }
    }

    /// Ends the background node.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn stop(&self) -> Result<(), ApiError> {
        match self {
            Self::Own(_) => Ok(()),
            Self::Remote(client) => {
                let _: Done = client.post("/v1/shutdown", &Done {}, Duration::ZERO).await?;
                Ok(())
            }
        }
    }

    /// Gives the home back.
    pub async fn close(self) {
        if let Self::Own(node) = self {
            node.close().await;
        }
    }
}
