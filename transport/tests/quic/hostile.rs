//! What a peer, a broker or somebody in the LAN can make a node send.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshwire_transport::net::{Net as _, OsNet};
use meshwire_transport::quic::candidates::{Candidate, CandidateKind};
use meshwire_transport::quic::{Description, Dial, QuicError, Role};
use tokio::time::timeout;

use crate::common::{dial, node};

fn description(candidates: Vec<Candidate>) -> Description {
    Description {
        ufrag: "peer".into(),
        pwd: "0123456789012345678901".into(),
        tls: meshwire_signaling::Hash([1; 32]),
        candidates,
    }
}

fn host(addr: SocketAddr) -> Candidate {
    Candidate { kind: CandidateKind::Host, addr, priority: u32::MAX }
}

/// Counts what comes to some sockets until nothing has come for a while.
async fn listen(
    sockets: Vec<Arc<dyn meshwire_transport::net::Datagram>>,
) -> BTreeMap<usize, usize> {
    let (tell, mut told) = tokio::sync::mpsc::channel(1000);
    for (n, socket) in sockets.into_iter().enumerate() {
        let tell = tell.clone();
        tokio::spawn(async move {
            let mut buf = [0; 2000];
            while socket.recv_from(&mut buf).await.is_ok() && tell.send(n).await.is_ok() {}
        });
    }
    drop(tell);
    let mut counts = BTreeMap::new();
    while let Ok(Some(n)) = timeout(Duration::from_millis(1500), told.recv()).await {
        *counts.entry(n).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn an_offer_with_a_thousand_addresses_is_a_few_and_its_checks_are_counted() {
    let node = node().await;
    let mut sockets: Vec<Arc<dyn meshwire_transport::net::Datagram>> = Vec::new();
    for _ in 0..40 {
        sockets.push(Arc::from(OsNet.udp_bind(([127, 0, 0, 1], 0).into()).await.unwrap()));
    }
    let candidates = sockets.iter().map(|s| host(s.local_addr().unwrap())).collect();
    let dial = Dial { timeout: Duration::from_secs(3), ..dial(Role::Controlling) };
    let mut attempt = node.dial(dial).unwrap();
    attempt.handle().set_remote(description(candidates)).await.unwrap();
    let (failed, counts) = tokio::join!(attempt.connected(), listen(sockets));
    assert!(matches!(failed, Err(QuicError::NoPath(_))), "{failed:?}");
    assert_eq!(counts.len(), CandidateKind::Host.most(), "{counts:?}");
    let all: usize = counts.values().sum();
    assert!((12..=450).contains(&all), "{all} checks");
}

#[tokio::test]
async fn foreign_loopback_is_never_sent_to() {
    let node = node().await;
    let victim: Arc<dyn meshwire_transport::net::Datagram> =
        Arc::from(OsNet.udp_bind(([127, 0, 0, 1], 0).into()).await.unwrap());
    let candidates = vec![host(victim.local_addr().unwrap())];
    let dial = Dial { timeout: Duration::from_secs(1), ..Dial::new(Role::Controlling) };
    let mut attempt = node.dial(dial).unwrap();
    attempt.handle().set_remote(description(candidates)).await.unwrap();
    let (failed, counts) = tokio::join!(attempt.connected(), listen(vec![victim]));
    assert!(matches!(failed, Err(QuicError::NoPath(_))), "{failed:?}");
    assert_eq!(counts, BTreeMap::new());
}

#[tokio::test]
async fn strangers_get_no_answer_whatever_they_send() {
    let node = node().await;
    let to = SocketAddr::new([127, 0, 0, 1].into(), node.ports().0.unwrap());
    let attempt = node.dial(dial(Role::Controlled)).unwrap();
    attempt.handle().set_remote(description(Vec::new())).await.unwrap();
    let stranger: Arc<dyn meshwire_transport::net::Datagram> =
        Arc::from(OsNet.udp_bind(([127, 0, 0, 1], 0).into()).await.unwrap());
    // A QUIC Initial, short headers, ChannelData, STUN without and with the attempt's name, nothing.
    let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    stun.extend_from_slice(&[5; 12]);
    let name = format!("{}:peer", attempt.local().ufrag);
    let mut named = stun.clone();
    named.extend_from_slice(&[0, 6, 0, u8::try_from(name.len()).unwrap()]);
    named.extend_from_slice(name.as_bytes());
    named.resize(named.len().next_multiple_of(4), 0);
    named[3] = u8::try_from(named.len() - 20).unwrap();
    let mut initial = vec![0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0];
    initial.resize(1200, 7);
    let mut version = initial.clone();
    version[1..5].copy_from_slice(&[0x0a; 4]);
    for datagram in [initial, version, vec![0x40; 1200], vec![0x4f; 100], stun, named, vec![]] {
        stranger.send_to(&datagram, to).await.unwrap();
    }
    assert_eq!(listen(vec![stranger]).await, BTreeMap::new());
}

#[tokio::test]
async fn descriptions_that_are_none_are_refused() {
    let node = node().await;
    let attempt = node.dial(dial(Role::Controlling)).unwrap();
    let good = description(Vec::new());
    let bad = [
        Description { ufrag: String::new(), ..good.clone() },
        Description { ufrag: "a:b:".into(), ..good.clone() },
        Description { ufrag: "x".repeat(33), ..good.clone() },
        Description { pwd: "short".into(), ..good.clone() },
        Description { pwd: "x".repeat(65), ..good.clone() },
    ];
    for bad in bad {
        let refused = attempt.handle().set_remote(bad).await;
        assert!(matches!(refused, Err(QuicError::Description)), "{refused:?}");
    }
    attempt.handle().set_remote(good).await.unwrap();
}
