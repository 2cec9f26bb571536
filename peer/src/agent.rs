//! One way to ask, whoever does the work: the home's background node, or this process.

use std::sync::Arc;
use std::time::Duration;

use meshwire_transport::net::Net;

use crate::api::{self, ApiError, Done, ErrorKind};
use crate::client::{AgentStream, Client};
use crate::home::Home;
use crate::node::{DirectPaths, Node};

/// How long a verb waits for another verb that has the home.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Every verb of a node, once: [`Agent`]'s and [`Client`]'s calls, the local API's routes and its
/// OpenAPI document are made from this list, by the macro that it is given to.
///
/// A row is `name(request) -> answer, METHOD "/path"`, each type from [`crate::api`], `[T]` for a
/// list of them; with `, waits FIELD` where that field of the request asks to wait, in milliseconds.
/// What only reads is GET with a query, the rest POST with JSON.
macro_rules! verbs {
    ($then:ident) => {
        $then! {
            /// How the node is.
            status(Done) -> Status, GET "/v1/status";
            /// Founds a mesh.
            create_mesh(CreateMesh) -> MeshInfo, POST "/v1/meshes";
            /// Joins a mesh.
            join(Join) -> MeshInfo, POST "/v1/join";
            /// Makes an invite.
            invite(CreateInvite) -> Invite, POST "/v1/invite";
            /// Lists invites, or ends one.
            invites(Invites) -> [InviteRow], POST "/v1/invites";
            /// Lists members.
            peers(ListPeers) -> [Peer], GET "/v1/peers";
            /// Sends a message: it is durable when this returns.
            send(Send) -> Message, POST "/v1/send", waits timeout_ms;
            /// Says where a message stands.
            message(MessageStatus) -> Message, GET "/v1/message";
            /// Lists messages that were sent.
            outbox(Outbox) -> [Message], GET "/v1/outbox";
            /// Sends a message anew.
            requeue(Requeue) -> Message, POST "/v1/outbox/requeue";
            /// Lists messages that came in, and marks them as read unless asked only to peek.
            inbox(Inbox) -> [InboxMessage], GET "/v1/inbox", waits wait_ms;
            /// Deletes messages that came in.
            inbox_delete(InboxDelete) -> Deleted, POST "/v1/inbox/delete";
            /// Starts a session for a running process.
            start_session(StartSession) -> SessionStarted, POST "/v1/sessions";
            /// Lists this node's sessions.
            sessions(ListSessions) -> [Session], GET "/v1/sessions";
            /// Ends a session.
            end_session(EndSession) -> Session, POST "/v1/sessions/end";
            /// Changes what we say of ourselves, or says it where nothing is to change.
            set_presence(SetPresence) -> [Presence], POST "/v1/presence";
            /// Joins or leaves a group.
            set_group(SetGroup) -> Done, POST "/v1/groups";
            /// Lists groups and who is in them.
            groups(ListGroups) -> [Group], GET "/v1/groups";
            /// Closes connections of others.
            disconnect(Disconnect) -> Disconnected, POST "/v1/disconnect";
            /// Measures the way to a peer and back.
            ping(Ping) -> Pong, POST "/v1/ping", waits timeout_ms;
            /// Which path messages to a peer take, and why.
            path(AskPath) -> PathReport, GET "/v1/path";
            /// Lists the streams that are open here.
            list_streams(ListStreams) -> [StreamRow], GET "/v1/streams";
            /// Ends a stream in both directions.
            close_stream(CloseStream) -> StreamRow, POST "/v1/streams/close";
            /// The safety number with a peer.
            verify(Verify) -> SafetyNumber, POST "/v1/verify";
        }
    };
}
pub(crate) use verbs;

/// The type of an answer in the list of verbs.
macro_rules! answer {
    ([$each:ident]) => { Vec<$crate::api::$each> };
    ($one:ident) => { $crate::api::$one };
}
pub(crate) use answer;

/// See the module's documentation.
#[derive(Debug)]
pub enum Agent {
    /// This process works with the home itself.
    Own(Node),
    /// The home's background node does.
    Remote(Client),
}

macro_rules! calls {
    ($($(#[doc = $doc:literal])* $name:ident($ask:ident) -> $answer:tt,
        $method:ident $path:literal $(, waits $wait:ident)?;)*) => {
        impl Agent {
            $($(#[doc = $doc])*
            ///
            /// # Errors
            /// [`ApiError`].
            pub async fn $name(&self, ask: api::$ask) -> Result<answer!($answer), ApiError> {
                match self {
                    Self::Own(node) => node.$name(ask).await,
                    Self::Remote(client) => client.$name(&ask).await,
                }
            })*
        }
    };
}
verbs!(calls);

impl Agent {
    /// The home's background node if it runs, else this process: then the home is this process's
    /// alone until [`Self::close`]. With `MESHWIRE_SESSION` in the environment, it is asked as that
    /// session.
    ///
    /// # Errors
    /// [`ApiError`]; `home_busy` if another verb does not finish, `bad_session` where a session is
    /// named and this process would have to do the work.
    pub async fn open(net: Arc<dyn Net>, home: &Home) -> Result<Self, ApiError> {
        Self::open_with(net, home, async || DirectPaths::default()).await
    }

    /// The same; a node of this process makes direct paths as `direct` says, which is asked only then.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        net: Arc<dyn Net>,
        home: &Home,
        direct: impl AsyncFnOnce() -> DirectPaths,
    ) -> Result<Self, ApiError> {
        let until = net.now() + LOCK_PATIENCE;
        loop {
            if let Some(lock) = home.try_lock()? {
                let node = Node::open(net, home, lock, direct().await).await?;
                let Some(token) = Client::session_from_env() else { return Ok(Self::Own(node)) };
                return match node.as_session(&token) {
                    Ok(session) => Ok(Self::Own(session)),
                    Err(e) => {
                        node.close().await;
                        Err(e)
                    }
                };
            }
            let client = Client::new(home.socket());
            match client.status(&Done {}).await {
                Ok(_) => return Ok(Self::Remote(client.with_session(Client::session_from_env()))),
                // Another verb has the home for a moment, or the node is just coming up.
                Err(_) if net.now() < until => tokio::time::sleep(LOCK_POLL).await,
                Err(e) => {
                    let text = format!("another meshwire works with this home: {}", e.message);
                    return Err(ApiError::new(ErrorKind::Io, "home_busy", text));
                }
            }
        }
    }

    /// Opens a stream to a peer, and waits until it is accepted there.
    ///
    /// # Errors
    /// As [`Node::open_stream`], or [`ErrorKind::Io`] where the node's socket fails.
    pub async fn open_stream(&self, ask: api::OpenStream) -> Result<AgentStream, ApiError> {
        match self {
            Self::Own(node) => Ok(AgentStream::own(node, node.open_stream(ask).await?)),
            Self::Remote(client) => client.open_stream(&ask).await,
        }
    }

    /// Waits for a stream that a peer opens. Cancel-safe: who does not wait any more takes nothing.
    ///
    /// # Errors
    /// As [`Node::accept_stream`], or [`ErrorKind::Io`] where the node's socket fails.
    pub async fn accept_stream(&self, ask: api::AcceptStream) -> Result<AgentStream, ApiError> {
        match self {
            Self::Own(node) => Ok(AgentStream::own(node, node.accept_stream(ask).await?)),
            Self::Remote(client) => client.accept_stream(&ask).await,
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
            Self::Remote(client) => client.shutdown().await,
        }
    }

    /// Gives the home back.
    pub async fn close(self) {
        if let Self::Own(node) = self {
            node.close().await;
        }
    }
}
