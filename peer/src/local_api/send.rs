//! Sending: a request that may be repeated (inventory ).
//!
//! | what the key was used for | same request | another request |
//! |---|---|---|
//! | nothing | 202, in the outbox | |
//! | pending | 202 | 409 `outbox_pending_fingerprint_mismatch` |
//! | inflight | 202 | 409 `outbox_inflight_fingerprint_mismatch` |
//! | done: relayed, sent, delivered | 200 with `duplicate` | 409 `outbox_done_fingerprint_mismatch` |
//! | dead: expired, failed | 409 `outbox_dead_fingerprint_match` | 409 `outbox_dead_fingerprint_mismatch` |
//! | aborted: requeued | 409 `outbox_aborted_fingerprint_match` | 409 `outbox_aborted_fingerprint_mismatch` |

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::{Extension, Json};
use meshwire_signaling::frame::MessageState;

use super::failure::Failure;
use super::guard::only;
use super::limits::Place;
use super::routes::{parse, to_the_end};
use crate::api::{Message, Send, WaitFor};
use crate::node::Node;

/// Makes a repeated request harmless; the body's `idempotency_key` is the other way to say it.
pub(super) const IDEMPOTENCY_HEADER: &str = "idempotency-key";

pub(super) async fn send(
    Extension(node): Extension<Node>,
    Extension(place): Extension<Place>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Message>), Failure> {
    let mut ask: Send = parse(&headers, &body)?;
    take_key(&headers, &mut ask)?;
    let wait = ask.wait;
    let message = to_the_end(place, async move { node.send(ask).await }).await?;
    Ok((status(&message, wait), Json(message)))
}

/// The header's key goes before the body's; two different ones are a mistake.
fn take_key(headers: &HeaderMap, ask: &mut Send) -> Result<(), Failure> {
    if !headers.contains_key(IDEMPOTENCY_HEADER) {
        return Ok(());
    }
    let bad = |text: &str| Failure::invalid("bad_idempotency_key", text);
    let shown = only(headers, HeaderName::from_static(IDEMPOTENCY_HEADER));
    let key =
        shown.ok_or_else(|| bad("the header Idempotency-Key is to be there once, in ASCII"))?;
    if ask.idempotency_key.as_deref().is_some_and(|in_body| in_body != key) {
        return Err(bad("header and body name different idempotency keys: name one"));
    }
    ask.idempotency_key = Some(key.to_owned());
    Ok(())
}

/// 202 while it is on its way, 200 for what was waited for, or was done by an earlier request.
fn status(message: &Message, wait: Option<WaitFor>) -> StatusCode {
    use MessageState::{Delivered, Relayed, Sent};
    let done = match wait {
        Some(WaitFor::Delivered) => message.state == Delivered,
        Some(WaitFor::Accepted) => matches!(message.state, Relayed | Sent | Delivered),
        None => false,
    };
    let repeated = message.duplicate && matches!(message.state, Relayed | Sent | Delivered);
    if done || repeated { StatusCode::OK } else { StatusCode::ACCEPTED }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use axum::response::IntoResponse as _;

    fn taken(headers: &[&str], body: Option<&str>) -> Result<Option<String>, u16> {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(IDEMPOTENCY_HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let json = serde_json::json!({"to": "bob", "message": "hi", "idempotency_key": body});
        let mut ask: Send = serde_json::from_value(json).unwrap();
        let done = take_key(&map, &mut ask).map_err(|f| f.into_response().status().as_u16());
        done.map(|()| ask.idempotency_key)
    }

    #[test]
    fn the_header_names_the_key_then_the_body_then_nobody() {
        let some = |k: &str| Ok(Some(k.to_owned()));
        assert_eq!(taken(&["h"], None), some("h"));
        assert_eq!(taken(&[], Some("b")), some("b"));
        assert_eq!(taken(&["k"], Some("k")), some("k"));
        assert_eq!(taken(&[], None), Ok(None));
        assert_eq!(taken(&["h"], Some("b")), Err(400), "two different ones");
        assert_eq!(taken(&["h", "h"], None), Err(400), "twice");
        assert_eq!(taken(&["ü"], None), Err(400), "not ASCII");
    }
}
