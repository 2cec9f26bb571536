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
//!            └────────┘       other readers: p2p frames ────► signals (64) ──► socket
//! ```
//!
//! Records of streams go past all of this ([`bulk`]): reader, the recipient's desk, its writer.
//!
//! All queues are bounded. A reader that takes nothing is closed with a reason; news of presence that
//! finds its queue full is dropped; mail waits in the store.

mod admin;
mod bulk;
mod complete;
mod epochs;
mod handshake;
mod leases;
mod p2p;
mod peers;
mod pump;
mod read;
mod registry;
mod write;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Frame, close, feature};
use meshwire_signaling::{Hash, MeshId, PublicKey};
use tokio::sync::{Notify, mpsc, watch};
use tokio_tungstenite::WebSocketStream;

pub(crate) use bulk::Exchange;
pub(crate) use leases::{restore, run as leases};
pub(crate) use registry::Registry;

use handshake::Guest;

use crate::core::batch::Batches;
use crate::core::claim::Window;
use crate::core::presence::ConnId;
use crate::serve::Inner;

/// The reason of a close after [`meshwire_signaling::limits::STALE_AFTER`].
const STALE: &str = "stale";
/// Frames that may wait for one socket.
const OUT_QUEUE: usize = 256;

/// The socket under a connection.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Why and how a connection ends, from our side.
pub(crate) type Close = (u16, String);

/// What others can do to a connection.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    out: mpsc::Sender<Arc<Frame>>,
    /// Negotiation frames, which never wait in the mail's queue.
    signals: mpsc::Sender<Arc<Frame>>,
    /// Whether the program behind it knows negotiation frames.
    p2p: bool,
    /// Its part in carrying streams, if the program behind it knows them.
    bulk: Option<Arc<bulk::Desk>>,
    close: watch::Sender<Option<Close>>,
    wake: Arc<Notify>,
    receipts: Arc<AtomicBool>,
    news_lost: Arc<AtomicBool>,
    orphans: Arc<AtomicBool>,
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

    /// The connection missed news of presence, and is to be told so.
    fn news_lost(&self) {
        self.news_lost.store(true, Ordering::Release);
        self.wake();
    }

    /// Mail may wait for a session of this connection's member that has ended.
    fn orphans_waiting(&self) {
        self.orphans.store(true, Ordering::Release);
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
    /// It came over loopback.
    near: bool,
    /// Hash of the hello, which binds refer to.
    hello: Hash,
    handle: Handle,
    window: Mutex<Window>,
    /// When something was last heard, in ticks.
    heard: AtomicU64,
    /// It has said that it leaves.
    left: AtomicBool,
    /// Whether the program behind it gates what surfaces by itself.
    gates: bool,
    /// Ended sessions of the member whose waiting mail it is to answer.
    orphans: Mutex<Vec<PublicKey>>,
    /// Group sends whose last batch has not come.
    batches: Mutex<Batches>,
}

impl Conn {
    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn batches(&self) -> std::sync::MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn orphans(&self) -> std::sync::MutexGuard<'_, Vec<PublicKey>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds on the clock that windows and rates run on.
    fn tick(&self) -> u64 {
        self.inner.tick()
    }
}

/// What is known of a socket when it has become a WebSocket.
pub(crate) struct Opened {
    /// How frames are written there.
    pub(crate) encoding: Encoding,
    /// The exporter of its TLS.
    pub(crate) binding: Option<Hash>,
    /// It came over loopback, from a program on this machine.
    pub(crate) near: bool,
}

