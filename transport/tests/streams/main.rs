//! Streams over QUIC connections on loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../quic/common.rs"]
mod common;
mod hostile;
mod moving;
mod place;
mod priority;

use meshwire_transport::stream::{StreamError, Windows};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use place::{LONG, Place, bytes, through};

/// On two threads: quinn drops what was acknowledged under its own lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_go_both_ways() {
    let place = Place::default();
    let (a, b, _way, carried) = place.stream().await;
    let (up, down) = (bytes(9 << 20, 1), bytes(5 << 20, 2));
    tokio::join!(through(a.write, b.read, &up), through(b.write, a.read, &down));
    timeout(LONG, async { tokio::join!(a.live.over(), b.live.over()) }).await.unwrap();
    timeout(LONG, carried.ended()).await.unwrap();
    assert!(carried.is_ended());
    for live in [&a.live, &b.live] {
        let counters = live.counters();
        assert_eq!((counters.resent, counters.forged, live.error()), (0, 0, None));
    }
}

#[tokio::test]
async fn two_streams_do_not_mix() {
    let place = Place::default();
    let way = place.connect().await;
    let pairs = [(); 2].map(|()| place.pair(&Windows::default()));
    let _carried = pairs.each_ref().map(|(_, b)| way.far.carry(&b.live));
    let [(a, b), (c, d)] = pairs;
    let (one, other) = (bytes(3 << 20, 3), bytes(3 << 20, 4));
    tokio::join!(through(a.write, b.read, &one), through(c.write, d.read, &other));
}

/// As two meshes that the same two nodes are in have it: one pair of sockets, two connections, both busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_connections_between_the_same_nodes_do_not_hinder_each_other() {
    let place = Place::default();
    let nodes = [common::node().await, common::node().await];
    let mut through_each = Vec::new();
    for seed in [5, 6] {
        let (near, far) = common::connect(&nodes[0], &nodes[1]).await;
        let (near, far) = (near.unwrap(), far.unwrap());
        let (a, b) = place.pair(&Windows::default());
        let serving = place.serve(&near);
        through_each.push(async move {
            let carried = far.carry(&b.live);
            through(a.write, b.read, &bytes(9 << 20, seed)).await;
            drop((carried, near, a.read, b.write));
            serving.abort();
        });
    }
    futures_util::future::join_all(through_each).await;
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let place = Place::default();
    let way = place.connect().await;
    let mut pairs = Vec::new();
    for _ in 0..60 {
        let (a, b) = place.pair(&Windows::default());
        let carried = way.far.carry(&b.live);
        pairs.push((a, b, carried));
    }
    let all = pairs.into_iter().zip(0..).map(|((a, b, carried), n)| async move {
        through(a.write, b.read, &bytes(100_000, n)).await;
        drop((a.read, b.write, carried));
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test]
async fn small_writes_arrive_at_once() {
    let place = Place::default();
    let (mut a, mut b, _way, _carried) = place.stream().await;
    timeout(LONG, async {
        for n in 0..100_u8 {
            a.write.write_all(&[n; 10]).await.unwrap();
            let mut there = [0; 10];
            b.read.read_exact(&mut there).await.unwrap();
            b.write.write_all(&there).await.unwrap();
            let mut back = [0; 10];
            a.read.read_exact(&mut back).await.unwrap();
            assert_eq!(back, [n; 10]);
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_slow_reader_holds_its_sender_to_the_window() {
    let place = Place::default();
    let (mut a, mut b, _way, _carried) = place.stream().await;
    let data = bytes(8 << 20, 5);
    let written = data.clone();
    let writing = tokio::spawn(async move {
        a.write.write_all(&written).await.unwrap();
        a.write.finish();
        a.write.finished().await.unwrap();
    });
    // Until it has no more to say.
    let mut before = 0;
    loop {
        let held = b.live.counters().held[1];
        if held > 200_000 && held == before {
            break;
        }
        before = held;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let window = Windows::default().initial;
    let (sender, reader) = (a.live.counters(), b.live.counters());
    assert!(reader.held[1] <= window && reader.beyond_limit == 0, "{reader:?}");
    assert!(sender.sent <= window, "{sender:?}");
    let mut got = vec![0; data.len()];
    timeout(LONG, b.read.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == data);
    timeout(LONG, writing).await.unwrap().unwrap();
}

#[tokio::test]
async fn ends_and_resets_have_their_words() {
    let place = Place::default();
    let (a, mut b, _way, _carried) = place.stream().await;
    timeout(LONG, a.live.accepted()).await.unwrap().unwrap();
    a.write.reset(300, "enough");
    let failed = timeout(LONG, b.read.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(failed.kind(), std::io::ErrorKind::ConnectionReset);
    let inner = failed.get_ref().unwrap().downcast_ref::<StreamError>().unwrap();
    assert_eq!(*inner, StreamError::Reset { code: 300, reason: "enough".into() });
    // The other side answers for ten seconds more.
    timeout(LONG, a.live.over()).await.unwrap();
}
