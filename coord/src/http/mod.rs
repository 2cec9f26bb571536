//! The broker over HTTP: the WebSocket's door, joining, health and metrics.
//!
//! Nothing secret comes in by URL: an invite's secret is in the fragment, which clients keep, and
//! the admin token is a header. The invite page has no script.

pub(crate) mod invites;
mod meshes;
mod page;
mod upgrade;

pub(crate) use upgrade::{Binding, Near, Place};

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use meshwire_signaling::codec::{self, Encoding};
use meshwire_signaling::frame::http::{BrokerInfo, HttpError};
use meshwire_signaling::frame::{ErrorFrame, code};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::health::{self, State as Database};
use crate::serve::{AGENT, Inner};

/// Largest request body: a claim or a genesis is under 4 KiB.
const MAX_BODY: usize = 64 * 1024;
/// Longest time for a whole request; the WebSocket's own life starts after it.
const REQUEST: tokio::time::Duration = tokio::time::Duration::from_secs(15);

pub(crate) type Shared = State<Arc<Inner>>;

/// All routes.
pub(crate) fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/v2/ws", get(upgrade::upgrade))
        .route("/v2/broker", get(info))
        .route("/v2/meshes", post(meshes::create))
        .route("/v2/invites/{invite}", get(invites::preview))
        .route("/v2/invites/{invite}/claim", post(invites::claim))
        .route("/i/{invite}", get(page::invite))
        .route("/health", get(alive))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(method)
        .fallback(missing)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn(in_time))
        .with_state(inner)
}

/// Ends requests whose body does not come.
async fn in_time(request: Request, next: axum::middleware::Next) -> Response {
    match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

/// An error answer: the status follows from the code.
pub(crate) struct Failure(pub(crate) ErrorFrame);

impl Failure {
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self(ErrorFrame::permanent(code, message))
    }
}

impl From<ErrorFrame> for Failure {
    fn from(e: ErrorFrame) -> Self {
        Self(e)
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(e: crate::store::StoreError) -> Self {
        tracing::error!(error = %e, "the database fails");
        Self::new(code::UNAVAILABLE, "the broker's database fails: try again")
    }
}

/// A JSON body, decoded as strictly as a frame.
pub(crate) struct Strict<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Strict<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if !kind.is_some_and(|k| k.starts_with("application/json")) {
            let text = "the body is to be JSON: send Content-Type: application/json";
            return Err(Failure::new(code::MALFORMED, text));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|e| {
            let code = match e.status() {
                StatusCode::PAYLOAD_TOO_LARGE => code::TOO_LARGE,
                _ => code::MALFORMED,
            };
            Failure::new(code, e.body_text())
        })?;
        let decoded = codec::decode(Encoding::Json, &bytes);
        decoded.map(Self).map_err(|e| Failure::new(code::MALFORMED, e.to_string()))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.code.as_str() {
            code::BAD_TOKEN => StatusCode::UNAUTHORIZED,
            code::FORBIDDEN => StatusCode::FORBIDDEN,
            code::INVITE_NOT_FOUND | code::UNKNOWN_MESH => StatusCode::NOT_FOUND,
            code::NAME_TAKEN | code::EXISTS => StatusCode::CONFLICT,
            code::INVITE_REVOKED | code::INVITE_EXPIRED | code::INVITE_EXHAUSTED => {
                StatusCode::GONE
            }
            code::TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
            code::RATE_LIMITED => StatusCode::TOO_MANY_REQUESTS,
            code::UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        (status, Json(HttpError { code: self.0.code, message: self.0.message })).into_response()
    }
}

async fn info(State(inner): Shared) -> Json<BrokerInfo> {
    Json(BrokerInfo {
        broker: inner.key.public(),
        agent: AGENT.to_owned(),
        at: inner.net.unix_ms(),
        stun: Some(inner.turn.as_ref().map(|desk| desk.stun()).unwrap_or_default()),
    })
}

/// Alive, whatever the database does (inventory B-167).
async fn alive(State(inner): Shared) -> Json<serde_json::Value> {
    let db = if health::database(&inner).await == Database::Ok { "ok" } else { "failing" };
    Json(json!({
        "status": "ok",
        "db": db,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": inner.tick(),
        "connections": inner.registry.len(),
    }))
}

/// Fit to serve: the database answers and has this version's migrations.
async fn ready(State(inner): Shared) -> Response {
    if *inner.stopping.borrow() {
        let body = json!({"status": "not_ready", "reason": "shutting_down"});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    let reason = match health::database(&inner).await {
        Database::Ok => return Json(json!({"status": "ready"})).into_response(),
        Database::Behind => "migration_missing",
        Database::Down => "db_down",
    };
    let body = json!({"status": "not_ready", "reason": reason});
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

async fn metrics(State(inner): Shared) -> Response {
    health::measure(&inner).await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let more = inner.turn.as_ref().map(|desk| desk.metrics()).unwrap_or_default();
    ([(header::CONTENT_TYPE, kind)], inner.metrics.render(&more)).into_response()
}

async fn method() -> Response {
    let error = HttpError {
        code: "bad_method".to_owned(),
        message: "this address has another method, GET or POST".to_owned(),
    };
    (StatusCode::METHOD_NOT_ALLOWED, Json(error)).into_response()
}

async fn missing() -> Response {
    let error = HttpError {
        code: "not_found".to_owned(),
        message: "this is a meshwire broker; there is nothing at this address".to_owned(),
    };
    (StatusCode::NOT_FOUND, Json(error)).into_response()
}
