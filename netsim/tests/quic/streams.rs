//! A stream over a path of 40 ms, in virtual time: it goes through whatever is lost, and fills the path.

use std::net::IpAddr;
use std::time::Duration;

use meshwire_netsim::link::{Loss, Rate};
use meshwire_netsim::simnet::run;
use meshwire_netsim::{Chance, Change, Direction, LinkConfig, Preset};
use meshwire_signaling::stream::{Ends, Fresh, Secret};
use meshwire_signaling::{MeshId, PublicKey, StreamId};
use meshwire_transport::quic::Accepted;
use meshwire_transport::stream::{Budget, Live, Stream, Windows};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use crate::place::{Place, meet};

/// Both sides of a stream whose receiving windows have `initial` bytes at first: opener, acceptor.
fn pair(initial: u64) -> (Live, Live) {
    let [opener, acceptor] = [[2; 32], [3; 32]].map(PublicKey);
    let ends = Ends { mesh: MeshId([1; 32]), stream: StreamId([4; 16]), opener, acceptor };
    let windows = Windows { initial, ..Windows::default() };
    let (budget, now) = (Budget::new(256 << 20), Instant::now());
    let secret = Secret::new([5; 32]);
    let (a, open) = Stream::open(secret, "test", ends, &windows, &budget, now).unwrap();
    let b = Stream::accept(&open, ends, Fresh([8; 32]), &windows, &budget, now).unwrap();
    (Live::start(a), Live::start(b))
}

/// What carries the bytes.
#[derive(Clone, Copy)]
enum By {
    /// A stream.
    Stream,
    /// A stream that has the largest window at once.
    Wide,
    /// A QUIC stream of a connection that carries a stream, too, which says nothing.
    Quic,
}

/// Megabytes per second of virtual time: of `bytes` from one home to the other, and of the second half of them.
fn rate(by: By, seed: u64, bytes: usize, config: LinkConfig) -> (f64, f64) {
    run(seed, async |stage| {
        let place = Place::new(stage, [Preset::PortRestricted; 2], IpAddr::is_ipv4).await;
        for home in &place.homes {
            let config = LinkConfig { latency: Duration::from_millis(10), ..config };
            let change = Change::Link { iface: home.uplink, direction: Direction::Both, config };
            place.sim.control(change).unwrap();
        }
        let [one, other] = &place.peers;
        let (near, far) = meet(&one.node, &other.node).await;
        let content: Vec<u8> = (0..bytes).map(|i| u8::try_from(i * 13 % 251).unwrap()).collect();
        let known = Windows::default();
        let (a, b) = pair(if matches!(by, By::Wide) { known.max } else { known.initial });
        let (served, known) = (near.clone(), a.clone());
        let plain = async {
            let (mut send, back) = near.open_bi().await.unwrap();
            send.write_all(&[9]).await.unwrap();
            let Accepted::Other(9, forth, recv) = far.accept().await.unwrap() else {
                panic!("another stream")
            };
            ((back, send), (recv, forth))
        };
        let quic = match by {
            By::Quic => Some(plain.await),
            By::Stream | By::Wide => None,
        };
        tokio::spawn(async move { served.serve_streams(|_| Some(known.clone())).await });
        let carried = far.carry(&b);
        a.accepted().await.unwrap();
        let took = if let Some(((_back, send), (recv, _forth))) = quic {
            through(send, recv, &content).await
        } else {
            let ((_back, write), (read, _forth)) = (a.halves().unwrap(), b.halves().unwrap());
            through(write, read, &content).await
        };
        assert!(!carried.is_ended(), "the connection went on");
        let counters = a.counters();
        assert_eq!((counters.resent, b.counters().forged), (0, 0), "QUIC did it alone");
        let megabytes = f64::from(u32::try_from(bytes).unwrap()) / 1e6;
        let [all, half] = took.map(|t| t.as_secs_f64());
        (megabytes / all, megabytes / 2.0 / half)
    })
}

