//! The writing half: frames, pings, the close.

use std::sync::Arc;

use futures_util::stream::SplitSink;
use futures_util::{FutureExt as _, SinkExt as _};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{ErrorFrame, Frame, close, code};
use meshwire_signaling::limits::{MAX_FRAME, PING_INTERVAL, STALE_AFTER};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, interval, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::handshake::message;
use super::registry::Shared;
use super::{Close, Socket};
use crate::metrics::{Cause, Metrics};

/// Frames written before a flush: one system call for many small frames, and few enough of the
/// largest that a reader of 20 KB/s takes them before it counts as dead.
const BATCH: usize = 16;
/// Negotiation frames written with one batch: however many peers send them, mail goes on, and a reader
/// of 1 KB/s takes them before it counts as dead.
const SIGNALS: usize = 2;
/// Records written before a flush when nothing else waits: enough for few system calls, and few enough that a reader
/// of 2 KB/s takes them before it counts as dead. Frames go in between.
const RECORDS: usize = 4;
/// Longest wait for a close to leave.
const GOODBYE: Duration = Duration::from_secs(2);

pub(super) type Sink = SplitSink<Socket, Message>;

/// What waits to be written.
pub(super) struct Queues {
    /// Answers, mail, receipts, news.
    pub(super) out: mpsc::Receiver<Arc<Frame>>,
    /// Negotiation frames.
    pub(super) signals: mpsc::Receiver<Arc<Frame>>,
}

/// Writes until the connection is closed; ends by sending the close.
pub(super) async fn run(
    conn: Shared,
    mut sink: Sink,
    mut queues: Queues,
    mut closing: watch::Receiver<Option<Close>>,
    encoding: Encoding,
) {
    let fit = |frame: &Frame| fitting(frame, encoding, &conn.inner.metrics);
    let mut ping = interval(PING_INTERVAL);
    ping.tick().await;
    let bulk = Bulk(&conn);
    let end = loop {
        let (mut flush, mut records) = (false, 0);
        let first = tokio::select! {
            biased;
            r = closing.wait_for(Option::is_some) => break r.ok().and_then(|c| c.clone()),
            frame = queues.out.recv() => match frame {
                Some(frame) => fit(&frame),
                None => break None,
            },
            _ = ping.tick() => Some(Message::Ping(Bytes::new())),
            // Without pings, a node that is only told things would fall silent.
            Some(frame) = queues.signals.recv() => fit(&frame),
            // Last: all else is little and does not wait.
            all = bulk.ready() => {
                flush = all;
                records = RECORDS;
                None
            }
        };
        if first.is_none() && records == 0 {
            continue;
        }
        let written = async {
            write(&mut sink, first, &mut queues, &fit).await?;
            bulk.tell(&mut sink, flush).await?;
            // One, when there were frames: neither holds up the other.
            for n in 0..records.max(1) {
                if n > 0 {
                    write(&mut sink, None, &mut queues, &fit).await?;
                }
                if !bulk.next(&mut sink).await? {
                    break;
                }
            }
            sink.flush().await
        };
        // A socket that takes nothing for this long is dead or does not read.
        let wrote = tokio::select! {
            biased;
            r = closing.wait_for(Option::is_some) => break r.ok().and_then(|c| c.clone()),
            wrote = timeout(STALE_AFTER, written) => wrote,
        };
        match wrote {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                conn.handle.close(close::NORMAL, "");
                return;
            }
            Err(_) => {
                conn.inner.metrics.slow_consumers.inc();
                conn.handle.close(close::SLOW_CONSUMER, "slow_consumer");
            }
        }
    };
    goodbye(sink, queues.out, end, &fit).await;
}

/// A frame as it goes out. The last net under whatever makes frames: no reader gets one that is larger
/// than the limit, for it would have to give up the connection, and again after each connect. Who has
/// asked is told.
fn fitting(frame: &Frame, encoding: Encoding, metrics: &Metrics) -> Option<Message> {
    let sent = message(frame, encoding);
    if sent.len() <= MAX_FRAME {
        let cause = match frame {
            Frame::Message(_) => Some(Cause::MESSAGE),
            Frame::Receipt(_) => Some(Cause::RECEIPT),
            Frame::P2pOffer(_)
            | Frame::P2pAnswer(_)
            | Frame::P2pCandidate(_)
            | Frame::P2pBye(_) => Some(Cause::NEGOTIATION),
            _ => None,
        };
        if let Some(cause) = cause {
            metrics.relayed(cause).inc_by(u64::try_from(sent.len()).unwrap_or(u64::MAX));
        }
        return Some(sent);
    }
    metrics.oversized.inc();
    tracing::error!(kind = frame.kind(), len = sent.len(), "a frame is too large to be sent");
    let text = "the answer is larger than a frame may be";
    let error = ErrorFrame::permanent(code::TOO_LARGE, text).to_req(Some(answers(frame)?));
    Some(message(&error.into(), encoding))
}

