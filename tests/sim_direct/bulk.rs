//! A stream of bytes from ana to bob, while things happen to their paths.

use std::fmt;
use std::time::Duration;

use meshwire_peer::api;
use meshwire_peer::node::{PeerStream, StreamHandle};
use meshwire_transport::stream::{ReadHalf, WriteHalf};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::town::{Town, within};

/// What is written at once.
const PIECE: usize = 64 << 10;

/// What is written, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pour {
    /// At least so many bytes; and more until the script is over.
    pub(crate) bytes: u64,
    /// Between two pieces of 64 KiB.
    pub(crate) every: Duration,
}

/// How it went. A stream whose bytes differ, are not all there or come twice has panicked already.
#[derive(Debug)]
pub(crate) struct Poured {
    /// The longest time in which nothing came.
    pub(crate) gap: Duration,
}

/// Both ends, as a script sees them.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) ana: StreamHandle,
    pub(crate) bob: StreamHandle,
}

impl Ends {
    /// Waits until bob has so many bytes more than now.
    pub(crate) async fn moves(&self, bytes: u64) {
        let until = self.bob.stats().received + bytes;
        within("bytes", async {
            while self.bob.stats().received < until {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// Waits until both ends say this of what their bytes go over.
    pub(crate) async fn go(&self, over: Option<meshwire_transport::link::PathKind>) {
        for end in [&self.ana, &self.bob] {
            let mut paths = end.paths();
            let found = within("a path", paths.wait_for(|now| *now == over)).await;
            assert!(found.is_ok(), "{end:?} is over: {:?}", end.error());
        }
    }
}

/// What one side has of the bytes.
struct Sum {
    hash: [u8; 32],
    bytes: u64,
}

impl PartialEq for Sum {
    fn eq(&self, other: &Self) -> bool {
        (self.hash, self.bytes) == (other.hash, other.bytes)
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {}", self.bytes, hex::encode(self.hash))
    }
}

impl Town {
    /// Both ends of a stream from ana to bob.
    pub(crate) async fn stream(&self, name: &str) -> (PeerStream, PeerStream) {
        let (ana, bob) = (self.node("ana").node().unwrap(), self.node("bob").node().unwrap());
        let ask = api::OpenStream {
            to: "bob".to_owned(),
            name: name.to_owned(),
            ..api::OpenStream::default()
        };
        let from =
            api::AcceptStream { name: Some(name.to_owned()), ..api::AcceptStream::default() };
        let both = async { tokio::try_join!(ana.open_stream(ask), bob.accept_stream(from)) };
        within("a stream", both).await.unwrap()
    }

    /// Pours bytes from ana to bob while `script` plays. All of them must come, once and in order.
    pub(crate) async fn pour(
        &mut self,
        pour: Pour,
        script: impl AsyncFnOnce(&mut Self, &Ends),
    ) -> Poured {
        let (a, b) = self.stream("bulk").await;
        let ends = Ends { ana: a.handle(), bob: b.handle() };
        let (_back, to_bob) = a.split();
        let (from_ann, mut back) = b.split();
        back.finish();
        let (over, ends_now) = watch::channel(false);
        let writing = tokio::spawn(write(to_bob, pour, ends_now));
        let reading = tokio::spawn(read(from_ann));
        script(self, &ends).await;
        over.send_replace(true);
        // However much is left: as long as it moves.
        let (written, came) = async {
            let mut both = std::pin::pin!(async { tokio::join!(writing, reading) });
            loop {
                let before = ends.bob.stats().received;
                match timeout(Duration::from_secs(120), both.as_mut()).await {
                    Ok((written, came)) => return (written.unwrap(), came.unwrap()),
                    Err(_) if ends.bob.stats().received > before => {}
                    Err(_) => panic!("stands still\n{:?}\n{}", ends, self.story().await),
                }
            }
        }
        .await;
        let (came, gap) = match came {
            Ok(came) => came,
            Err(e) => panic!("bob reads: {e}\n{}", self.story().await),
        };
        match written {
            Ok(written) => assert_eq!(came, written, "{}", self.story().await),
            Err(e) => panic!("ana writes: {e}\n{}", self.story().await),
        }
        Poured { gap }
    }
}

async fn write(
    mut half: WriteHalf,
    pour: Pour,
    over: watch::Receiver<bool>,
) -> std::io::Result<Sum> {
    let mut dice = ChaCha8Rng::seed_from_u64(pour.bytes);
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
    let mut at = Instant::now();
    while bytes < pour.bytes || !*over.borrow() {
        dice.fill_bytes(&mut piece);
        half.write_all(&piece).await?;
        hash.update(&piece);
        bytes += PIECE as u64;
        at = (at + pour.every).max(Instant::now());
        sleep_until(at).await;
    }
    half.shutdown().await?;
    half.finished().await.map_err(std::io::Error::other)?;
    Ok(Sum { hash: hash.finalize().into(), bytes })
}

async fn read(mut half: ReadHalf) -> std::io::Result<(Sum, Duration)> {
    let (mut hash, mut bytes, mut gap) = (Sha256::new(), 0, Duration::ZERO);
    let mut some = vec![0; PIECE];
    let mut last = Instant::now();
    loop {
        let n = half.read(&mut some).await?;
        if n == 0 {
            return Ok((Sum { hash: hash.finalize().into(), bytes }, gap));
        }
        gap = gap.max(last.elapsed());
        last = Instant::now();
        hash.update(&some[..n]);
        bytes += n as u64;
    }
}
