//! Keys are pinned both ways.

use std::time::Duration;

use meshwire_signaling::Hash;
use meshwire_transport::quic::{Description, Dial, QuicError, Role};

use crate::common::{dial, node};

/// Connects `a`, which dials, with `b`, each believing what it is told of the other's key.
async fn believing(a_believes: Option<Hash>, b_believes: Option<Hash>) -> [bool; 2] {
    let (a, b) = (node().await, node().await);
    let mut left = a.dial(dial(Role::Controlling)).unwrap();
    // Whoever refuses goes on waiting for the right one until then.
    let patience = Duration::from_secs(1);
    let mut right = b.dial(Dial { timeout: patience, ..dial(Role::Controlled) }).unwrap();
    let told = |of: &Description, tls: Option<Hash>| Description {
        tls: tls.unwrap_or(of.tls),
        ..of.clone()
    };
    left.handle().set_remote(told(right.local(), a_believes)).await.unwrap();
    right.handle().set_remote(told(left.local(), b_believes)).await.unwrap();
    // A client is done before the server has judged its key: what counts is what it can do then.
    let leaving = async {
        let conn = match left.connected().await {
            Ok(conn) => conn,
            Err(QuicError::Quic(_)) => return false,
            Err(e) => panic!("{e}"),
        };
        let (mut send, mut recv) = conn.open_bi().await.unwrap();
        let _ = send.write_all(&[9]).await;
        recv.read_to_end(10).await.is_ok()
    };
    let arriving = async {
        let Ok(conn) = right.connected().await else { return false };
        let _ = conn.accept().await;
        true
    };
    let (left, right) = tokio::join!(leaving, arriving);
    [left, right]
}

#[tokio::test]
async fn the_right_keys_connect() {
    assert!(believing(None, None).await[1]);
}

#[tokio::test]
async fn a_server_with_another_key_is_refused() {
    assert_eq!(believing(Some(Hash([7; 32])), None).await, [false, false]);
}

#[tokio::test]
async fn a_client_with_another_key_is_refused() {
    assert_eq!(believing(None, Some(Hash([7; 32]))).await, [false, false]);
}

#[tokio::test]
async fn each_start_has_a_key_of_its_own() {
    assert_ne!(node().await.tls_fingerprint(), node().await.tls_fingerprint());
}
