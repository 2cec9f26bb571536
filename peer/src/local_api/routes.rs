//! From a path to a verb.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router, middleware};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failure::Failure;
use super::gate::{self, Gate};
use super::limits::Place;
use super::{API, OPEN_METRICS, events, openapi, path, send, socket};
use crate::agent::verbs;
use crate::api::{self, ApiError, Done, ErrorKind, Health, SCHEMA_VERSION, Status, Version};
use crate::node::Node;

/// A verb of the node as a handler. Sending has headers and statuses of its own.
macro_rules! handler {
    (send, POST, $ask:ident) => {
        post(send::send)
    };
    ($name:ident, GET, $ask:ident) => {
        read(|node: Node, ask: api::$ask| async move { node.$name(ask).await })
    };
    ($name:ident, POST, $ask:ident) => {
        write(|node: Node, ask: api::$ask| async move { node.$name(ask).await })
    };
}

macro_rules! routes {
    ($($(#[doc = $doc:literal])* $name:ident($ask:ident) -> $answer:tt,
        $method:ident $path:literal $(, waits $wait:ident)?;)*) => {
        fn verbs() -> Router<Arc<Gate>> {
            Router::new()$(.route($path, handler!($name, $method, $ask)))*
        }
    };
}
verbs!(routes);

/// All routes behind their gate.
pub(super) fn router(gate: &Arc<Gate>) -> Router {
    verbs()
        .route(path::VERSION, get(version))
        .route(path::HEALTH, get(health))
        .route(path::OPENAPI, get(document))
        .route(path::EVENTS, get(events::events))
        .route(path::OPEN_STREAM, get(socket::open))
        .route(path::ACCEPT_STREAM, get(socket::accept))
        .route(path::METRICS, get(metrics))
        .route(path::SHUTDOWN, post(shutdown))
        .method_not_allowed_fallback(method)
        .fallback(missing)
        .layer(middleware::from_fn_with_state(gate.clone(), gate::pass))
        .with_state(gate.clone())
}

/// A verb that only reads.
fn read<B, A, F, Fut>(call: F) -> MethodRouter<Arc<Gate>>
where
    B: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    F: Fn(Node, B) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<A, ApiError>> + Send + 'static,
{
    get(|Extension(node): Extension<Node>, uri: Uri| async move {
        let ask = query(&uri)?;
        call(node, ask).await.map(Json).map_err(Failure::from)
    })
}

/// A verb that changes something.
fn write<B, A, F, Fut>(call: F) -> MethodRouter<Arc<Gate>>
where
    B: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    F: Fn(Node, B) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<A, ApiError>> + Send + 'static,
{
    post(
        |Extension(node): Extension<Node>,
         Extension(place): Extension<Place>,
         headers: HeaderMap,
         body: Bytes| async move {
            let ask = parse(&headers, &body)?;
            to_the_end(place, call(node, ask)).await.map(Json)
        },
    )
}

/// Does what changes something. A client that goes away does not break it off half-way; it has its
/// place until it is done.
pub(super) async fn to_the_end<A: Send + 'static>(
    place: Place,
    call: impl Future<Output = Result<A, ApiError>> + Send + 'static,
) -> Result<A, Failure> {
    let work = tokio::spawn(async move {
        let _place = place;
        call.await
    });
    work.await
        .unwrap_or_else(|e| {
            tracing::error!(error = %e, "a request failed");
            Err(ApiError::new(
                ErrorKind::Internal,
                "internal",
                "the request failed: see the node's log",
            ))
        })
        .map_err(Failure::from)
}

/// A query's fields.
pub(super) fn query<B: DeserializeOwned>(uri: &Uri) -> Result<B, Failure> {
    serde_urlencoded::from_str(uri.query().unwrap_or_default())
        .map_err(|e| Failure::invalid("malformed", format!("the query: {e}")))
}

