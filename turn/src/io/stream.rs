//! Clients over TCP and TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshwire_transport::net::{BoxStream, Listener};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::shared::Shared;
use crate::core::{Flow, Transport};
use crate::stun::{Frame, next_frame};

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may be silent that has no allocation, and how long one may take to read.
const IDLE: Duration = Duration::from_secs(30);
/// What waits for a client that reads slowly; more is dropped, as it would be on a full line.
const QUEUE: usize = 256 << 10;
/// Longest message of a client without an allocation.
const STRANGER: usize = 2_048;
/// What is read at once.
const CHUNK: usize = 16 << 10;
/// Pause after an error of the listening socket: out of file descriptors, for instance.
const PAUSE: Duration = Duration::from_millis(100);

/// What goes out on one stream.
#[derive(Debug, Default)]
pub(super) struct Stream {
    queue: Mutex<Vec<u8>>,
    wake: Notify,
    end: Notify,
}

impl Stream {
    /// Queues what `write` appends, or drops it where too much waits already.
    pub(super) fn push(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= QUEUE {
            return false;
        }
        write(&mut queue);
        drop(queue);
        self.wake.notify_one();
        true
    }

    pub(super) fn hang_up(&self) {
        self.end.notify_one();
    }

    async fn next(&self) -> Vec<u8> {
        loop {
            let bytes =
                std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
            if !bytes.is_empty() {
                return bytes;
            }
            self.wake.notified().await;
        }
    }
}

/// Accepts clients.
pub(super) async fn accept(
    shared: Arc<Shared>,
    listener: Box<dyn Listener>,
    transport: Transport,
    tls: Option<TlsAcceptor>,
) {
    let mut stopping = shared.stopping();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Without a place the connection is closed at once: waiting would help nobody.
        let Some(place) = shared.places.take(from) else { continue };
        let tls = tls.clone();
        shared.spawn(|shared| async move {
            let mut stopping = shared.stopping();
            tokio::select! {
                () = serve(&shared, stream, from, transport, tls) => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            drop(place);
        });
    }
}

async fn serve(
    shared: &Arc<Shared>,
    stream: BoxStream,
    client: SocketAddr,
    transport: Transport,
    tls: Option<TlsAcceptor>,
) {
    let stream: BoxStream = match tls {
        None => stream,
        Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => Box::new(stream),
            _ => return,
        },
    };
    let (id, out) = shared.add_stream();
    let known = Known { shared, flow: Flow { transport, id, local: None, client } };
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        () = read(&known, reader) => {}
        () = write(&out, writer, transport == Transport::Tls) => {}
        () = out.end.notified() => {}
    }
}

/// A stream that the others know of, until this is dropped, however that comes.
struct Known<'a> {
    shared: &'a Arc<Shared>,
    flow: Flow,
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.shared.remove_stream(&self.flow);
    }
}

async fn read(known: &Known<'_>, mut reader: ReadHalf<BoxStream>) {
    let Known { shared, flow } = known;
    let mut buffer = Vec::new();
    loop {
        let needed = match take_frames(shared, flow, &mut buffer) {
            Some(needed) => needed,
            None => return,
        };
        let has_allocation = shared.with_core(|core, _| core.has_allocation(flow));
        if needed > STRANGER && !has_allocation {
            return;
        }
        buffer.reserve(CHUNK.max(needed.saturating_sub(buffer.len())));
        // Silence is fine with an allocation, which has a lifetime of its own.
        match timeout(IDLE, reader.read_buf(&mut buffer)).await {
            Ok(Ok(1..)) => {}
            Err(_) if has_allocation && shared.with_core(|c, _| c.has_allocation(flow)) => {}
            _ => return,
        }
    }
}

/// Takes all whole messages out of `buffer`. Gives how long the next one is, as far as is known, or
/// nothing where the stream is lost.
fn take_frames(shared: &Arc<Shared>, flow: &Flow, buffer: &mut Vec<u8>) -> Option<usize> {
    let now = shared.now();
    let mut at = 0;
    let mut needed = None;
    shared.burst(|burst| {
        while let Some(rest) = buffer.get(at..) {
            match next_frame(rest) {
                Frame::Whole { length, total } => {
                    shared.client_sent(now, flow, rest.get(..length).unwrap_or(rest), burst);
                    at += total;
                }
                Frame::Need(bytes) => {
                    needed = Some(bytes);
                    break;
                }
                Frame::Invalid => break,
            }
        }
    });
    buffer.drain(..at);
    if buffer.is_empty() {
        // An idle client keeps no buffer.
        *buffer = Vec::new();
    }
    needed
}

async fn write(out: &Stream, mut writer: WriteHalf<BoxStream>, tls: bool) {
    loop {
        let bytes = out.next().await;
        match timeout(IDLE, write_all(&mut writer, &bytes, tls)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

/// Writes messages; within TLS each in a record of its own, because coturn's client takes what one
/// record holds for one message.
async fn write_all(
    writer: &mut WriteHalf<BoxStream>,
    mut bytes: &[u8],
    tls: bool,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let length = match next_frame(bytes) {
            Frame::Whole { total, .. } if tls => total,
            _ => bytes.len(),
        };
        let (first, rest) = bytes.split_at(length.min(bytes.len()));
        writer.write_all(first).await?;
        bytes = rest;
    }
    writer.flush().await
}
