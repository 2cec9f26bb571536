//! Talks to the background node of a home over its socket.

mod streams;

use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::agent::{answer, verbs};
use crate::api::{self, ApiError, Done, ErrorKind};
use crate::local_api::{SESSION_HEADER, path};

pub use streams::{AgentReader, AgentStream, AgentWriter, StreamFailure, StreamWatch};

/// Largest answer: a thousand messages of 64 KiB, as JSON may double them.
const MAX_ANSWER: usize = 256 << 20;
/// Longest wait for an answer beyond what the request itself asked to wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries at a node that has too much to do.
const BUSY: Duration = Duration::from_millis(100);
/// Holds a session's token, for programs that [`crate::api::StartSession`] was made for.
pub const SESSION_VARIABLE: &str = "MESHWIRE_SESSION";

/// What drives a connection.
type Driver = Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// See the module's documentation.
#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
    session: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("socket", &self.socket).finish_non_exhaustive()
    }
}

macro_rules! calls {
    ($($(#[doc = $doc:literal])* $name:ident($ask:ident) -> $answer:tt,
        $method:ident $path:literal $(, waits $wait:ident)?;)*) => {
        impl Client {
            $($(#[doc = $doc])*
            ///
            /// # Errors
            /// The node's own error, or [`ErrorKind::Io`] where the socket fails.
            pub async fn $name(&self, ask: &api::$ask) -> Result<answer!($answer), ApiError> {
                let wait = 0 $(.max(ask.$wait.unwrap_or(0)))?;
                self.ask(Method::$method, $path, ask, Duration::from_millis(wait)).await
            })*
        }
    };
}
verbs!(calls);

impl Client {
    /// A client of the node behind `socket`; connects with each request.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, session: None }
    }

    /// The same, asking as the session behind this token.
    #[must_use]
    pub fn with_session(self, session: Option<Zeroizing<String>>) -> Self {
        Self { session, ..self }
    }

    /// The token in [`SESSION_VARIABLE`]; an empty one is none.
    #[must_use]
    pub fn session_from_env() -> Option<Zeroizing<String>> {
        std::env::var(SESSION_VARIABLE).ok().filter(|t| !t.is_empty()).map(Zeroizing::new)
    }

    /// Ends the node.
    ///
    /// # Errors
    /// The node's own error, or [`ErrorKind::Io`] where the socket fails.
    pub async fn shutdown(&self) -> Result<(), ApiError> {
        let Done {} = self.ask(Method::POST, path::SHUTDOWN, &Done {}, Duration::ZERO).await?;
        Ok(())
    }

    /// Asks; `wait` is how long the request itself may take.
    async fn ask<B: Serialize + Sync, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        ask: &B,
        wait: Duration,
    ) -> Result<A, ApiError> {
        let (uri, body) = if method == Method::GET {
            let query = serde_urlencoded::to_string(ask).map_err(|e| fault(&e.to_string()))?;
            (format!("{path}?{query}"), Bytes::new())
        } else {
            let body = serde_json::to_vec(ask).map_err(|e| fault(&e.to_string()))?;
            (path.to_owned(), body.into())
        };
        let work = async {
            loop {
                match self.exchange(method.clone(), &uri, body.clone()).await {
                    // Refused before anything was done.
                    Err(e) if e.kind == ErrorKind::Busy => tokio::time::sleep(BUSY).await,
                    answer => return answer,
                }
            }
        };
        match timeout(PATIENCE.saturating_add(wait), work).await {
            Ok(answer) => answer,
            Err(_) => Err(self.failed(&"it does not answer")),
        }
    }

    fn failed(&self, e: &dyn std::fmt::Display) -> ApiError {
        let text = format!("the node behind {} fails: {e}", self.socket.display());
        ApiError::new(ErrorKind::Io, "node_socket", text)
    }

    async fn exchange<A: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        body: Bytes,
    ) -> Result<A, ApiError> {
        let (mut sender, connection) = self.connect().await?;
        let driving = tokio::spawn(connection);
        let request = self.request(method, uri).header("content-type", "application/json");
        let request = request.body(Full::new(body)).map_err(|e| fault(&e.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|e| self.failed(&e))?;
        let answer = self.read(answer).await;
        driving.abort();
        serde_json::from_slice(&answer?).map_err(|e| fault(&format!("the node's answer: {e}")))
    }

    /// A connection to the node, and what drives it.
    async fn connect(&self) -> Result<(SendRequest<Full<Bytes>>, Driver), ApiError> {
        #[allow(clippy::disallowed_methods)] // this machine's own socket is no network
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.failed(&e))?;
        if !same_user(&stream).map_err(|e| self.failed(&e))? {
            return Err(self.failed(&"it is another user's, and is told nothing"));
        }
        let io = TokioIo::new(stream);
        http1::handshake(io).await.map_err(|e| self.failed(&e))
    }

    /// The head of a request, as whoever asks.
    fn request(&self, method: Method, uri: &str) -> Builder {
        let request = Request::builder().method(method).uri(uri).header("host", "localhost");
        match &self.session {
            Some(token) => request.header(SESSION_HEADER, token.as_str()),
            None => request,
        }
    }

    /// The body of an answer; an error where that is what the node says.
    async fn read(&self, answer: Response<Incoming>) -> Result<Bytes, ApiError> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let bytes = body.map_err(|e| self.failed(&e))?.to_bytes();
        if status.is_success() {
            return Ok(bytes);
        }
        Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| older(status)))
    }
}

/// Whether the other end runs as the user that this process runs as. Where the socket has to live in
/// a shared folder, anybody could have been there first.
fn same_user(stream: &UnixStream) -> std::io::Result<bool> {
    let (ours, _) = UnixStream::pair()?;
    Ok(stream.peer_cred()?.uid() == ours.peer_cred()?.uid())
}

fn fault(text: &str) -> ApiError {
    ApiError::new(ErrorKind::Internal, "internal", text)
}

/// An error without our JSON.
fn older(status: StatusCode) -> ApiError {
    fault(&format!("the node answers {status}: is it older than this command? Start it anew"))
}
