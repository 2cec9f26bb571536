//! What a peer does with the QUIC stream of a stream.

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
    let (a, b, way, _carried) = place.stream().await;
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
    // One that stops in the middle of a record, and one that says nothing.
    let (mut send, _recv) = say(&way.far, &a, &garbage[..70]).await;
    send.finish().unwrap();
    let _silent = say(&way.far, &a, &[]).await;
    let data = bytes(2 << 20, 11);
    through(a.write, b.read, &data).await;
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
