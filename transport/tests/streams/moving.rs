//! Connections come and go.

use std::io::ErrorKind;
use std::time::Duration;

use meshwire_signaling::Hash;
use meshwire_transport::stream::{StreamError, Windows};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use crate::place::{LONG, Place, bytes, send};

#[tokio::test]
async fn a_second_connection_takes_over_when_the_first_one_dies() {
    let place = Place::default();
    let (mut a, mut b, first, carried) = place.stream().await;
    let data = bytes(24 << 20, 7);
    let expected = Hash::of(&data);
    let writing = tokio::spawn(async move { send(a.write, &data).await });
    let mut got = vec![0; 24 << 20];
    let (start, rest) = got.split_at_mut(5 << 20);
    timeout(LONG, b.read.read_exact(start)).await.unwrap().unwrap();
    // Without a word to the streams.
    first.near.close("dead");
    timeout(LONG, carried.ended()).await.unwrap();
    let second = place.connect().await;
    let _carried = second.far.carry(&b.live);
    timeout(LONG, b.read.read_exact(rest)).await.unwrap().unwrap();
    assert_eq!(timeout(LONG, b.read.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert_eq!(Hash::of(&got), expected);
    b.write.shutdown().await.unwrap();
    assert_eq!(timeout(LONG, writing).await.unwrap().unwrap(), Ok(()));
    assert_eq!(a.read.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn two_connections_at_once_and_either_dies() {
    let place = Place::default();
    let (a, mut b, first, _one) = place.stream().await;
    let second = place.connect().await;
    let two = second.far.carry(&b.live);
    let data = bytes(24 << 20, 8);
    let expected = Hash::of(&data);
    let writing = tokio::spawn(async move { send(a.write, &data).await });
    let mut got = vec![0; 24 << 20];
    timeout(LONG, async {
        let (start, rest) = got.split_at_mut(4 << 20);
        b.read.read_exact(start).await.unwrap();
        // Whichever carries it: the one, then the other, with a third in between.
        first.far.close("dead");
        let (more, rest) = rest.split_at_mut(4 << 20);
        b.read.read_exact(more).await.unwrap();
        let third = place.connect().await;
        let _three = third.far.carry(&b.live);
        drop(two);
        b.read.read_exact(rest).await.unwrap();
        assert_eq!(b.read.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(writing.await.unwrap(), Ok(()));
    })
    .await
    .unwrap();
    assert_eq!(Hash::of(&got), expected);
}

/// Real sockets to begin with, then nothing but timers.
#[tokio::test]
async fn a_peer_that_vanishes_is_an_error_within_the_liveness_bound() {
    let place = Place::default();
    let (mut a, b, way, carried) = place.stream().await;
    let data = bytes(1 << 20, 9);
    a.write.write_all(&data[..200_000]).await.unwrap();
    let (mut read, write) = (b.read, b.write);
    let mut got = vec![0; 200_000];
    timeout(LONG, read.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == data[..200_000]);
    way.near.close("killed");
    timeout(LONG, carried.ended()).await.unwrap();
    timeout(LONG, way.serving).await.unwrap().unwrap();
    tokio::time::pause();
    let before = Instant::now();
    let reading = async { read.read_u8().await.unwrap_err() };
    let writing = async {
        let failed = loop {
            if let Err(failed) = a.write.write_all(&data).await {
                break failed;
            }
        };
        (failed, a.write.finished().await)
    };
    let (reading, (writing, finished)) = tokio::join!(reading, writing);
    assert!(before.elapsed() <= Duration::from_secs(61), "{:?}", before.elapsed());
    assert_eq!((reading.kind(), writing.kind()), (ErrorKind::TimedOut, ErrorKind::TimedOut));
    assert_eq!(finished, Err(StreamError::Silent));
    drop(write);
}

#[tokio::test]
async fn whom_the_peer_does_not_know_has_ten_seconds() {
    let place = Place::default();
    let (_a, mut b) = crate::place::pair(&Windows::default());
    let way = place.connect().await;
    let carried = way.far.carry(&b.live);
    timeout(LONG, carried.ended()).await.unwrap();
    tokio::time::pause();
    let before = Instant::now();
    let failed = b.read.read_u8().await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::TimedOut);
    assert!(before.elapsed() <= Duration::from_secs(11), "{:?}", before.elapsed());
}
