//! Connecting, and not connecting.

use meshwire_transport::quic::{Accepted, PairKind};

use crate::common::{connect, node};

#[tokio::test]
async fn two_nodes_connect_over_loopback_and_carry_a_stream() {
    let (a, b) = (node().await, node().await);
    let (left, right) = connect(&a, &b).await;
    let (left, right) = (left.unwrap(), right.unwrap());
    assert_eq!((left.peer(), right.peer()), (b.tls_fingerprint(), a.tls_fingerprint()));
    let (mut send, mut recv) = left.open_bi().await.unwrap();
    send.write_all(b"\x09hello").await.unwrap();
    send.finish().unwrap();
    let Accepted::Other(9, mut back, mut there) = right.accept().await.unwrap() else {
        panic!("another stream")
    };
    assert_eq!(there.read_to_end(100).await.unwrap(), b"hello");
    back.write_all(b"good day").await.unwrap();
    back.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"good day");
    for conn in [&left, &right] {
        let pair = conn.stats().pair.unwrap();
        assert!(pair.is_direct() && pair.kind == PairKind::Host, "{pair:?}");
        assert!(pair.remote.ip().is_loopback());
    }
}
