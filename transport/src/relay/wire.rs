//! Frames as WebSocket messages, and the upgrade that starts them.

use futures_util::{Stream, StreamExt as _};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Frame, FrameError};
use meshwire_signaling::limits::MAX_FRAME;
use meshwire_signaling::stream::carry::is_carry;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::net::BoxStream;
use crate::url::BaseUrl;

/// The broker's WebSocket endpoint.
const PATH: &str = "/v2/ws";
/// tungstenite's default of 128 KiB per connection is for few busy connections.
const READ_BUFFER: usize = 16 * 1024;
/// From this many bytes on, queued frames are written before the flush.
const WRITE_BUFFER: usize = 64 * 1024;

/// A WebSocket to the broker.
pub(super) type Ws = WebSocketStream<BoxStream>;

/// What came in.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A frame.
    Frame(Box<Frame>),
    /// A message that is no frame, but for a stream.
    Carry(Bytes),
    /// A frame of a type from the future.
    Unknown(String),
    /// A ping or pong: the other side lives.
    Alive,
    /// The other side closed, with its code and reason.
    Closed(Option<(u16, String)>),
    /// The connection broke, or what came in is no frame.
    Broken(String),
}

/// Upgrades a connection. The subprotocol must come back: another encoding could not be read.
pub(super) async fn upgrade(
    stream: BoxStream,
    base: &BaseUrl,
    encoding: Encoding,
) -> Result<Ws, String> {
    let scheme = if base.tls { "wss" } else { "ws" };
    let authority = base.authority();
    let request = Request::get(format!("{scheme}://{authority}{}", base.target(PATH)))
        .header("Host", &authority)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", generate_key())
        .header("Sec-WebSocket-Protocol", encoding.subprotocol())
        .body(())
        .map_err(|e| e.to_string())?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + 4 * MAX_FRAME)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME));
    match client_async_with_config(request, stream, Some(config)).await {
        // tungstenite has checked that the subprotocol is one of those asked for: the one.
        Ok((ws, _)) => Ok(ws),
        Err(WsError::Http(response)) => {
            Err(format!("it answered HTTP {} instead of opening a WebSocket", response.status()))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// A frame as this connection's encoding writes it.
pub(super) fn encode(encoding: Encoding, frame: &Frame) -> Message {
    let bytes = frame.encode(encoding);
    match encoding {
        Encoding::MsgPack => Message::binary(bytes),
        Encoding::Json => match String::from_utf8(bytes) {
            Ok(text) => Message::text(text),
            // serde_json writes UTF-8 only.
            Err(e) => Message::binary(e.into_bytes()),
        },
    }
}

/// The next thing that comes in.
pub(super) async fn next<S>(stream: &mut S, encoding: Encoding) -> Incoming
where
    S: Stream<Item = Result<Message, WsError>> + Unpin,
{
    let bytes = match (stream.next().await, encoding) {
        (Some(Ok(Message::Binary(bytes))), _) if is_carry(&bytes) => return Incoming::Carry(bytes),
        (Some(Ok(Message::Binary(bytes))), Encoding::MsgPack) => bytes,
        (Some(Ok(Message::Text(text))), Encoding::Json) => text.into(),
        (Some(Ok(Message::Binary(_) | Message::Text(_))), _) => {
            return Incoming::Broken("the broker changed the encoding".into());
        }
        (Some(Ok(Message::Close(frame))), _) => {
            return Incoming::Closed(frame.map(|f| (f.code.into(), f.reason.as_str().to_owned())));
        }
        (Some(Ok(_)), _) => return Incoming::Alive,
        (Some(Err(e)), _) => return Incoming::Broken(e.to_string()),
        (None, _) => return Incoming::Closed(None),
    };
    match Frame::decode(encoding, &bytes) {
        Ok(frame) => Incoming::Frame(Box::new(frame)),
        Err(FrameError::UnknownType { kind, .. }) => Incoming::Unknown(kind),
        Err(e) => Incoming::Broken(e.to_string()),
    }
}
