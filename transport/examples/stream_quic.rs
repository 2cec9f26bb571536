//! One stream against raw quinn, both in this run, over loopback with the same windows: 64 KiB writes, one way. Each side has a
//! runtime of its own, as two processes would.
//! The ratios count, the absolute figures are this machine's.
//!
//! ```text
//! cargo run --release -p meshwire-transport --example stream_quic
//! cargo run --release -p meshwire-transport --example stream_quic -- 1000
//! cargo run --release -p meshwire-transport --example stream_quic -- stream
//! ```
//!
//! With a number: so many streams of 1 MiB at once over one connection, and how fair that is. With `raw`, `ice` or
//! `stream`: that column alone, for a profiler.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and may fail")]

use std::collections::HashMap;
use std::sync::Arc;

use meshwire_signaling::stream::{Ends, Fresh, Secret};
use meshwire_signaling::{MeshId, PublicKey, StreamId};
use meshwire_transport::net::OsNet;
use meshwire_transport::quic::bare::BareEnd;
use meshwire_transport::quic::interfaces::FixedInterfaces;
use meshwire_transport::quic::{Accepted, Attempt, Config, Dial, QuicConn, QuicNode, Role};
use meshwire_transport::stream::{Budget, Live, Stream, Windows};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::Instant;

/// Bytes of the application's writes and reads.
const WRITE: usize = 64 << 10;
/// Bytes per measurement.
const ALL: usize = 1 << 30;
const ROUNDS: usize = 5;

/// The other side: a runtime of its own, as a process of its own would have.
#[derive(Clone)]
struct Far(Handle);

impl Far {
    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.0.spawn(work).await.unwrap()
    }
}

async fn node() -> QuicNode {
    let interfaces = Arc::new(FixedInterfaces::new([]));
    QuicNode::start(Arc::new(OsNet), Config::new(interfaces)).await.unwrap()
}

async fn nodes(there: &Far) -> (QuicNode, Arc<QuicNode>) {
    (node().await, Arc::new(there.run(node()).await))
}

async fn connect(a: &QuicNode, b: &Arc<QuicNode>, there: &Far) -> (QuicConn, QuicConn) {
    let dial = |role| Dial { loopback: true, ..Dial::new(role) };
    let mut left: Attempt = a.dial(dial(Role::Controlling)).unwrap();
    let node = Arc::clone(b);
    let mut right: Attempt =
        there.run(async move { node.dial(dial(Role::Controlled)).unwrap() }).await;
    left.handle().set_remote(right.local().clone()).await.unwrap();
    right.handle().set_remote(left.local().clone()).await.unwrap();
    let (left, right) = tokio::join!(left.connected(), right.connected());
    (left.unwrap(), right.unwrap())
}

/// Plain quinn with the windows, the congestion control and the socket buffers of a node.
async fn raw(there: &Far) -> (quinn::Connection, quinn::Connection, [Arc<BareEnd>; 2]) {
    let near = Arc::new(BareEnd::start(&OsNet).unwrap());
    let far = Arc::new(there.run(async { BareEnd::start(&OsNet).unwrap() }).await);
    far.listen(near.fingerprint()).unwrap();
    let accepts = Arc::clone(&far);
    let accepting = there.run(async move { accepts.accept().await.unwrap() });
    let (a, b) = tokio::join!(near.connect(far.addr(), far.fingerprint()), accepting);
    (a.unwrap(), b, [near, far])
}

/// Bytes per second from one to the other.
async fn bulk(
    mut write: impl AsyncWrite + Unpin,
    mut read: impl AsyncRead + Unpin + Send + 'static,
    there: &Far,
) -> f64 {
    let reading = there.0.spawn(async move {
        let (mut got, mut buf) = (0, vec![0; WRITE]);
        loop {
            match read.read(&mut buf).await.unwrap() {
                0 => return (got, read),
                n => got += n,
            }
        }
    });
    let block = vec![7; WRITE];
    let before = Instant::now();
    for _ in 0..ALL / WRITE {
        write.write_all(&block).await.unwrap();
    }
    write.shutdown().await.unwrap();
    let (got, _read) = reading.await.unwrap();
    assert_eq!(got, ALL);
    ALL as f64 / before.elapsed().as_secs_f64() / 1e6
}

/// Both sides of a stream: opener, acceptor.
fn pair(n: u32, windows: Windows, budgets: &[Budget; 2], there: &Far) -> (Live, Live) {
    let [opener, acceptor] = [[2; 32], [3; 32]].map(PublicKey);
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    let ends = Ends { mesh: MeshId([1; 32]), stream: StreamId(id), opener, acceptor };
    let now = Instant::now();
    let secret = Secret::new([7; 32]);
    let (a, open) = Stream::open(secret, "bench", ends, &windows, &budgets[0], now).unwrap();
    let b = Stream::accept(&open, ends, Fresh([8; 32]), &windows, &budgets[1], now).unwrap();
    let a = Live::start(a);
    let _there = there.0.enter();
    (a, Live::start(b))
}

fn budgets() -> [Budget; 2] {
    [(); 2].map(|()| Budget::new(256 << 20))
}