/// Moves `content`; how long that took, and how long its second half did.
async fn through(
    mut write: impl AsyncWrite + Unpin,
    mut read: impl AsyncRead + Unpin,
    content: &[u8],
) -> [Duration; 2] {
    let began = Instant::now();
    let writing = async {
        write.write_all(content).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let reading = async {
        let mut got = vec![0; content.len()];
        let (first, second) = got.split_at_mut(content.len() / 2);
        read.read_exact(first).await.unwrap();
        let half = Instant::now();
        read.read_exact(second).await.unwrap();
        assert_eq!(read.read(&mut [0]).await.unwrap(), 0);
        assert!(got == content);
        [began.elapsed(), half.elapsed()]
    };
    let both = async { tokio::join!(writing, reading) };
    timeout(Duration::from_secs(600), both).await.unwrap().1
}

/// What a stream makes of a path; prints it.
#[expect(clippy::print_stdout, reason = "figures for whoever looks")]
fn alone(name: &str, seed: u64, bytes: usize, config: LinkConfig) -> (f64, f64) {
    let (all, half) = rate(By::Stream, seed, bytes, config);
    println!("{name}: {all:.1} MB/s, second half {half:.1} MB/s");
    (all, half)
}

/// 20 Mbit/s with 26 ms of queue, which a stream fills in both directions.
#[test]
fn messages_are_not_stuck_behind_bulk() {
    run(6, async |stage| {
        let place = Place::new(stage, [Preset::PortRestricted; 2], IpAddr::is_ipv4).await;
        let rate = Rate { bits_per_second: 20_000_000, queue_bytes: 64 << 10 };
        for home in &place.homes {
            let mut config = LinkConfig::with_latency(Duration::from_millis(10));
            config.rate = Some(rate);
            let change = Change::Link { iface: home.uplink, direction: Direction::Up, config };
            place.sim.control(change).unwrap();
        }
        let [one, other] = &place.peers;
        let (near, far) = meet(&one.node, &other.node).await;
        let (mut send, mut recv) = near.open_bi().await.unwrap();
        // As links for messages have it.
        send.set_priority(100).unwrap();
        send.write_all(&[9]).await.unwrap();
        let Accepted::Other(9, mut back, mut forth) = far.accept().await.unwrap() else {
            panic!("another stream")
        };
        back.set_priority(100).unwrap();
        tokio::spawn(async move {
            let mut message = [0; 256];
            while forth.read_exact(&mut message).await.is_ok() {
                back.write_all(&message).await.unwrap();
            }
        });
        let (a, b) = pair(Windows::default().initial);
        let known = a.clone();
        tokio::spawn(async move { near.serve_streams(|_| Some(known.clone())).await });
        let _carried = far.carry(&b);
        for live in [&a, &b] {
            let (mut read, mut write) = live.halves().unwrap();
            tokio::spawn(async move { while write.write_all(&[7; 65_536]).await.is_ok() {} });
            tokio::spawn(async move { while read.read(&mut [0; 65_536]).await.is_ok() {} });
        }
        let mut worst = Duration::ZERO;
        for _ in 0..200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let before = Instant::now();
            send.write_all(&[3; 256]).await.unwrap();
            recv.read_exact(&mut [0; 256]).await.unwrap();
            worst = worst.max(before.elapsed());
        }
        let moved = [&a, &b].map(|live| live.counters().received);
        println!("worst round trip {worst:?}, {moved:?} bytes each way");
        // The way itself, both queues, and a message that was lost once.
        assert!(worst < Duration::from_millis(400), "{worst:?}");
        assert!(moved.iter().all(|bytes| *bytes > 8_000_000), "{moved:?}");
    });
}

fn lossy(percent: f64) -> Loss {
    Loss::Independent(Chance::new(percent / 100.0).unwrap())
}

#[test]
fn without_a_limit_its_windows_do_not_hold_it() {
    let (_, half) = alone("no loss, no limit", 1, 48 << 20, LinkConfig::default());
    // Sockets overflow in slow start; from then on it is QUIC's congestion control that counts.
    assert!(half > 30.0, "{half} MB/s");
}

#[test]
fn a_gigabit_is_filled() {
    let queue = Rate { bits_per_second: 1_000_000_000, queue_bytes: 2 << 20 };
    let config = LinkConfig { rate: Some(queue), ..LinkConfig::default() };
    // A QUIC stream alone of as large a window fails here: its losses make more gaps than quinn puts up with.
    let (_, half) = alone("1 Gbit/s, 2 MiB of queue", 2, 48 << 20, config);
    assert!(half > 60.0, "{half} MB/s");
}

/// What loss costs is QUIC's congestion control's to say; records add little. Which packet is lost when decides about a
/// single run, so these are means of several.
///
/// By itself the window adds more, at 1 % of loss most: it grows by what is read within three round trips, and where a
/// packet of nearly each window is lost, reading waits a round trip longer for it. With the largest window from the
/// beginning there is nothing to grow. At 5 % QUIC itself is slower than any window.
#[test]
fn loss_costs_what_it_costs_quic() {
    const BYTES: usize = 16 << 20;
    for percent in [0.1, 1.0, 5.0] {
        let config = LinkConfig { loss: lossy(percent / 2.0), ..LinkConfig::default() };
        let mean = |by| {
            let took: f64 = (10..13).map(|seed| 1.0 / rate(by, seed, BYTES, config).0).sum();
            3.0 / took
        };
        let [ours, wide, plain] = [By::Stream, By::Wide, By::Quic].map(mean);
        let name = format!("{percent} % of loss");
        println!("{name}: {ours:.2} MB/s, of a wide window {wide:.2}, QUIC alone {plain:.2}");
        assert!(wide >= plain / 2.0, "{name}: {wide} MB/s, QUIC alone {plain} MB/s");
        assert!(ours >= plain / 2.0, "{name}: {ours} MB/s, QUIC alone {plain} MB/s");
    }
}
