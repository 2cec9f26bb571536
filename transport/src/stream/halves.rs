//! What the application reads and writes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use meshwire_signaling::StreamId;
use meshwire_signaling::stream::code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::recycle;
use super::error::StreamError;
use super::live::Live;
use super::machine::Read;

/// Most pieces that one look at the stream takes.
const PIECES: usize = 4;
/// What the other side hears when a writing half is dropped.
const DROPPED: &str = "dropped before its end";

fn wait(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// What comes in. It ends where the other side finished; bytes that were cut off end in an error, after those
/// that came in order. [`io::Error`]s have a [`StreamError`] inside.
///
/// Dropping it before the end stops the other side, as [`Self::stop`] with code 0.
pub struct ReadHalf {
    live: Live,
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadHalf({:?})", self.live.id())
    }
}

impl ReadHalf {
    pub(super) fn new(live: Live) -> Self {
        Self { live }
    }

    /// Which stream it is.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.live.id()
    }

    /// Says that nothing more will be read: the other side's writes fail with [`StreamError::Stopped`] and this
    /// code, 256 or above for the application's own.
    pub fn stop(self, code: u32) {
        self.live.0.with(|inner, now| inner.stream.stop(code, now));
    }

    /// The next bytes as they came, at most `max` (at least 1), without a copy; none at the end. Cancel-safe.
    ///
    /// # Errors
    /// What ended the stream before its end.
    pub async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        std::future::poll_fn(|cx| self.poll_chunk(cx, max)).await
    }

    /// As [`Self::chunk`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        let read = self.live.0.with(|inner, now| {
            let read = inner.stream.read(max.max(1), now);
            if read == Ok(Read::Pending) {
                wait(&mut inner.reader, cx);
            }
            read
        });
        match read {
            Ok(Read::Data(bytes)) => Poll::Ready(Ok(Some(bytes))),
            Ok(Read::End) => Poll::Ready(Ok(None)),
            Ok(Read::Pending) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pieces = [const { Bytes::new() }; PIECES];
        let mut room = buf.remaining();
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        let taken = self.live.0.with(|inner, now| {
            for (n, piece) in pieces.iter_mut().enumerate() {
                match inner.stream.read(room, now) {
                    Ok(Read::Data(bytes)) => {
                        room -= bytes.len();
                        *piece = bytes;
                    }
                    // What came in order goes first.
                    _ if n > 0 => break,
                    Ok(Read::End) => break,
                    Ok(Read::Pending) => {
                        wait(&mut inner.reader, cx);
                        return Poll::Pending;
                    }
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
                if room == 0 {
                    break;
                }
            }
            Poll::Ready(Ok(()))
        });
        for piece in pieces {
            buf.put_slice(&piece);
            recycle(piece);
        }
        taken
    }
}

impl Drop for ReadHalf {
    fn drop(&mut self) {
        self.live.0.with(|inner, now| inner.stream.stop(0, now));
    }
}

/// What goes out. A write is done once there is room for the bytes here; what was written leaves by itself, also when
/// the program goes on with something else. [`AsyncWrite::poll_shutdown`] ends this half, as [`Self::finish`].
/// [`io::Error`]s have a [`StreamError`] inside.
///
/// Dropping it before it was finished resets the stream, in both directions: the other side must not take what a
/// failed program wrote for the whole. So also who only reads finishes this half.
pub struct WriteHalf {
    live: Live,
    finished: bool,
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteHalf({:?})", self.live.id())
    }
}

impl WriteHalf {
    pub(super) fn new(live: Live) -> Self {
        Self { live, finished: false }
    }

    /// Which stream it is.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.live.id()
    }

    /// Ends this half: what was written still arrives, and then the end. Does not wait for that.
    pub fn finish(&mut self) {
        self.finished = true;
        self.live.0.with(|inner, now| inner.stream.finish(now));
    }

    /// Resolves once the other side has everything that was written, and the end: call [`Self::finish`] first.
    ///
    /// # Errors
    /// [`StreamError::Stopped`]: it wants no more; or what ended the stream. It may have everything or not.
    pub async fn finished(&self) -> Result<(), StreamError> {
        self.live
            .0
            .until(|stream| {
                if stream.is_sent() {
                    return Some(Ok(()));
                }
                stream.write_error().map(Err)
            })
            .await
    }

    /// Ends the stream in both directions, with a code of the application's own (256 or above) or one of
    /// [`meshwire_signaling::stream::code`], and at most 256 bytes of reason. What the other side has as a whole
    /// stays so.
    pub fn reset(mut self, code: u32, reason: &str) {
        self.finished = true;
        self.live.reset(code, reason);
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.live.0.with(|inner, now| match inner.stream.write(data, now) {
            Ok(0) => {
                wait(&mut inner.writer, cx);
                Poll::Pending
            }
            Ok(taken) => Poll::Ready(Ok(taken)),
            Err(error) => Poll::Ready(Err(error.into())),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// As for TCP, it does not wait until the other side has everything: [`WriteHalf::finished`] does.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            let error = self.live.0.with(|inner, _| inner.stream.write_error());
            if let Some(error) = error {
                return Poll::Ready(Err(error.into()));
            }
            self.finish();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        if !self.finished {
            self.live.0.with(|inner, now| {
                // A half that nobody wants any more has nothing to be cut off.
                if inner.stream.write_error().is_none() {
                    inner.stream.reset(code::NONE, DROPPED, now);
                }
            });
        }
    }
}
