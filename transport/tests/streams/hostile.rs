//! What a peer does with the QUIC stream of a stream.

use std::time::Duration;

use meshwire_signaling::stream::{MAX_RECORD, OVERHEAD};
use meshwire_transport::quic::{Accepted, QuicConn};
use meshwire_transport::stream::Windows;
use quinn::{ReadError, VarInt};
use tokio::time::timeout;

use crate::common::{connect, node};
use crate::place::{LONG, Place, Side, bytes, through};

/// Opens the QUIC stream of `side` as the peer would, and says `bytes`; what the other side answers.
async fn say(conn: &QuicConn, side: &Side, bytes: &[u8]) -> (quinn::SendStream, quinn::RecvStream) {
    let (mut send, recv) = conn.open_bi().await.unwrap();
    send.write_all(&[&[2], &side.live.id().0[..], bytes].concat()).await.unwrap();
    (send, recv)
}

#[tokio::test]
async fn garbage_changes_nothing() {
    let place = Place::default();
    let (a, b) = place.pair(&Windows::default());
    let way = place.connect().await;
    let record = |len: usize, fill: u8| {
        [&u16::try_from(len).unwrap().to_be_bytes()[..], &vec![fill; len]].concat()
    };
    // Records of every length that could be one, and are none; then a length that is none.
    let lengths = [OVERHEAD, 100, 2000, MAX_RECORD / 2, MAX_RECORD];
    let mut garbage: Vec<u8> = lengths.into_iter().flat_map(|len| record(len, 1)).collect();
    garbage.extend_from_slice(&[0, 43]);
    let (send, mut recv) = say(&way.far, &a, &garbage).await;
    assert_eq!(timeout(LONG, send.stopped()).await.unwrap().unwrap(), Some(VarInt::from_u32(2)));
    let _ = timeout(LONG, recv.read_to_end(1 << 20)).await.unwrap();
    assert_eq!(a.live.counters().forged, 5);
    drop((send, recv));
    // One that stops in the middle of a record, and ones that say nothing.
    let (mut send, recv) = say(&way.far, &a, &garbage[..70]).await;
    send.finish().unwrap();
    drop((send, recv));
    let (_send, mut replaced) = say(&way.far, &a, &[]).await;
    let _silent = say(&way.far, &a, &[]).await;
    // Each takes the place of the one before: however many there were, they would be all the links of the stream.
    let _ = timeout(LONG, replaced.read_to_end(1 << 20)).await.unwrap();
    let _carried = way.far.carry(&b.live);
    let data = bytes(2 << 20, 11);
    through(a.write, b.read, &data).await;
}

/// What is not read waits in the node: of a peer without streams little may.
#[tokio::test]
async fn a_connection_without_streams_takes_little() {
    const LITTLE: u64 = 4 << 20;
    let place = Place::default();
    let (_a, b) = place.pair(&Windows::default());
    let way = place.connect().await;
    let (mut send, _recv) = way.near.open_bi().await.unwrap();
    let writing = tokio::spawn(async move {
        send.write_all(&[9]).await.unwrap();
        send.write_all(&vec![7; 12 << 20]).await.unwrap();
        send
    });
    let sent = async |least: u64| {
        while way.near.stats().sent_bytes < least {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, sent(LITTLE)).await.unwrap();
    // It may send no more; how long nothing is to be seen of that does not matter.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(way.near.stats().sent_bytes < LITTLE + LITTLE / 4);
    let carried = way.far.carry(&b.live);
    timeout(LONG, sent(12 << 20)).await.unwrap();
    drop((carried, writing.await.unwrap()));
}

#[tokio::test]
async fn an_unknown_stream_is_reset() {
    let place = Place::default();
    let way = place.connect().await;
    let (a, _b) = crate::place::pair(&Windows::default());
    let (send, mut recv) = say(&way.far, &a, b"whatever").await;
    let reset = timeout(LONG, recv.read(&mut [0])).await.unwrap();
    assert_eq!(reset, Err(ReadError::Reset(VarInt::from_u32(1))));
    let _ = timeout(LONG, send.stopped()).await.unwrap();
}

#[tokio::test]
async fn whoever_accepts_a_connection_sees_which_stream_it_is() {
    let (x, y) = (node().await, node().await);
    let (near, far) = connect(&x, &y).await;
    let (near, far) = (near.unwrap(), far.unwrap());
    let (a, b) = crate::place::pair(&Windows::default());
    let carried = far.carry(&b.live);
    let Accepted::Records(offered) = near.accept().await.unwrap() else { panic!("another stream") };
    assert_eq!(offered.id(), a.live.id());
    let accepted = offered.accept(&a.live);
    let data = bytes(300_000, 12);
    through(b.write, a.read, &data).await;
    drop(accepted);
    timeout(LONG, carried.ended()).await.unwrap();
}