/// A JSON body.
pub(super) fn parse<B: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<B, Failure> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let media = kind.and_then(|k| k.split(';').next()).map(str::trim);
    if !media.is_some_and(|m| m.eq_ignore_ascii_case("application/json")) {
        let text = "the body is to be JSON: send Content-Type: application/json";
        let failure = Failure::invalid("not_json", text);
        return Err(failure.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    // A list would be read as the fields in their order, which is nobody's intention.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Failure::invalid("malformed", "the body is to be a JSON object"));
    }
    serde_json::from_slice(body)
        .map_err(|e| Failure::invalid("malformed", format!("the body: {e}")))
}

async fn version() -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: API,
        schema_version: SCHEMA_VERSION,
        pid: std::process::id(),
    })
}

async fn health(Extension(node): Extension<Node>) -> (StatusCode, Json<Health>) {
    let pid = std::process::id();
    match node.status(Done {}).await {
        Ok(Status { meshes, .. }) => {
            let brokers = meshes.into_iter().map(|m| (m.mesh.name, m.link)).collect();
            (StatusCode::OK, Json(Health { ok: true, pid, brokers }))
        }
        Err(e) => {
            tracing::error!(error = %e, "the node is not well");
            let health = Health { ok: false, pid, brokers: BTreeMap::new() };
            (StatusCode::SERVICE_UNAVAILABLE, Json(health))
        }
    }
}

async fn document() -> Response {
    use axum::response::IntoResponse as _;
    ([(header::CONTENT_TYPE, "application/json")], openapi::document()).into_response()
}

async fn metrics(Extension(node): Extension<Node>) -> Response {
    use axum::response::IntoResponse as _;
    ([(header::CONTENT_TYPE, OPEN_METRICS)], node.metrics()).into_response()
}

async fn shutdown(
    Extension(node): Extension<Node>,
    State(gate): State<Arc<Gate>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Done>, Failure> {
    let Done {} = parse(&headers, &body)?;
    node.owner_only("end the node")?;
    gate.stop();
    Ok(Json(Done {}))
}

async fn missing() -> Failure {
    let text = "this node's version has no such verb: is the running node older than this command?";
    Failure::new(ErrorKind::NotFound, "unknown_verb", text)
}

async fn method() -> Failure {
    let text = "this verb has another method: what only reads is GET, the rest POST";
    let failure = Failure::invalid("bad_method", text);
    failure.with_status(StatusCode::METHOD_NOT_ALLOWED)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use futures_util::FutureExt as _;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use tokio::sync::Notify;

    use super::super::guard::Door;
    use super::*;
    use crate::node::testing::World;

    #[tokio::test]
    async fn who_goes_away_breaks_nothing_off() {
        let world = World::new().await;
        let node = world.node().await;
        let (stop, _) = tokio::sync::watch::channel(false);
        let gate = Arc::new(Gate::new(node.clone(), world.net(), stop, Door::Unix));
        let (begun, go, done) =
            (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let work = {
            let (begun, go, done) = (begun.clone(), go.clone(), done.clone());
            move |_: Node, ask: Done| {
                let (begun, go, done) = (begun.clone(), go.clone(), done.clone());
                async move {
                    begun.notify_one();
                    go.notified().await;
                    done.notify_one();
                    Ok(ask)
                }
            }
        };
        let router = Router::new()
            .route("/v1/work", write(work))
            .layer(middleware::from_fn_with_state(gate.clone(), gate::pass))
            .with_state(gate.clone());
        let request = Request::post("/v1/work")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Body::from("{}"))
            .unwrap();
        let service = TowerToHyperService::new(router);
        tokio::select! {
            _ = service.call(request) => panic!("it waits"),
            () = begun.notified() => {}
        }
        // The client has gone. The node does not end before the work has.
        let mut idle = std::pin::pin!(gate.idle());
        assert!(idle.as_mut().now_or_never().is_none());
        go.notify_one();
        done.notified().await;
        idle.await;
        node.close().await;
    }
}
