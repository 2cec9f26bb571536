//! Both directions of a stream, to and from standard input and output, until both have ended.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use meshwire_peer::client::{AgentReader, AgentWriter, StreamFailure};
use tokio::sync::{mpsc, oneshot};

use super::ends::Output;

/// How many bytes went each way.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// From standard input.
    pub(super) sent: AtomicU64,
    /// To standard output.
    pub(super) received: AtomicU64,
}

/// What broke it off.
#[derive(Debug)]
pub(super) enum Broken {
    /// Standard input cannot be read.
    Input(io::Error),
    /// Standard output cannot be written.
    Output(io::Error),
    /// The stream has failed.
    Stream(StreamFailure),
}

impl From<StreamFailure> for Broken {
    fn from(failure: StreamFailure) -> Self {
        Self::Stream(failure)
    }
}

/// What comes in and goes out here.
pub(super) struct Ends {
    pub(super) input: mpsc::Receiver<io::Result<Bytes>>,
    pub(super) output: Output,
    /// Whether a person types the input: it has no end of its own, so it ends with the other direction.
    pub(super) typed: bool,
}

/// Moves bytes both ways until both directions have ended and the other side's node has everything.
pub(super) async fn both(
    reader: AgentReader,
    writer: &mut AgentWriter,
    ends: Ends,
    counted: &Counted,
) -> Result<(), Broken> {
    let Ends { input, output, typed } = ends;
    let (tell, over) = oneshot::channel();
    let inward = async {
        inward(reader, output, counted).await?;
        let _ = tell.send(());
        Ok(())
    };
    let over = async move {
        if !typed || over.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let (_, unread) = tokio::try_join!(inward, outward(input, writer, over, counted))?;
    unread.map_or(Ok(()), |failure| Err(failure.into()))
}

/// From standard input to the peer, until its end or `over`. Where the peer reads no more, says so.
async fn outward(
    mut input: mpsc::Receiver<io::Result<Bytes>>,
    writer: &mut AgentWriter,
    over: impl Future<Output = ()>,
    counted: &Counted,
) -> Result<Option<StreamFailure>, Broken> {
    let mut over = std::pin::pin!(over);
    let ended = loop {
        let piece = tokio::select! {
            biased;
            ended = writer.finished() => break ended,
            piece = input.recv() => piece,
            () = &mut over => None,
        };
        let Some(piece) = piece else {
            break match writer.finish().await {
                Ok(()) => writer.finished().await,
                failed => failed,
            };
        };
        let piece = piece.map_err(Broken::Input)?;
        let len = piece.len() as u64;
        if let Err(failure) = writer.write(piece).await {
            break Err(failure);
        }
        counted.sent.fetch_add(len, Ordering::Relaxed);
    };
    match ended {
        Ok(()) => Ok(None),
        // The other direction goes on.
        Err(unread @ StreamFailure::Stopped { .. }) => Ok(Some(unread)),
        Err(failure) => Err(failure.into()),
    }
}

/// From the peer to standard output, until its end or nobody reads it any more, which is nobody's fault.
async fn inward(
    mut reader: AgentReader,
    mut output: Output,
    counted: &Counted,
) -> Result<(), Broken> {
    let written = loop {
        let Some(piece) = reader.chunk().await? else { break output.finish().await };
        let len = piece.len() as u64;
        if let Err(e) = output.write(piece).await {
            break Err(e);
        }
        counted.received.fetch_add(len, Ordering::Relaxed);
    };
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Broken::Output(e)),
        // Dropping the reader stops the other side.
        _ => Ok(()),
    }
}
