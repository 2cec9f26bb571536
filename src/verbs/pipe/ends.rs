//! Standard input and output as they are: bytes, at once, in large pieces. Each has a thread of its own, since both may
//! block for as long as they like; neither is waited for when the verb ends.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Most bytes that are read at once.
const PIECE: usize = 128 * 1024;
/// Pieces that wait.
const WAITING: usize = 8;
/// Between two tries at an end that somebody has set to not block.
const AGAIN: Duration = Duration::from_millis(2);

/// A copy of a descriptor, without the library's buffers.
fn raw(end: impl AsFd) -> io::Result<File> {
    Ok(end.as_fd().try_clone_to_owned()?.into())
}

/// What is read from `from`, until its end or an error, which is the last.
fn pieces(mut from: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Bytes>> {
    let (tell, pieces) = mpsc::channel(WAITING);
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            let piece = match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => Ok(Bytes::copy_from_slice(&buffer[..len])),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(AGAIN);
                    continue;
                }
                Err(e) => Err(e),
            };
            let last = piece.is_err();
            if tell.blocking_send(piece).is_err() || last {
                return;
            }
        }
    });
    pieces
}

/// What comes in on standard input.
pub(super) fn input() -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
    Ok(pieces(raw(io::stdin())?))
}

/// An input that has ended, while standard input stays unread.
pub(super) fn nothing() -> mpsc::Receiver<io::Result<Bytes>> {
    mpsc::channel(1).1
}

/// Where bytes go that are written in their order by a thread.
pub(super) struct Output {
    pieces: Option<mpsc::Sender<Bytes>>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    /// Standard output.
    pub(super) fn standard() -> io::Result<Self> {
        Ok(Self::to(raw(io::stdout())?))
    }

    fn to(mut to: impl Write + Send + 'static) -> Self {
        let (pieces, mut coming) = mpsc::channel::<Bytes>(WAITING);
        let (tell, ended) = oneshot::channel();
        thread::spawn(move || {
            let mut all = Ok(());
            while let Some(piece) = coming.blocking_recv() {
                all = write(&mut to, &piece);
                if all.is_err() {
                    break;
                }
            }
            let _ = tell.send(all);
        });
        Self { pieces: Some(pieces), ended }
    }

    /// Takes bytes, as there is room for them.
    ///
    /// # Errors
    /// What went wrong with these or earlier ones.
    pub(super) async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        if let Some(pieces) = &self.pieces
            && pieces.send(piece).await.is_ok()
        {
            return Ok(());
        }
        self.end().await
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// What went wrong with it.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        self.pieces = None;
        self.end().await
    }

    async fn end(&mut self) -> io::Result<()> {
        let gone = || io::Error::other("the thread that writes has gone");
        (&mut self.ended).await.unwrap_or_else(|_| Err(gone()))
    }
}

fn write(to: &mut impl Write, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        match to.write(piece) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(len) => piece = piece.get(len..).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(e) => return Err(e),
        }
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// An end that is interrupted, does not block, and takes little at once.
    struct Odd(VecDeque<io::Result<Vec<u8>>>);

    impl Read for Odd {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let bytes = self.0.pop_front().unwrap_or(Ok(Vec::new()))?;
            buf[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        }
    }

    #[tokio::test]
    async fn what_is_read_comes_at_once_and_ends_with_its_error() {
        let odd = [
            Ok(b"a\0".to_vec()),
            Err(ErrorKind::Interrupted.into()),
            Err(ErrorKind::WouldBlock.into()),
            Ok(b"\xff\n".to_vec()),
            Err(ErrorKind::IsADirectory.into()),
        ];
        let mut pieces = pieces(Odd(odd.into()));
        assert_eq!(&pieces.recv().await.unwrap().unwrap()[..], b"a\0");
        assert_eq!(&pieces.recv().await.unwrap().unwrap()[..], b"\xff\n");
        assert_eq!(pieces.recv().await.unwrap().unwrap_err().kind(), ErrorKind::IsADirectory);
        assert!(pieces.recv().await.is_none());
    }

    #[derive(Clone, Default)]
    struct Little(Arc<Mutex<Vec<u8>>>, usize);

    impl Write for Little {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let mut all = self.0.lock().unwrap();
            if all.len() + 2 > self.1 {
                return Err(ErrorKind::BrokenPipe.into());
            }
            let len = buf.len().min(2);
            all.extend_from_slice(&buf[..len]);
            Ok(len)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_written_is_there_at_the_end_or_says_why_not() {
        let little = Little(Arc::default(), 100);
        let mut output = Output::to(little.clone());
        for piece in ["abc", "defgh"] {
            output.write(piece.into()).await.unwrap();
        }
        output.finish().await.unwrap();
        assert_eq!(*little.0.lock().unwrap(), b"abcdefgh");
        let mut output = Output::to(Little(Arc::default(), 4));
        output.write("abcdef".into()).await.unwrap();
        assert_eq!(output.finish().await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}
