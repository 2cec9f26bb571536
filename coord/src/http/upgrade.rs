//! From HTTP to WebSocket (RFC 6455 section 4.2).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use meshwire_signaling::Hash;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::code;
use meshwire_signaling::limits::MAX_FRAME;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{Failure, Shared};
use crate::serve::Inner;
use crate::ws::{self, Opened};

/// Read buffer per connection: small, because most connections idle.
const READ_BUFFER: usize = 8 * 1024;
/// Bytes written before tungstenite flushes by itself.
const WRITE_BUFFER: usize = 64 * 1024;

/// The TLS exporter of the connection that a request came on.
#[derive(Clone, Copy)]
pub(crate) struct Binding(pub(crate) Option<Hash>);

/// Whether a connection came over loopback.
#[derive(Clone, Copy)]
pub(crate) struct Near(pub(crate) bool);

/// Headers of requests that come from elsewhere and were passed on.
const PASSED_ON: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];

/// A connection's place among those that the broker allows; given back with the last clone.
#[derive(Clone)]
pub(crate) struct Place(
    #[allow(dead_code)] // held for its drop alone
    pub(crate)  Arc<OwnedSemaphorePermit>,
);

pub(super) async fn upgrade(State(inner): Shared, mut request: Request) -> Response {
    let (accept, encoding) = match check(request.headers()) {
        Ok(checked) => checked,
        Err(failure) => return failure.into_response(),
    };
    let Some(upgrading) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Failure::new(code::MALFORMED, "this connection cannot be upgraded").into_response();
    };
    let binding = request.extensions().get::<Binding>().and_then(|b| b.0);
    let place = request.extensions().get::<Place>().cloned();
    let near = request.extensions().get::<Near>().is_some_and(|near| near.0)
        && !inner.behind_proxy
        && !is_passed_on(request.headers());
    tokio::spawn(async move {
        serve(inner, upgrading, Opened { encoding, binding, near }).await;
        drop(place);
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(encoding.subprotocol())),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Whether something in front of the broker says that it passes a request on.
fn is_passed_on(headers: &HeaderMap) -> bool {
    PASSED_ON.iter().any(|name| headers.contains_key(*name))
}

fn check(headers: &HeaderMap) -> Result<(HeaderValue, Encoding), Failure> {
    let bad = |text: &str| Failure::new(code::MALFORMED, text);
    let has = |name, word: &str| {
        let value = headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        value.is_some_and(|v| v.split(',').any(|w| w.trim().eq_ignore_ascii_case(word)))
    };
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Err(bad("/v2/ws speaks WebSocket: send Connection: Upgrade"));
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(bad("WebSocket version 13 is needed"));
    }
    let encoding = [Encoding::MsgPack, Encoding::Json]
        .into_iter()
        .find(|e| has(header::SEC_WEBSOCKET_PROTOCOL, e.subprotocol()))
        .ok_or_else(|| bad("ask for subprotocol meshwire.v2.msgpack or meshwire.v2.json"))?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("no Sec-WebSocket-Key"))?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|_| bad("unusable Sec-WebSocket-Key"))?;
    Ok((accept, encoding))
}

async fn serve(inner: Arc<Inner>, on: OnUpgrade, opened: Opened) {
    let Ok(upgraded) = on.await else { return };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + 2 * MAX_FRAME);
    let io = TokioIo::new(upgraded);
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    ws::run(inner, socket, opened).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_passes_on_is_not_from_here() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1"));
        assert!(!is_passed_on(&headers));
        for name in ["Forwarded", "X-Forwarded-For", "X-Real-IP"] {
            let name: header::HeaderName = name.parse().unwrap();
            let there = HeaderMap::from_iter([(name, HeaderValue::from_static("203.0.113.7"))]);
            assert!(is_passed_on(&there));
        }
    }
}
