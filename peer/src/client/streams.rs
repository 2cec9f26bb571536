//! Streams as a program has them, whoever carries them: its own node, or the background node behind a WebSocket.

mod remote;

use bytes::Bytes;
use meshwire_transport::stream::{ReadHalf, StreamError, WriteHalf};
use tokio::io::AsyncWriteExt as _;

use crate::api::{ResetBy, StreamProgress, StreamReset, StreamRow};
use crate::local_api::{MAX_MESSAGE, reset};
use crate::node::{Node, PeerStream, StreamHandle};

/// Why a stream, or one direction of it, ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamFailure {
    /// The other side has ended it.
    #[error("the other side has reset the stream{}", said(.reason))]
    Reset {
        /// Its word for why; 256 or above is the application's own.
        code: u32,
        /// Its words, which may be none.
        reason: String,
    },
    /// It was ended here.
    #[error("the stream was closed here{}", said(.reason))]
    Closed {
        /// The word that was given.
        code: u32,
        /// The words that were given.
        reason: String,
    },
    /// The other side reads no more.
    #[error("the other side reads no more (code {code})")]
    Stopped {
        /// Its word for why; 256 or above is the application's own.
        code: u32,
    },
    /// Nothing was heard from the other side for too long, on whatever path.
    #[error("nothing has been heard from the other side of the stream for too long")]
    Silent,
    /// The other side's program did what none may.
    #[error("{0}")]
    Fault(String),
    /// The background node that had the stream has gone, or cannot be understood.
    #[error("the node of this home has dropped the stream{}", said(.0))]
    Node(String),
}

fn said(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

impl From<StreamReset> for StreamFailure {
    fn from(reset: StreamReset) -> Self {
        let StreamReset { by, code, reason } = reset;
        match by {
            ResetBy::Peer => Self::Reset { code, reason },
            ResetBy::Here => Self::Closed { code, reason },
            ResetBy::Silence => Self::Silent,
            ResetBy::Fault => Self::Fault(reason),
        }
    }
}

/// How a node's own stream has failed.
fn failure(error: &StreamError, handle: &StreamHandle) -> StreamFailure {
    match error {
        StreamError::Stopped { code } => StreamFailure::Stopped { code: *code },
        other => reset(other, handle.closed()).into(),
    }
}

/// A stream with a peer. Dropping a part of it before its end resets the stream, or stops the other side's writing.
#[derive(Debug)]
pub struct AgentStream {
    row: StreamRow,
    reader: AgentReader,
    writer: AgentWriter,
    watch: StreamWatch,
}

impl AgentStream {
    /// A stream of this process's own node.
    pub(crate) fn own(node: &Node, stream: PeerStream) -> Self {
        let handle = stream.handle();
        let row = node.stream_row(&handle);
        let (read, write) = stream.split();
        let reader = AgentReader(Reader::Own(read, handle.clone()));
        let writer = AgentWriter(Writer::Own(write, handle.clone()));
        let watch = StreamWatch(Watch::Own(node.clone(), handle));
        Self { row, reader, writer, watch }
    }

    /// Which stream it is, as it was when it came.
    #[must_use]
    pub fn row(&self) -> &StreamRow {
        &self.row
    }

    /// What reads, what writes, and what looks after both.
    #[must_use]
    pub fn split(self) -> (AgentReader, AgentWriter, StreamWatch) {
        (self.reader, self.writer, self.watch)
    }
}

/// What comes in.
#[derive(Debug)]
pub struct AgentReader(Reader);

#[derive(Debug)]
enum Reader {
    Own(ReadHalf, StreamHandle),
    Remote(remote::Reader),
}

impl AgentReader {
    /// The next bytes, in order; none at the end. Cancel-safe.
    ///
    /// # Errors
    /// What ended the stream before its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, StreamFailure> {
        match &mut self.0 {
            Reader::Own(read, handle) => {
                read.chunk(MAX_MESSAGE).await.map_err(|e| failure(&e, handle))
            }
            Reader::Remote(reader) => reader.chunk().await,
        }
    }
}

/// What goes out.
#[derive(Debug)]
pub struct AgentWriter(Writer);

#[derive(Debug)]
enum Writer {
    Own(WriteHalf, StreamHandle),
    Remote(remote::Writer),
}

impl AgentWriter {
    /// Writes all of this, as there is room for it.
    ///
    /// # Errors
    /// What ended the stream, or its reading on the other side.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StreamFailure> {
        match &mut self.0 {
            Writer::Own(write, handle) => write.write_all(&bytes).await.map_err(|e| {
                let inner = e.get_ref().and_then(|inner| inner.downcast_ref::<StreamError>());
                inner.map_or_else(|| StreamFailure::Fault(e.to_string()), |e| failure(e, handle))
            }),
            Writer::Remote(writer) => writer.write(bytes).await,
        }
    }

    /// Ends what is written. Does not wait until the other side has it.
    ///
    /// # Errors
    /// What has ended the stream meanwhile.
    pub async fn finish(&mut self) -> Result<(), StreamFailure> {
        match &mut self.0 {
            Writer::Own(write, _) => {
                write.finish();
                Ok(())
            }
            Writer::Remote(writer) => writer.finish().await,
        }
    }

    /// Resolves once the other side has everything that was written, and the end: after [`Self::finish`]; before
    /// it, only when no more can be written. Cancel-safe.
    ///
    /// # Errors
    /// What ended the stream, or its reading on the other side.
    pub async fn finished(&self) -> Result<(), StreamFailure> {
        match &self.0 {
            Writer::Own(write, handle) => write.finished().await.map_err(|e| failure(&e, handle)),
            Writer::Remote(writer) => writer.finished().await,
        }
    }
}

/// Looks after a stream; it keeps nothing open.
#[derive(Clone, Debug)]
pub struct StreamWatch(Watch);

#[derive(Clone, Debug)]
enum Watch {
    Own(Node, StreamHandle),
    Remote(remote::Watch),
}

impl StreamWatch {
    /// How far the stream is; by a background node, as of a quarter of a second ago.
    #[must_use]
    pub fn progress(&self) -> StreamProgress {
        match &self.0 {
            Watch::Own(node, handle) => node.stream_progress(handle),
            Watch::Remote(watch) => watch.progress(),
        }
    }

    /// Ends the stream in both directions, with a code of the application's own (256 or above) or 0, and at most
    /// 256 bytes of reason for the other side.
    pub async fn reset(&self, code: u32, reason: &str) {
        match &self.0 {
            Watch::Own(_, handle) => handle.reset(code, reason),
            Watch::Remote(watch) => watch.reset(code, reason).await,
        }
    }

    /// Resolves when nothing more is to be sent or expected: a node that closes before that may leave the other
    /// side in doubt.
    pub async fn over(&self) {
        match &self.0 {
            Watch::Own(_, handle) => handle.over().await,
            Watch::Remote(watch) => watch.over().await,
        }
    }
}