/// Runs a connection to its end.
pub(crate) async fn run(
    inner: Arc<Inner>,
    mut socket: Socket,
    Opened { encoding, binding, near }: Opened,
) {
    let Some(guest) = handshake::run(&inner, &mut socket, encoding, binding).await else { return };
    let (out, out_rx) = mpsc::channel(OUT_QUEUE);
    let (signals, signals_rx) = mpsc::channel(p2p::SIGNALS);
    let (closing, close_rx) = watch::channel(None);
    let says = |word: &str| guest.attach.features.iter().any(|f| f == word);
    let streams =
        says(feature::STREAMS) && handshake::offered(&inner).any(|f| f == feature::STREAMS);
    let attach = &guest.attach;
    let desk = streams.then(|| inner.bulk.desk(attach.conn, attach.mesh, attach.member));
    let receipts = Arc::new(AtomicBool::new(true));
    let handle = Handle {
        out,
        signals,
        p2p: says(feature::P2P) && handshake::offered(&inner).any(|f| f == feature::P2P),
        bulk: desk,
        close: closing,
        wake: Arc::default(),
        receipts,
        news_lost: Arc::default(),
        orphans: Arc::new(AtomicBool::new(guest.attach.kind == IdentityKind::Member)),
    };
    let conn = Arc::new(Conn {
        id: guest.attach.conn,
        mesh: guest.attach.mesh,
        member: guest.attach.member,
        key: guest.attach.key,
        kind: guest.attach.kind,
        near,
        hello: guest.hello,
        handle: handle.clone(),
        window: Mutex::new(Window::new(inner.policy.window)),
        heard: AtomicU64::new(inner.tick()),
        left: AtomicBool::new(false),
        gates: says(feature::GATE),
        orphans: Mutex::default(),
        batches: Mutex::default(),
        inner: inner.clone(),
    });
    let attach = guest.attach.clone();
    let attached = match inner.registry.attach(attach, handle, &guest.member, &inner) {
        Ok(attached) => attached,
        Err(refusal) => {
            handshake::refuse(&inner, &mut socket, encoding, refusal).await;
            return;
        }
    };
    leases::note_resume(&inner, &guest.body, &attached);
    if conn.kind != IdentityKind::Member
        && let Some(member) = inner.registry.holder(&conn.mesh, &conn.member)
    {
        // If it had ended, it lives again: its mail is its own.
        member.orphans_waiting();
    }
    if !handshake::acknowledge(&inner, &mut socket, encoding, &guest, &attached).await {
        leave(&conn).await;
        return;
    }
    if attached.other_features
        && conn.kind == IdentityKind::Member
        && let Err(e) = admin::announce(&conn).await
    {
        tracing::warn!(error = %e, "that a member's program has other features was not told");
    }
    inner.metrics.connections.inc();
    inner.metrics.connections_active.inc();
    tracing::info!(
        target: "meshwire::events::connection::opened",
        conn = conn.id, mesh = %conn.mesh.short(), member = %conn.member.short()
    );

    let (sink, stream) = futures_util::StreamExt::split(socket);
    let (done_tx, done_rx) = mpsc::channel(OUT_QUEUE);
    let queues = write::Queues { out: out_rx, signals: signals_rx };
    let writer = tokio::spawn(write::run(conn.clone(), sink, queues, close_rx, encoding));
    let completer = tokio::spawn(complete::run(conn.clone(), done_rx));
    let pump = tokio::spawn(pump::run(conn.clone()));
    let end = read::run(&conn, stream, encoding, done_tx).await;
    pump.abort();
    // It may be about to claim: only when it has ended can its claims be given back.
    let _ = pump.await;
    if !gave_up(&conn, end.as_ref()) {
        conn.heard.store(conn.tick(), Ordering::Relaxed);
    }
    leave(&conn).await;
    // What had been submitted is still answered, unless the socket is gone.
    let _ = completer.await;
    if let Some((code, reason)) = end {
        conn.handle.close(code, &reason);
    }
    conn.handle.close(close::NORMAL, "");
    let _ = writer.await;
    inner.metrics.connections_active.dec();
    tracing::info!(target: "meshwire::events::connection::closed", conn = conn.id);
}

/// Whether we ended the connection because nothing came or nothing was read. Then the lease counts
/// from the last thing heard: silence has been counted before.
fn gave_up(conn: &Conn, end: Option<&Close>) -> bool {
    let closing = conn.handle.close.borrow();
    let slow = |c: &Close| c.0 == close::SLOW_CONSUMER || c.1 == STALE;
    end.is_some_and(slow) || closing.as_ref().is_some_and(slow)
}

/// Gives up claims at once; the presence goes on for as long as its lease.
async fn leave(conn: &Arc<Conn>) {
    let inner = &conn.inner;
    let identities = inner.registry.detach(conn, conn.heard.load(Ordering::Relaxed));
    if let Some(desk) = &conn.handle.bulk {
        // Nobody finds it any more.
        desk.close(&inner.metrics);
    }
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
        // Of a session that was kicked the mail is its member's now.
        inner.registry.wake(&conn.mesh, &conn.member);
    }
}
