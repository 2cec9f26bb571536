//! One connection: handshake, then a reader, a writer, a pump and a completer.
//!
//! ```text
//!            ┌────────┐  jobs   ┌──────────┐ pending  ┌───────────┐
//! socket ──► │ reader │ ──────► │  writer  │ ───────► │ completer │──┐ answers, receipts, wakes
//!            └────────┘         │ (shared) │          └───────────┘  │
//!                 ▲ window      └──────────┘                         ▼
//!                 ▼                  ▲ claims                   ┌─────────┐
//!            ┌────────┐ ─────────────┘ messages, receipts ────► │ out (256)│──► socket
//!            │  pump  │ ◄── wake                                └─────────┘
//!            └────────┘
//! ```
//!
//! All queues are bounded. A reader that takes nothing is closed with a reason; news of presence that
//! finds its queue full is dropped; mail waits in the store.

mod complete;
mod handshake;
mod pump;
mod read;
mod registry;
mod write;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::Frame;
use meshwire_signaling::{Hash, MeshId, PublicKey};
use tokio::sync::{Notify, mpsc, watch};
use tokio_tungstenite::WebSocketStream;

pub(crate) use registry::Registry;

use crate::core::claim::Window;
use crate::core::presence::ConnId;
use crate::serve::Inner;

/// Frames that may wait for one socket.
const OUT_QUEUE: usize = 256;

/// The socket under a connection.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Why and how a connection ends, from our side.
pub(crate) type Close = (u16, String);

/// What others can do to a connection.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    out: mpsc::Sender<Frame>,
    close: watch::Sender<Option<Close>>,
    wake: Arc<Notify>,
    receipts: Arc<AtomicBool>,
}

impl Handle {
    /// Something may be waiting in the store.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Ends the connection; the first reason stands.
    pub(crate) fn close(&self, code: u16, reason: &str) {
        self.close.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some((code, reason.to_owned()));
            }
            first
        });
    }

    /// Receipts wait in the store for this connection's identities.
    fn receipts_waiting(&self) {
        self.receipts.store(true, Ordering::Release);
        self.wake();
    }
}

/// What the tasks of one connection share.
pub(crate) struct Conn {
    inner: Arc<Inner>,
    id: ConnId,
    mesh: MeshId,
    member: PublicKey,
    /// The identity that said hello, and what it is.
    key: PublicKey,
    kind: IdentityKind,
    /// Hash of the hello, which binds refer to.
    hello: Hash,
    handle: Handle,
    window: Mutex<Window>,
}

impl Conn {
    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds on the clock that windows and rates run on.
    fn tick(&self) -> u64 {
        self.inner.tick()
    }
}

/// Runs a connection to its end.
pub(crate) async fn run(
    inner: Arc<Inner>,
    mut socket: Socket,
    encoding: Encoding,
    binding: Option<Hash>,
) {
    let Some(guest) = handshake::run(&inner, &mut socket, encoding, binding).await else { return };
    let (out, out_rx) = mpsc::channel(OUT_QUEUE);
    let (close, close_rx) = watch::channel(None);
    let receipts = Arc::new(AtomicBool::new(true));
    let handle = Handle { out, close, wake: Arc::default(), receipts };
    let conn = Arc::new(Conn {
        id: guest.attach.conn,
        mesh: guest.attach.mesh,
        member: guest.attach.member,
        key: guest.attach.key,
        kind: guest.attach.kind,
        hello: guest.hello,
        handle: handle.clone(),
        window: Mutex::new(Window::new(inner.policy.window)),
        inner: inner.clone(),
    });
    if let Err(refusal) = inner.registry.attach(guest.attach, handle, &guest.member, &inner) {
        handshake::refuse(&inner, &mut socket, encoding, refusal).await;
        return;
    }
    if !handshake::acknowledge(&inner, &mut socket, encoding, &guest).await {
        leave(&conn).await;
        return;
    }
    inner.metrics.connections.inc();
    inner.metrics.connections_active.inc();
    tracing::info!(
        target: "meshwire::events::connection::opened",
        conn = conn.id, mesh = %conn.mesh.short(), member = %conn.member.short()
    );

    let (sink, stream) = futures_util::StreamExt::split(socket);
    let (done_tx, done_rx) = mpsc::channel(OUT_QUEUE);
    let writer = tokio::spawn(write::run(conn.clone(), sink, out_rx, close_rx, encoding));
    let completer = tokio::spawn(complete::run(conn.clone(), done_rx));
    let pump = tokio::spawn(pump::run(conn.clone()));
    let end = read::run(&conn, stream, encoding, done_tx).await;
    pump.abort();
    // It may be about to claim: only when it has ended can its claims be given back.
    let _ = pump.await;
    leave(&conn).await;
    // What had been submitted is still answered, unless the socket is gone.
    let _ = completer.await;
    if let Some((code, reason)) = end {
        conn.handle.close(code, &reason);
    }
    conn.handle.close(meshwire_signaling::frame::close::NORMAL, "");
    let _ = writer.await;
    inner.metrics.connections_active.dec();
    tracing::info!(target: "meshwire::events::connection::closed", conn = conn.id);
}

/// Gives up presence and claims: a lost connection frees its claims at once.
async fn leave(conn: &Arc<Conn>) {
    let inner = &conn.inner;
    let identities = inner.registry.detach(conn, inner);
    let (id, mesh, member, now) = (conn.id, conn.mesh, conn.member, inner.net.unix_ms());
    let released = inner
        .writer
        .run(move |tx| {
            Box::pin(async move {
                tx.seen(&mesh, &member, now).await?;
                tx.release(id).await
            })
        })
        .await;
    if released.is_ok_and(|n| n > 0) {
        for key in identities {
            inner.registry.wake(&conn.mesh, &key);
        }
    }
}
