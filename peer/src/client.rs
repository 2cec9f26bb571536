//! Talks to the background node of a home over its socket.

use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::{ApiError, ErrorKind};

/// Largest answer: a thousand messages of 64 KiB, as JSON may double them.
const MAX_ANSWER: usize = 256 << 20;
/// Longest wait for an answer beyond what the request itself asked to wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the node behind `socket`; connects with each request.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks with a JSON body; `wait` is how long the request itself may take.
    ///
    /// # Errors
    /// The node's own error, or [`ErrorKind::Io`] where the socket fails.
    pub async fn post<B: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        wait: Duration,
    ) -> Result<A, ApiError> {
        let bytes = serde_json::to_vec(body).map_err(|e| fault(&e.to_string()))?;
        let work = self.exchange(Method::POST, path, bytes);
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
        path: &str,
        body: Vec<u8>,
    ) -> Result<A, ApiError> {
        #[allow(clippy::disallowed_methods)] // this machine's own socket is no network
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.failed(&e))?;
        if !same_user(&stream).map_err(|e| self.failed(&e))? {
            return Err(self.failed(&"it is another user's, and is told nothing"));
        }
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|e| self.failed(&e))?;
        let driving = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| fault(&e.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|e| self.failed(&e))?;
        let ok = answer.status().is_success();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let bytes = body.map_err(|e| self.failed(&e))?.to_bytes();
        driving.abort();
        let text = |e: serde_json::Error| fault(&format!("the node's answer: {e}"));
        if ok {
            serde_json::from_slice(&bytes).map_err(text)
        } else {
            Err(serde_json::from_slice(&bytes).map_err(text)?)
        }
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
