//! A node's local API: HTTP with JSON over a Unix socket that only the home's owner can open.
//!
//! `POST /v1/VERB` with a type of [`crate::api`] as body; errors are [`ApiError`] with a status
//! that follows from its kind.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::{ApiError, Done, ErrorKind};
use crate::home::{Home, io_error};
use crate::node::Node;

/// Largest request: a message of 64 KiB, as JSON may sixfold it.
const MAX_BODY: usize = 512 * 1024;

/// The serving end of a home's socket.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    node: Node,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Listens on the home's socket. The home's lock is held by the node, so whatever is at that
    /// path is a dead one's.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn bind(node: Node, home: &Home) -> Result<Self, ApiError> {
        let path = home.socket();
        let failed = |e| io_error(&path, &e);
        if let Err(e) = std::fs::remove_file(&path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(failed(e));
        }
        #[allow(clippy::disallowed_methods)] // this machine's own socket is no network
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let (stop, _) = watch::channel(false);
        let router = router(Shared { node, stop: stop.clone() });
        let mut stopping = stop.subscribe();
        let graceful = async move { drop(stopping.wait_for(|s| *s).await) };
        let serving = tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(graceful).await;
            if let Err(e) = served {
                tracing::error!(error = %e, "the local API ended");
            }
        });
        Ok(Self { path, stop, serving })
    }

    /// Waits until somebody asks the node to stop.
    pub async fn stopped(&self) {
        let _ = self.stop.subscribe().wait_for(|s| *s).await;
    }

    /// Stops serving; requests under way are answered first, for a moment.
    pub async fn close(mut self) {
        self.stop.send_replace(true);
        let patience = tokio::time::Duration::from_secs(1);
        if tokio::time::timeout(patience, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Failure(ApiError);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Ambiguous | ErrorKind::Exists => StatusCode::CONFLICT,
            ErrorKind::Unreachable => StatusCode::BAD_GATEWAY,
            ErrorKind::Denied => StatusCode::FORBIDDEN,
            ErrorKind::Auth => StatusCode::UNAUTHORIZED,
            ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            ErrorKind::Io | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}

/// A verb of the node as a handler.
fn verb<B, A, F, Fut>(call: F) -> axum::routing::MethodRouter<Arc<Shared>>
where
    B: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    F: Fn(Node, B) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<A, ApiError>> + Send + 'static,
{
    post(|State(shared): State<Arc<Shared>>, body: Result<Json<B>, JsonRejection>| async move {
        let Json(body) = body
            .map_err(|e| Failure(ApiError::new(ErrorKind::Invalid, "malformed", e.body_text())))?;
        call(shared.node.clone(), body).await.map(Json).map_err(Failure)
    })
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/meshes", verb(|n: Node, b| async move { n.create_mesh(b).await }))
        .route("/v1/join", verb(|n: Node, b| async move { n.join(b).await }))
        .route("/v1/invite", verb(|n: Node, b| async move { n.invite(b).await }))
        .route("/v1/invites", verb(|n: Node, b| async move { n.invites(b).await }))
        .route("/v1/peers", verb(|n: Node, b| async move { n.peers(b).await }))
        .route("/v1/send", verb(|n: Node, b| async move { n.send(b).await }))
        .route("/v1/message", verb(|n: Node, b| async move { n.message(b).await }))
        .route("/v1/outbox", verb(|n: Node, b| async move { n.outbox(b).await }))
        .route("/v1/outbox/requeue", verb(|n: Node, b| async move { n.requeue(b).await }))
        .route("/v1/inbox", verb(|n: Node, b| async move { n.inbox(b).await }))
        .route("/v1/verify", verb(|n: Node, b| async move { n.verify(b).await }))
        .route("/v1/status", verb(|n: Node, b| async move { n.status(b).await }))
        .route("/v1/shutdown", post(shutdown))
        .fallback(missing)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(shared))
}

async fn shutdown(State(shared): State<Arc<Shared>>) -> Json<Done> {
    shared.stop.send_replace(true);
    Json(Done {})
}

async fn missing() -> Failure {
    let text = "this node's version has no such verb: is the running node older than this command?";
    Failure(ApiError::new(ErrorKind::NotFound, "unknown_verb", text))
}
