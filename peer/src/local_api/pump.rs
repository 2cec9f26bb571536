//! Bytes between a stream and the WebSocket of whoever has it.
//!
//! ```text
//! stream ──► speak ──► socket      bytes, and what the node has to say: StreamEvent
//!              ▲ Tell
//! stream ◄── hear  ◄── socket      bytes, and what the client wants: StreamOrder
//! ```
//!
//! Each direction takes from one end only what the other has room for. It is over when both directions are, or
//! the stream has failed, or the client has gone: one that goes before everything has arrived resets the stream.

use axum::body::Bytes;
use bytes::Buf as _;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use meshwire_signaling::stream::code;
use meshwire_transport::stream::{ReadHalf, StreamError, WriteHalf};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::gate::stopped;
use super::socket::MAX_MESSAGE;
use crate::api::{
    ResetBy, StreamCancel, StreamEvent, StreamOrder, StreamProgress, StreamReset, StreamStop,
    StreamStopped,
};
use crate::node::{Node, PeerStream, StreamHandle};

/// At most so often the client hears how far the stream is.
const PROGRESS: Duration = Duration::from_millis(250);
/// After so long without news the client hears even so: one that has died shows by a write that fails, also while what
/// it wrote waits and is not read on. A ping would be answered, and the answer fail where this side has closed already:
/// then many a client's library reads no further, and misses the last words.
const ALIVE: Duration = Duration::from_secs(1);
/// How long the client has to take the last words.
const FAREWELL: Duration = Duration::from_millis(500);
/// Pieces that are written before the socket is flushed, if there are so many.
const BURST: usize = 32;
/// What the other side hears when the program behind a stream goes before its end.
const GONE: &str = "the program behind it has gone before its end";
/// What the other side hears when that program breaks the rules.
const MISUSED: &str = "the program behind it has failed";

/// What one direction has for the other.
enum Tell {
    /// The other side has everything.
    Finished,
    /// The other side reads no more.
    Stopped(u32),
    /// The client reads no more.
    Stop(u32),
    /// The stream has failed.
    Failed(StreamError),
}

