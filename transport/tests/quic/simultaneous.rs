//! Two nodes that share several meshes: several attempts at once between the same two sockets.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::future::join_all;
use meshwire_signaling::Hash;
use meshwire_transport::quic::{Accepted, Attempt, QuicConn, QuicError, QuicNode, Role};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tokio::time::timeout;

use crate::common::{dial, node};

/// The stream's first byte: of no use to anybody else.
const OTHER: u8 = 9;
/// Rounds in which connections live on beside later ones.
const KEPT: usize = 3;

/// An attempt at both of its ends, the keys that these are to find, and a word that tells it from all others.
struct Two {
    client: Attempt,
    server: Attempt,
    peers: [Hash; 2],
    word: [u8; 2],
}

/// Says the word on its connection, and hears at the other end which one arrives.
async fn says(word: [u8; 2], [client, server]: &[QuicConn; 2]) -> [u8; 2] {
    let mut heard = [0; 2];
    let saying = async {
        let (mut send, mut recv) = client.open_bi().await.unwrap();
        send.write_all(&[OTHER, word[0], word[1]]).await.unwrap();
        send.finish().unwrap();
        assert!(recv.read_to_end(1).await.unwrap().is_empty());
    };
    let hearing = async {
        let Accepted::Other(OTHER, mut send, mut recv) = server.accept().await.unwrap() else {
            panic!("another stream")
        };
        recv.read_exact(&mut heard).await.unwrap();
        send.finish().unwrap();
        // The other end has read that.
        let _ = send.stopped().await;
    };
    tokio::join!(saying, hearing);
    heard
}

/// Makes the attempts known to each other's ends, in any order and at once.
async fn introduce(twos: &[Two], rng: &mut ChaCha8Rng) {
    let mut words: Vec<(usize, bool)> =
        (0..twos.len()).flat_map(|n| [(n, false), (n, true)]).collect();
    while !words.is_empty() {
        let (n, to_client) = words.swap_remove(rng.next_u32() as usize % words.len());
        let Two { client, server, .. } = &twos[n];
        let (to, of) = if to_client { (client, server) } else { (server, client) };
        to.handle().set_remote(of.local().clone()).await.unwrap();
    }
}

async fn connected(two: &mut Two) -> Result<[QuicConn; 2], QuicError> {
    let (client, server) = tokio::join!(two.client.connected(), two.server.connected());
    Ok([client?, server?])
}

/// Connects `many` times at once for each round, either node as the client, and says which words arrived
/// elsewhere.
async fn rounds(nodes: [&QuicNode; 2], rounds: u8, many: u8, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut kept: VecDeque<(Two, [QuicConn; 2])> = VecDeque::new();
    for round in 0..rounds {
        let mut twos: Vec<Two> = (0..many)
            .map(|n| {
                let [client, server] = match rng.next_u32() % 2 {
                    0 => nodes,
                    _ => [nodes[1], nodes[0]],
                };
                Two {
                    client: client.dial(dial(Role::Controlling)).unwrap(),
                    server: server.dial(dial(Role::Controlled)).unwrap(),
                    peers: [server, client].map(QuicNode::tls_fingerprint),
                    word: [round, n],
                }
            })
            .collect();
        introduce(&twos, &mut rng).await;
        let conns = join_all(twos.iter_mut().map(connected)).await;
        for (two, conns) in twos.into_iter().zip(conns) {
            let conns =
                conns.unwrap_or_else(|e| panic!("seed {seed}, attempt {:?}: {e}", two.word));
            assert_eq!(conns.each_ref().map(QuicConn::peer), two.peers);
            kept.push_back((two, conns));
        }
        for (Two { word, .. }, conns) in &kept {
            let said = timeout(Duration::from_secs(5), says(*word, conns)).await;
            assert_eq!(said.ok(), Some(*word), "seed {seed}, in round {round}");
        }
        while kept.len() > KEPT * usize::from(many) {
            kept.pop_front();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_attempts_at_once_do_not_mix() {
    let (a, b) = (node().await, node().await);
    rounds([&a, &b], 50, 2, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_attempts_at_once_do_not_mix() {
    let (a, b) = (node().await, node().await);
    rounds([&a, &b], 5, 16, 2).await;
}
