//! The writing half: frames, pings, the close.

use std::sync::Arc;

use futures_util::stream::SplitSink;
use futures_util::{FutureExt as _, SinkExt as _};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Frame, close};
use meshwire_signaling::limits::{PING_INTERVAL, STALE_AFTER};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, interval, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::handshake::message;
use super::registry::Shared;
use super::{Close, Socket};

/// Frames written before a flush: one system call for many small frames, and few enough of the
/// largest that a reader of 20 KB/s takes them before it counts as dead.
const BATCH: usize = 16;
/// Longest wait for a close to leave.
const GOODBYE: Duration = Duration::from_secs(2);

type Sink = SplitSink<Socket, Message>;

/// Writes until the connection is closed; ends by sending the close.
pub(super) async fn run(
    conn: Shared,
    mut sink: Sink,
    mut out: mpsc::Receiver<Arc<Frame>>,
    mut closing: watch::Receiver<Option<Close>>,
    encoding: Encoding,
) {
    let mut ping = interval(PING_INTERVAL);
    ping.tick().await;
    let end = loop {
        let first = tokio::select! {
            biased;
            r = closing.wait_for(Option::is_some) => break r.ok().and_then(|c| c.clone()),
            frame = out.recv() => match frame {
                Some(frame) => message(&frame, encoding),
                None => break None,
            },
            _ = ping.tick() => Message::Ping(Bytes::new()),
        };
        // A socket that takes nothing for this long is dead or does not read.
        let wrote = tokio::select! {
            biased;
            r = closing.wait_for(Option::is_some) => break r.ok().and_then(|c| c.clone()),
            wrote = timeout(STALE_AFTER, write(&mut sink, first, &mut out, encoding)) => wrote,
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
    goodbye(sink, out, end, encoding).await;
}

async fn write(
    sink: &mut Sink,
    first: Message,
    out: &mut mpsc::Receiver<Arc<Frame>>,
    encoding: Encoding,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    sink.feed(first).await?;
    for _ in 1..BATCH {
        let Some(Some(frame)) = out.recv().now_or_never() else { break };
        sink.feed(message(&frame, encoding)).await?;
    }
    sink.flush().await
}

/// Writes what is left, except to a reader that did not keep up, and the close.
async fn goodbye(
    mut sink: Sink,
    mut out: mpsc::Receiver<Arc<Frame>>,
    end: Option<Close>,
    encoding: Encoding,
) {
    let (code, reason) = end.unwrap_or((close::NORMAL, String::new()));
    let leave = async {
        if code != close::SLOW_CONSUMER {
            while let Ok(frame) = out.try_recv() {
                sink.feed(message(&frame, encoding)).await?;
            }
        }
        sink.send(Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() })))
            .await?;
        sink.close().await
    };
    let _ = timeout(GOODBYE, leave).await;
}
