//! What every request passes before it reaches its verb: the guard, the limits, its body, its
//! session.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use meshwire_transport::net::Net;
use tokio::sync::watch;
use tokio::time::timeout;

use super::failure::Failure;
use super::guard::{Door, check, only};
use super::limits::{Asker, BODY, Kind, Limits, MAX_BODY, MAX_REFUSED_BODY};
use super::serve::Guest;
use super::{SESSION_HEADER, path};
use crate::api::ErrorKind;
use crate::node::{Node, SessionHandle};

/// One listener's gate, and what its handlers share.
#[derive(Debug)]
pub(super) struct Gate {
    node: Node,
    net: Arc<dyn Net>,
    stop: watch::Sender<bool>,
    door: Door,
    limits: Mutex<Limits<SessionHandle>>,
}

impl Gate {
    pub(super) fn new(
        node: Node,
        net: Arc<dyn Net>,
        stop: watch::Sender<bool>,
        door: Door,
    ) -> Self {
        let limits = Mutex::new(Limits::new(net.now()));
        Self { node, net, stop, door, limits }
    }

    fn limits(&self) -> MutexGuard<'_, Limits<SessionHandle>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everybody on this machine can get here.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.door, Door::Tcp { .. })
    }

    /// Waits until no request is under way, not even one whose client has gone, and no stream to a peer.
    pub(super) async fn idle(&self) {
        let idle = self.limits().idle();
        idle.await;
    }

    /// Tells when the node is to stop.
    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Stops the node.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    async fn admit(&self, request: Request, next: Next) -> Result<Response, Failure> {
        let (mut head, body) = request.into_parts();
        check(&self.door, &head)?;
        if let Some(guest) = head.extensions.get::<Guest>() {
            guest.vouch();
        }
        let node = if head.headers.contains_key(SESSION_HEADER) {
            let header = axum::http::HeaderName::from_static(SESSION_HEADER);
            self.node.as_session(only(&head.headers, header).unwrap_or_default())
        } else {
            Ok(self.node.clone())
        };
        let who = match &node {
            Ok(node) => node.session().map_or(Asker::Owner, |s| Asker::Session(s.key(), s)),
            Err(_) => Asker::Nobody,
        };
        let kind = match head.uri.path() {
            path::EVENTS => Kind::Stream,
            path::OPEN_STREAM | path::ACCEPT_STREAM => Kind::Socket,
            _ => Kind::Request,
        };
        let place = self.limits().admit(&who, kind, self.net.now())?;
        let node = node?;
        let declared = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let body = in_time(read(body, declared)).await?;
        head.extensions.insert(node);
        // What outlasts this call keeps it too: a stream, and work whose client has gone.
        head.extensions.insert(place.clone());
        let answer = next.run(Request::from_parts(head, Body::from(body))).await;
        drop(place);
        Ok(answer)
    }
}

/// Waits until the node is to stop.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|s| *s).await);
}

/// The gate as a middleware.
pub(super) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    match gate.admit(request, next).await {
        Ok(answer) => answer,
        Err(failure) => failure.into_response(),
    }
}

/// Gives up on a body that does not come.
async fn in_time(body: impl Future<Output = Result<Bytes, Failure>>) -> Result<Bytes, Failure> {
    match timeout(BODY, body).await {
        Ok(body) => body,
        Err(_) => {
            let text = format!("the request's body did not come within {} s", BODY.as_secs());
            let failure = Failure::new(ErrorKind::Timeout, "body_timeout", text);
            Err(failure.with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

/// The whole body, within bounds.
async fn read(mut body: Body, declared: Option<usize>) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let mut len = 0_usize;
    // What says beforehand that it is far too large is not read at all.
    while declared.is_none_or(|d| d <= MAX_REFUSED_BODY) && len <= MAX_REFUSED_BODY {
        let Some(frame) = body.frame().await else { break };
        let malformed = |_| Failure::invalid("malformed", "the request's body broke off");
        let Ok(data) = frame.map_err(malformed)?.into_data() else { continue };
        len = len.saturating_add(data.len());
        if len <= MAX_BODY {
            bytes.extend_from_slice(&data);
        }
    }
    if len <= MAX_BODY && declared.is_none_or(|d| d <= MAX_BODY) {
        return Ok(bytes.into());
    }
    let text = format!("a request's body has at most {MAX_BODY} bytes: send a file by pieces");
    let failure = Failure::invalid("too_large", text);
    Err(failure.with_status(StatusCode::PAYLOAD_TOO_LARGE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use futures_util::stream::{StreamExt as _, iter, pending};
    use tokio::time::Instant;

    async fn taken(body: Body, declared: Option<usize>) -> Result<usize, (u16, String)> {
        match in_time(read(body, declared)).await {
            Ok(bytes) => Ok(bytes.len()),
            Err(failure) => {
                let answer = failure.into_response();
                let status = answer.status().as_u16();
                let body = to_bytes(answer.into_body(), 10_000).await.unwrap();
                let error: crate::api::ApiError = serde_json::from_slice(&body).unwrap();
                Err((status, error.code))
            }
        }
    }

    fn chunks(count: usize) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
        iter((0..count).map(|_| Ok(Bytes::from_static(&[b' '; 1024]))))
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_bounded_in_length_and_time() {
        let too_large = || Err((413, "too_large".to_owned()));
        assert_eq!(taken(Body::from_stream(chunks(512)), None).await, Ok(MAX_BODY));
        assert_eq!(taken(Body::from_stream(chunks(513)), None).await, too_large());
        let endless = || Body::from_stream(chunks(100).chain(pending()));
        assert_eq!(taken(endless(), Some(MAX_REFUSED_BODY + 1)).await, too_large(), "unread");
        let start = Instant::now();
        assert_eq!(taken(endless(), None).await, Err((408, "body_timeout".to_owned())));
        assert_eq!(start.elapsed(), BODY);
    }
}
