//! What a program has of a stream.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use meshwire_signaling::{MeshId, Priority, PublicKey, StreamId, UnixMillis};
use meshwire_transport::link::PathKind;
use meshwire_transport::stream::{Live, ReadHalf, StreamError, WriteHalf};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// Which stream it is, and with whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its id.
    pub id: StreamId,
    /// What it is for.
    pub name: String,
    /// The mesh.
    pub mesh: MeshId,
    /// The mesh's name here.
    pub mesh_name: String,
    /// Our identity.
    pub own: PublicKey,
    /// The other side's identity.
    pub peer: PublicKey,
    /// Its name; `member/name` for sessions and services.
    pub peer_name: String,
    /// The member behind it; the same key for members.
    pub member: PublicKey,
    /// Whether we have opened it.
    pub opened: bool,
    /// When it was opened or accepted here, Unix milliseconds.
    pub since: UnixMillis,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Bytes that were written here; they may still wait.
    pub written: u64,
    /// Bytes that have come, in order.
    pub received: u64,
    /// What new bytes go over now; none while there is no path.
    pub path: Option<PathKind>,
    /// Whether nothing more is to be sent or expected.
    pub over: bool,
}

/// Looks after a stream whose halves are elsewhere; clones are of the same stream. It keeps nothing open.
#[derive(Clone)]
pub struct StreamHandle {
    info: Arc<StreamInfo>,
    live: Live,
    path: watch::Receiver<Option<PathKind>>,
    /// Why it was reset here, if it was.
    closed: Arc<OnceLock<String>>,
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StreamInfo { id, name, peer_name, .. } = &*self.info;
        write!(f, "Stream({id}, {name:?} with {peer_name})")
    }
}

impl StreamHandle {
    pub(super) fn new(
        info: Arc<StreamInfo>,
        live: Live,
        path: watch::Receiver<Option<PathKind>>,
    ) -> Self {
        Self { info, live, path, closed: Arc::default() }
    }

    /// Which stream it is, and with whom.
    #[must_use]
    pub fn info(&self) -> &StreamInfo {
        &self.info
    }

    /// How far it is.
    #[must_use]
    pub fn stats(&self) -> StreamStats {
        let counters = self.live.counters();
        StreamStats {
            written: counters.written,
            received: counters.received,
            path: self.live.path(),
            over: self.live.is_over(),
        }
    }

    /// What new bytes go over, as it changes; none while there is no path. It ends with the stream.
    #[must_use]
    pub fn paths(&self) -> watch::Receiver<Option<PathKind>> {
        self.path.clone()
    }

    /// How urgent what this side sends is beside the node's other streams, on each path: the more urgent goes first,
    /// and what is less so keeps a small part. The other side does not hear of it, and chooses its own.
    pub fn set_priority(&self, priority: Priority) {
        self.live.set_priority(priority);
    }

    /// What [`Self::set_priority`] was told last, or whoever opened or accepted it here.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.live.priority()
    }

    /// Ends the stream in both directions, with a code of the application's own (256 or above) or one of
    /// [`meshwire_signaling::stream::code`], and at most 256 bytes of reason for the other side.
    pub fn reset(&self, code: u32, reason: &str) {
        let _ = self.closed.set(reason.to_owned());
        self.live.reset(code, reason);
    }

    /// The reason that [`Self::reset`] was given first, for who has the stream here.
    #[must_use]
    pub fn closed(&self) -> Option<&str> {
        self.closed.get().map(String::as_str)
    }

    /// What ended the stream early, if something did.
    #[must_use]
    pub fn error(&self) -> Option<StreamError> {
        self.live.error()
    }

    /// Resolves when nothing more is to be sent or expected.
    pub async fn over(&self) {
        self.live.over().await;
    }

    pub(super) fn live(&self) -> &Live {
        &self.live
    }
}

/// A stream with a peer: both directions at once as tokio's `AsyncRead` and `AsyncWrite`, or [split](Self::split).
///
/// Shutting it down, or [`Self::finish`], ends what is written: the other side reads an end. A program that goes away
/// before it has finished resets the stream, so that nobody takes a part for the whole; so it waits for
/// [`Self::finished`] before its node closes.
#[derive(Debug)]
pub struct PeerStream {
    handle: StreamHandle,
    read: ReadHalf,
    write: WriteHalf,
}

impl PeerStream {
    /// Takes the halves; none if they have been taken.
    pub(super) fn new(handle: StreamHandle) -> Option<Self> {
        let (read, write) = handle.live().halves()?;
        Some(Self { handle, read, write })
    }

    /// Which stream it is, and with whom.
    #[must_use]
    pub fn info(&self) -> &StreamInfo {
        self.handle.info()
    }

    /// How far it is.
    #[must_use]
    pub fn stats(&self) -> StreamStats {
        self.handle.stats()
    }

    /// What looks after the stream when its halves are elsewhere.
    #[must_use]
    pub fn handle(&self) -> StreamHandle {
        self.handle.clone()
    }

    /// Its two halves. Dropping the one before its end stops the other side; dropping the other before
    /// [`WriteHalf::finish`] resets the stream.
    #[must_use]
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }

    /// Ends what is written. Does not wait until the other side has it.
    pub fn finish(&mut self) {
        self.write.finish();
    }

    /// Resolves once the other side has everything that was written, and the end: after [`Self::finish`].
    ///
    /// # Errors
    /// As [`WriteHalf::finished`].
    pub async fn finished(&self) -> Result<(), StreamError> {
        self.write.finished().await
    }

    /// As [`StreamHandle::reset`].
    pub fn reset(self, code: u32, reason: &str) {
        self.write.reset(code, reason);
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}