/// How it ended.
enum Outcome {
    /// Both directions have ended, or the stream has failed and the client knows it.
    Over,
    /// The client has gone.
    Gone,
    /// The client has ended the stream.
    Reset(StreamCancel),
    /// The client did what it must not.
    Misuse { close: CloseCode, rule: &'static str },
    /// The node is to stop.
    Stopping,
}

/// Moves bytes until it is over; then the stream is.
pub(super) async fn run<S>(
    node: Node,
    stream: PeerStream,
    socket: WebSocketStream<S>,
    mut stopping: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handle = stream.handle();
    let (read, write) = stream.split();
    let (mut sink, mut source) = socket.split();
    let (tell, told) = mpsc::channel(4);
    let outcome = {
        let speaker = Speaker { node: &node, handle: &handle, sink: &mut sink };
        // A half that is dropped before its end would say less than the outcome does.
        let mut write = write;
        let outcome = tokio::select! {
            biased;
            () = stopped(&mut stopping) => Outcome::Stopping,
            outcome = speaker.run(read, told) => outcome,
            outcome = hear(&mut source, &mut write, tell) => outcome,
        };
        match &outcome {
            Outcome::Over => {}
            Outcome::Gone => handle.reset(code::NONE, GONE),
            Outcome::Reset(cancel) => handle.reset(cancel.code, &cancel.reason),
            Outcome::Misuse { .. } => handle.reset(code::NONE, MISUSED),
            Outcome::Stopping => handle.reset(code::NONE, "the node has closed"),
        }
        outcome
    };
    let farewell = async {
        let close = match outcome {
            Outcome::Gone => return,
            Outcome::Over | Outcome::Reset(_) => (CloseCode::Normal, ""),
            Outcome::Misuse { close, rule } => (close, rule),
            Outcome::Stopping => {
                let reason = "the node stops".to_owned();
                let reset = StreamReset { by: ResetBy::Here, code: code::NONE, reason };
                if say(&mut sink, &StreamEvent::Reset(reset)).await.is_err() {
                    return;
                }
                (CloseCode::Away, "the node stops")
            }
        };
        let frame = CloseFrame { code: close.0, reason: close.1.into() };
        if sink.send(Message::Close(Some(frame))).await.is_ok() {
            // What is still on its way must not make the connection break off.
            while let Some(Ok(_)) = source.next().await {}
        }
    };
    let _ = timeout(FAREWELL, farewell).await;
}

type Sink<S> = SplitSink<WebSocketStream<S>, Message>;

async fn say<S, T>(sink: &mut Sink<S>, event: &T) -> Result<(), WsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: Serialize,
{
    // These shapes have text keys only, which is all that JSON may refuse.
    let text = serde_json::to_string(event).unwrap_or_default();
    sink.send(Message::text(text)).await
}

/// What the client gets.
struct Speaker<'a, S> {
    node: &'a Node,
    handle: &'a StreamHandle,
    sink: &'a mut Sink<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Speaker<'_, S> {
    async fn run(mut self, read: ReadHalf, told: mpsc::Receiver<Tell>) -> Outcome {
        self.speak(read, told).await.unwrap_or(Outcome::Gone)
    }

    async fn speak(
        &mut self,
        read: ReadHalf,
        mut told: mpsc::Receiver<Tell>,
    ) -> Result<Outcome, WsError> {
        let row = self.node.stream_row(self.handle);
        let mut shown = row.progress;
        say(self.sink, &StreamEvent::Stream(Box::new(row))).await?;
        let (mut reading, mut writing) = (Some(read), true);
        let mut paths = self.handle.paths();
        let mut tick = interval(PROGRESS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alive = interval(ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        alive.reset();
        while reading.is_some() || writing {
            let event = tokio::select! {
                biased;
                Some(tell) = told.recv() => match tell {
                    Tell::Finished => {
                        writing = false;
                        Some(StreamEvent::Finished)
                    }
                    Tell::Stopped(code) => {
                        writing = false;
                        Some(StreamEvent::Stopped(StreamStopped { code }))
                    }
                    Tell::Stop(code) => {
                        if let Some(read) = reading.take() {
                            read.stop(code);
                        }
                        None
                    }
                    Tell::Failed(error) => return self.failed(&error).await,
                },
                Ok(()) = paths.changed() => self.progress(&mut shown),
                _ = tick.tick() => self.progress(&mut shown),
                _ = alive.tick() => {
                    shown = self.node.stream_progress(self.handle);
                    Some(StreamEvent::Progress(shown))
                }
                chunk = chunk(reading.as_mut()) => match chunk {
                    Ok(Some(bytes)) => {
                        self.sink.feed(Message::Binary(bytes)).await?;
                        self.burst(reading.as_mut()).await?;
                        None
                    }
                    Ok(None) => {
                        reading = None;
                        Some(StreamEvent::End)
                    }
                    Err(error) => return self.failed(&error).await,
                },
            };
            if let Some(event) = event {
                say(self.sink, &event).await?;
                alive.reset();
            }
        }
        Ok(Outcome::Over)
    }

    /// Passes on what is there already, and flushes.
    async fn burst(&mut self, reading: Option<&mut ReadHalf>) -> Result<(), WsError> {
        if let Some(read) = reading {
            for _ in 1..BURST {
                // An end or error is there the next time as well.
                let Some(Ok(Some(bytes))) = read.chunk(MAX_MESSAGE).now_or_never() else { break };
                self.sink.feed(Message::Binary(bytes)).await?;
            }
        }
        self.sink.flush().await
    }

    /// How far the stream is, if that is news.
    fn progress(&self, shown: &mut StreamProgress) -> Option<StreamEvent> {
        let now = self.node.stream_progress(self.handle);
        let before = std::mem::replace(shown, now);
        // A round trip alone is none.
        let facts = |p: StreamProgress| (p.written, p.received, p.path.map(|path| path.kind));
        (facts(now) != facts(before)).then_some(StreamEvent::Progress(now))
    }

    async fn failed(&mut self, error: &StreamError) -> Result<Outcome, WsError> {
        say(self.sink, &StreamEvent::Reset(reset(error, self.handle.closed()))).await?;
        Ok(Outcome::Over)
    }
}

/// The next bytes; never where nobody reads.
async fn chunk(reading: Option<&mut ReadHalf>) -> Result<Option<Bytes>, StreamError> {
    match reading {
        Some(read) => read.chunk(MAX_MESSAGE).await,
        None => std::future::pending().await,
    }
}

/// How a stream has failed; `closed` is what was said when it was ended here.
pub(crate) fn reset(error: &StreamError, closed: Option<&str>) -> StreamReset {
    let (by, code, reason) = match error {
        StreamError::Reset { code, reason } | StreamError::Refused { code, reason } => {
            (ResetBy::Peer, *code, reason.clone())
        }
        StreamError::Cancelled { code } => {
            (ResetBy::Here, *code, closed.unwrap_or("the node has ended it").to_owned())
        }
        StreamError::Silent | StreamError::Unanswered => {
            (ResetBy::Silence, code::NONE, error.to_string())
        }
        other => (ResetBy::Fault, code::NONE, other.to_string()),
    };
    StreamReset { by, code, reason }
}

/// What the stream did with what the client wrote.
enum Step {
    /// So many bytes of what waits were taken.
    Taken(usize),
    /// None will be: [`Step::Settled`] says why.
    Failed,
    Settled(Result<(), StreamError>),
}

/// Writes of `waiting`; where nothing waits, the other side's last word. Cancel-safe.
async fn step(write: &mut WriteHalf, waiting: &[u8]) -> Step {
    if waiting.is_empty() {
        return Step::Settled(write.finished().await);
    }
    write.write(waiting).await.map_or(Step::Failed, Step::Taken)
}

/// Takes what the client writes and wants; returns what ends it.
async fn hear<S>(
    source: &mut SplitStream<WebSocketStream<S>>,
    write: &mut WriteHalf,
    tell: mpsc::Sender<Tell>,
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Bytes may follow; the stream does not know of the end yet; the other side's last word is not known.
    let (mut open, mut unfinished, mut unsettled) = (true, true, true);
    // While bytes wait for room, the client is heard on, until there are bytes once more.
    let (mut waiting, mut held) = (Bytes::new(), Bytes::new());
    loop {
        if waiting.is_empty() {
            waiting = std::mem::take(&mut held);
        }
        if waiting.is_empty() && !open && unfinished {
            unfinished = false;
            write.finish();
        }
        let heard = tokio::select! {
            biased;
            step = step(write, &waiting), if unsettled => Err(step),
            message = source.next(), if held.is_empty() => Ok(message),
        };
        let order = match heard {
            Err(Step::Taken(taken)) => {
                waiting.advance(taken);
                continue;
            }
            Err(Step::Failed) => {
                waiting.clear();
                held.clear();
                continue;
            }
            Err(Step::Settled(settled)) => {
                unsettled = false;
                let news = match settled {
                    Ok(()) => Tell::Finished,
                    Err(StreamError::Stopped { code }) => Tell::Stopped(code),
                    Err(error) => Tell::Failed(error),
                };
                let _ = tell.send(news).await;
                continue;
            }
            Ok(Some(Ok(Message::Binary(_)))) if !open => {
                return misuse(CloseCode::Policy, "no bytes may follow an end");
            }
            Ok(Some(Ok(Message::Binary(bytes)))) => {
                // Nobody wants more of them.
                if unsettled {
                    held = bytes;
                }
                continue;
            }
            Ok(Some(Ok(Message::Text(text)))) => serde_json::from_str(text.as_str()),
            Ok(Some(Ok(Message::Close(_))) | None) => return Outcome::Gone,
            Ok(Some(Ok(_))) => continue,
            Ok(Some(Err(WsError::Capacity(_)))) => {
                return misuse(CloseCode::Size, "a message has at most 65536 bytes");
            }
            Ok(Some(Err(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)))) => {
                return Outcome::Gone;
            }
            Ok(Some(Err(WsError::Protocol(_) | WsError::Utf8(_)))) => {
                return misuse(CloseCode::Protocol, "this is no WebSocket any more");
            }
            Ok(Some(Err(_))) => return Outcome::Gone,
        };
        match order {
            Ok(StreamOrder::End) if open => open = false,
            Ok(StreamOrder::End) => return misuse(CloseCode::Policy, "there is one end"),
            Ok(StreamOrder::Stop(StreamStop { code })) => {
                let _ = tell.send(Tell::Stop(code)).await;
            }
            Ok(StreamOrder::Reset(cancel)) => return Outcome::Reset(cancel),
            Err(_) => {
                let rule = "a text message is {\"type\": \"end\"}, \"stop\" or \"reset\"";
                return misuse(CloseCode::Policy, rule);
            }
        }
    }
}

fn misuse(close: CloseCode, rule: &'static str) -> Outcome {
    Outcome::Misuse { close, rule }
}