/// The request that a frame answers, of those with lists in them.
fn answers(frame: &Frame) -> Option<u64> {
    match frame {
        Frame::Accepted(f) => Some(f.req),
        Frame::RecipientsChanged(f) => Some(f.req),
        Frame::Peers(f) => Some(f.req),
        Frame::Invites(f) => Some(f.req),
        Frame::Disconnected(f) => Some(f.req),
        Frame::TurnServers(f) => Some(f.req),
        _ => None,
    }
}

async fn write(
    sink: &mut Sink,
    first: Option<Message>,
    queues: &mut Queues,
    fit: &impl Fn(&Frame) -> Option<Message>,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    if let Some(first) = first {
        sink.feed(first).await?;
    }
    for _ in 1..BATCH {
        let Some(Some(frame)) = queues.out.recv().now_or_never() else { break };
        if let Some(message) = fit(&frame) {
            sink.feed(message).await?;
        }
    }
    for _ in 0..SIGNALS {
        let Some(Some(frame)) = queues.signals.recv().now_or_never() else { break };
        if let Some(message) = fit(&frame) {
            sink.feed(message).await?;
        }
    }
    Ok(())
}

/// Records of streams for this socket, if its node knows them.
struct Bulk<'a>(&'a Shared);

impl Bulk<'_> {
    /// Waits until there is something to write; whether that is little credit which has waited.
    async fn ready(&self) -> bool {
        match &self.0.handle.bulk {
            Some(desk) => desk.ready(|| self.0.inner.tick()).await,
            None => std::future::pending().await,
        }
    }

    /// Writes notices and credit.
    async fn tell(
        &self,
        sink: &mut Sink,
        all: bool,
    ) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        let Some(desk) = &self.0.handle.bulk else { return Ok(()) };
        desk.tell(sink, self.0.inner.tick(), all).await
    }

    /// Writes a record; false if none waits.
    async fn next(&self, sink: &mut Sink) -> Result<bool, tokio_tungstenite::tungstenite::Error> {
        let next = self.0.handle.bulk.as_ref().and_then(|d| d.next(&self.0.inner.metrics));
        let Some(parcel) = next else { return Ok(false) };
        sink.feed(Message::Binary(parcel.message.clone())).await?;
        Ok(true)
    }
}

/// Writes what is left, except to a reader that did not keep up, and the close.
async fn goodbye(
    mut sink: Sink,
    mut out: mpsc::Receiver<Arc<Frame>>,
    end: Option<Close>,
    fit: &impl Fn(&Frame) -> Option<Message>,
) {
    let (code, reason) = end.unwrap_or((close::NORMAL, String::new()));
    let leave = async {
        if code != close::SLOW_CONSUMER {
            while let Ok(frame) = out.try_recv() {
                if let Some(message) = fit(&frame) {
                    sink.feed(message).await?;
                }
            }
        }
        sink.send(Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() })))
            .await?;
        sink.close().await
    };
    let _ = timeout(GOODBYE, leave).await;
}

#[cfg(test)]
mod tests {
    use meshwire_signaling::PublicKey;
    use meshwire_signaling::frame::{Disconnected, Goaway};

    use super::super::handshake::frame as read;
    use super::*;

    #[test]
    fn nothing_larger_than_the_limit_is_sent_and_who_asked_is_told() {
        let metrics = Metrics::default();
        // A key takes 67 bytes of JSON and 34 of MessagePack.
        let answer = |keys| Disconnected {
            req: 7,
            affected: vec![PublicKey([0xab; 32]); keys],
            skipped: Vec::new(),
        };
        for (encoding, most) in [(Encoding::Json, 3_900), (Encoding::MsgPack, 7_700)] {
            let before = metrics.oversized.get();
            let fits = Frame::from(answer(most));
            let sent = fitting(&fits, encoding, &metrics).unwrap();
            assert_eq!(read(&sent, encoding).unwrap().unwrap(), fits);
            assert_eq!(metrics.oversized.get(), before);
            let large = Frame::from(answer(most + 100));
            let sent = fitting(&large, encoding, &metrics).unwrap();
            let Ok(Frame::Error(e)) = read(&sent, encoding).unwrap() else { panic!("no error") };
            assert_eq!((e.req, e.code.as_str()), (Some(7), code::TOO_LARGE));
            let news = Goaway { reason: "x".repeat(MAX_FRAME), retry_after_ms: 0 };
            assert!(fitting(&news.into(), encoding, &metrics).is_none());
            assert_eq!(metrics.oversized.get(), before + 2);
        }
    }
}