/// Many streams at once.
async fn many(streams: u32, there: &Far) {
    const EACH: u64 = 1 << 20;
    let nodes = nodes(there).await;
    let (near, far) = connect(&nodes.0, &nodes.1, there).await;
    let budgets = budgets();
    // As much for each as there may be of them.
    let windows = Windows { initial: 64 << 10, ..Windows::default() };
    let pairs: Vec<_> = (0..streams).map(|n| pair(n, windows, &budgets, there)).collect();
    let known: HashMap<StreamId, Live> = pairs.iter().map(|(a, _)| (a.id(), a.clone())).collect();
    tokio::spawn(async move { near.serve_streams(|id| known.get(id).cloned()).await });
    let before = Instant::now();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut carried = Vec::new();
    for (a, b) in &pairs {
        carried.push({
            let _there = there.0.enter();
            far.carry(b)
        });
        let (_back, mut write) = a.halves().unwrap();
        let (mut read, mut forth) = b.halves().unwrap();
        tokio::spawn(async move {
            write.write_all(&vec![7; 1 << 20]).await.unwrap();
            write.finish();
            write.finished().await.unwrap();
            drop(_back);
        });
        let tell = tell.clone();
        there.0.spawn(async move {
            forth.finish();
            let mut buf = vec![0; WRITE];
            while read.read(&mut buf).await.unwrap() > 0 {}
            tell.send(Instant::now()).unwrap();
        });
    }
    drop(tell);
    let first = told.recv().await.unwrap();
    let progress: Vec<u64> = pairs.iter().map(|(_, b)| b.counters().received).collect();
    let mut last = first;
    while let Some(at) = told.recv().await {
        last = at;
    }
    let [least, most] = [progress.iter().min().unwrap(), progress.iter().max().unwrap()];
    let mean = progress.iter().sum::<u64>() / u64::from(streams);
    let used = budgets.each_ref().map(Budget::used);
    println!(
        "{streams} streams of {EACH} bytes: the first after {:?}, the last after {:?}; when the first was \
         done the others had {least} to {most} bytes, {mean} on average; budgets {used:?}",
        first - before,
        last - before
    );
}

/// A stream of ours over the connection.
async fn stream(near: &QuicConn, far: &QuicConn, there: &Far) -> f64 {
    let (a, b) = pair(0, Windows::default(), &budgets(), there);
    let known = a.clone();
    let near = near.clone();
    let serving = tokio::spawn(async move { near.serve_streams(|_| Some(known.clone())).await })
        .abort_handle();
    let _carried = {
        let _there = there.0.enter();
        far.carry(&b)
    };
    let (_read, write) = a.halves().unwrap();
    let (read, _write) = b.halves().unwrap();
    a.accepted().await.unwrap();
    let rate = bulk(write, read, there).await;
    serving.abort();
    rate
}

/// A QUIC stream of a node's connection, with nothing of streams.
async fn plain(near: &QuicConn, far: &QuicConn, there: &Far) -> f64 {
    let (mut send, _recv) = near.open_bi().await.unwrap();
    send.write_all(&[9]).await.unwrap();
    let Accepted::Other(9, _send, recv) = far.accept().await.unwrap() else { panic!("other") };
    bulk(send, recv, there).await
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn main() {
    let word = std::env::args().nth(1);
    let (here, far) = (runtime(), runtime());
    let there = Far(far.handle().clone());
    // On a worker, as the tasks of a program are; this thread would be one more on two cores.
    let all = here.spawn(async move {
        match word.as_deref() {
            None => compare(&there).await,
            Some("raw") => alone(Column::Raw, &there).await,
            Some("ice") => alone(Column::Ice, &there).await,
            Some("stream") => alone(Column::Stream, &there).await,
            Some(streams) => many(streams.parse().unwrap(), &there).await,
        }
    });
    here.block_on(all).unwrap();
}

#[derive(Clone, Copy)]
enum Column {
    Raw,
    Ice,
    Stream,
}

async fn measure(column: Column, there: &Far) -> f64 {
    if let Column::Raw = column {
        let (a, b, _ends) = raw(there).await;
        let (mut send, _recv) = a.open_bi().await.unwrap();
        send.write_all(&[9]).await.unwrap();
        let (_send, mut recv) = b.accept_bi().await.unwrap();
        recv.read_exact(&mut [0]).await.unwrap();
        return bulk(send, recv, there).await;
    }
    let nodes = nodes(there).await;
    let (near, far) = connect(&nodes.0, &nodes.1, there).await;
    match column {
        Column::Stream => stream(&near, &far, there).await,
        _ => plain(&near, &far, there).await,
    }
}

async fn alone(column: Column, there: &Far) {
    for _ in 0..ROUNDS {
        println!("{:.0} MB/s", measure(column, there).await);
    }
}

async fn compare(there: &Far) {
    println!("| raw quinn | quinn over ICE | stream | stream / raw | stream / over ICE |");
    println!("|---|---|---|---|---|");
    for _ in 0..ROUNDS {
        let raw = measure(Column::Raw, there).await;
        let ice = measure(Column::Ice, there).await;
        let ours = measure(Column::Stream, there).await;
        println!(
            "| {raw:.0} MB/s | {ice:.0} MB/s | {ours:.0} MB/s | {:.2} | {:.2} |",
            ours / raw,
            ours / ice
        );
    }
}
