//! From HTTP to a stream with a peer: the upgrade to a WebSocket (RFC 6455 section 4.2).
//!
//! Whatever can be refused is refused before the upgrade, with the usual JSON: so the answer to an open comes once the
//! other side has accepted, and the answer to an accept once there is a stream.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::failure::Failure;
use super::gate::{Gate, stopped};
use super::guard::only;
use super::limits::Place;
use super::{pump, routes};
use crate::api::{AcceptStream, ApiError, ErrorKind, OpenStream};
use crate::node::{Node, PeerStream};

/// Largest message on a stream's WebSocket, either way.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;
/// What a socket is read into, and what is written before it is flushed.
const BUFFER: usize = 2 * MAX_MESSAGE;

/// Longest wait for a stream that a peer opens, in milliseconds: a client that has gone is not always missed, as where
/// what it sent behind its request is not read before the answer.
pub(crate) const LONGEST_ACCEPT: u64 = 600_000;

/// How both ends of a stream's WebSocket are set.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(4 * BUFFER)
}

/// Opens a stream to a peer.
pub(super) async fn open(
    State(gate): State<Arc<Gate>>,
    Extension(node): Extension<Node>,
    Extension(place): Extension<Place>,
    request: Request,
) -> Result<Response, Failure> {
    let call = async |node: Node, ask: OpenStream| node.open_stream(ask).await;
    upgrade(&gate, node, place, request, call).await
}

/// Waits for a stream that a peer opens.
pub(super) async fn accept(
    State(gate): State<Arc<Gate>>,
    Extension(node): Extension<Node>,
    Extension(place): Extension<Place>,
    request: Request,
) -> Result<Response, Failure> {
    let call = async |node: Node, mut ask: AcceptStream| {
        ask.timeout_ms = Some(ask.timeout_ms.map_or(LONGEST_ACCEPT, |ms| ms.min(LONGEST_ACCEPT)));
        node.accept_stream(ask).await
    };
    upgrade(&gate, node, place, request, call).await
}

/// Gets a stream, and then the socket for it. A client that goes away before that gets neither.
async fn upgrade<Ask: DeserializeOwned>(
    gate: &Gate,
    node: Node,
    place: Place,
    mut request: Request,
    call: impl AsyncFnOnce(Node, Ask) -> Result<PeerStream, ApiError>,
) -> Result<Response, Failure> {
    let accept = check(request.headers())?;
    let uri: Uri = request.uri().clone();
    let ask = routes::query(&uri)?;
    let on = request.extensions_mut().remove::<OnUpgrade>();
    let on = on.ok_or_else(|| bad("this connection cannot be upgraded"))?;
    let mut stopping = gate.stopping();
    let stream = tokio::select! {
        biased;
        () = stopped(&mut stopping) => {
            return Err(Failure::new(ErrorKind::Unreachable, "closed", "the node closes"));
        }
        stream = call(node.clone(), ask) => stream?,
    };
    tokio::spawn(async move {
        // The stream is reset when it is dropped.
        if let Ok(upgraded) = on.await {
            let io = TokioIo::new(upgraded);
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await;
            Box::pin(pump::run(node, stream, socket, stopping)).await;
        }
        drop(place);
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

fn bad(text: &str) -> Failure {
    let failure = Failure::invalid("no_websocket", text);
    failure.with_status(StatusCode::UPGRADE_REQUIRED)
}

/// The answer to the client's key.
fn check(headers: &HeaderMap) -> Result<HeaderValue, Failure> {
    let has = |name: HeaderName, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        values.flat_map(|v| v.split(',')).any(|w| w.trim().eq_ignore_ascii_case(word))
    };
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        return Err(bad("a stream is a WebSocket: use a WebSocket client"));
    }
    if !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(bad("WebSocket version 13 is needed"));
    }
    let key =
        only(headers, header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("no Sec-WebSocket-Key"))?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|_| bad("unusable Sec-WebSocket-Key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_websocket_s_upgrade_is_one() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let map = |without: &str| {
            let shown = good.iter().filter(|(name, _)| *name != without);
            shown.fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
                map
            })
        };
        // The example of RFC 6455 section 1.3.
        let accept = check(&map("")).ok().unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (without, _) in good {
            let failure = check(&map(without)).err().unwrap();
            assert_eq!(failure.into_response().status(), StatusCode::UPGRADE_REQUIRED, "{without}");
        }
        let mut twice = map("");
        twice.append(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("x"));
        assert!(check(&twice).is_err());
    }
}
