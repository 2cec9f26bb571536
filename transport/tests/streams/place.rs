//! Two sides of streams, and connections between them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshwire_signaling::stream::{Ends, Fresh, Open, Secret};
use meshwire_signaling::{Hash, MeshId, PublicKey, StreamId};
use meshwire_transport::quic::{Carried, QuicConn, QuicNode};
use meshwire_transport::stream::{Budget, Live, ReadHalf, Stream, StreamError, Windows, WriteHalf};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::common::{connect, node};

/// Far longer than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// One side of a stream.
pub(crate) struct Side {
    pub(crate) live: Live,
    pub(crate) read: ReadHalf,
    pub(crate) write: WriteHalf,
}

pub(crate) fn side(stream: Stream) -> Side {
    let live = Live::start(stream);
    let (read, write) = live.halves().unwrap();
    assert!(live.halves().is_none());
    Side { live, read, write }
}

pub(crate) fn ends(id: u8) -> Ends {
    let [opener, acceptor] = [[2; 32], [3; 32]].map(PublicKey);
    Ends { mesh: MeshId([1; 32]), stream: StreamId([id; 16]), opener, acceptor }
}

/// The opener's side and what the acceptor hears of it.
pub(crate) fn open(windows: &Windows) -> (Side, Open) {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    let (secret, budget) = (Secret::new([id; 32]), Budget::new(256 << 20));
    let (stream, open) =
        Stream::open(secret, "test", ends(id), windows, &budget, Instant::now()).unwrap();
    (side(stream), open)
}

pub(crate) fn accept(open: &Open, windows: &Windows) -> Side {
    let (id, budget) = (open.stream.0[0], Budget::new(256 << 20));
    side(Stream::accept(open, ends(id), Fresh([8; 32]), windows, &budget, Instant::now()).unwrap())
}

/// Both sides of a stream: opener, acceptor.
pub(crate) fn pair(windows: &Windows) -> (Side, Side) {
    let (a, open) = open(windows);
    let b = accept(&open, windows);
    (a, b)
}

/// Whoever opens streams and whoever accepts them.
#[derive(Default)]
pub(crate) struct Place {
    known: Arc<Mutex<HashMap<StreamId, Live>>>,
}

/// One connection, at both ends, with the opener's end being served.
pub(crate) struct Way {
    /// A pair of nodes has one connection at a time.
    _nodes: [QuicNode; 2],
    pub(crate) near: QuicConn,
    pub(crate) far: QuicConn,
    pub(crate) serving: JoinHandle<()>,
}

impl Place {
    pub(crate) fn know(&self, side: &Side) {
        self.known.lock().unwrap().insert(side.live.id(), side.live.clone());
    }

    /// A stream that the opener knows.
    pub(crate) fn pair(&self, windows: &Windows) -> (Side, Side) {
        let (a, b) = pair(windows);
        self.know(&a);
        (a, b)
    }

    pub(crate) async fn connect(&self) -> Way {
        let nodes = [node().await, node().await];
        let (near, far) = connect(&nodes[0], &nodes[1]).await;
        let (near, far) = (near.unwrap(), far.unwrap());
        let serving = self.serve(&near);
        Way { _nodes: nodes, near, far, serving }
    }

    /// Serves the streams that are known, over the opener's end of a connection.
    pub(crate) fn serve(&self, near: &QuicConn) -> JoinHandle<()> {
        let (conn, known) = (near.clone(), Arc::clone(&self.known));
        tokio::spawn(async move {
            conn.serve_streams(|id| known.lock().unwrap().get(id).cloned()).await;
        })
    }

    /// A stream over a fresh connection.
    pub(crate) async fn stream(&self) -> (Side, Side, Way, Carried) {
        let (a, b) = self.pair(&Windows::default());
        let way = self.connect().await;
        let carried = way.far.carry(&b.live);
        (a, b, way, carried)
    }
}

/// `n` bytes that differ with `seed` everywhere.
pub(crate) fn bytes(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| u8::try_from((i * 31 + (i >> 9) * 7) % 251).unwrap() ^ seed).collect()
}

/// Writes all in pieces of odd sizes, and waits until the other side has it.
pub(crate) async fn send(mut write: WriteHalf, data: &[u8]) -> Result<(), StreamError> {
    let mut sizes = [1, 70_000, 333, 65_536, 4096, 40_000].into_iter().cycle();
    let mut rest = data;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(sizes.next().unwrap().min(rest.len()));
        write.write_all(now).await.unwrap();
        rest = later;
    }
    write.shutdown().await.unwrap();
    write.finished().await
}

/// All that comes, and its hash.
pub(crate) async fn receive(mut read: ReadHalf) -> (usize, Hash) {
    let mut all = Vec::new();
    read.read_to_end(&mut all).await.unwrap();
    (all.len(), Hash::of(&all))
}

/// All of `data` one way.
pub(crate) async fn through(from: WriteHalf, to: ReadHalf, data: &[u8]) {
    let both = async { tokio::join!(send(from, data), receive(to)) };
    let (sent, got) = timeout(LONG, both).await.unwrap();
    assert_eq!(sent, Ok(()));
    assert_eq!(got, (data.len(), Hash::of(data)));
}
