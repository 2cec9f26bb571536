//! Random bytes, and good frames with random damage. `MESHWIRE_SEED` repeats a run.

#![allow(clippy::print_stdout)] // the seed, for whoever repeats a failure

use futures_util::StreamExt as _;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{
    Bind, ClientAck, ClientNack, Frame, Hello, InviteCreate, InviteList, InviteRevoke, ListPeers,
    ReceiptAck, Send,
};
use meshwire_signaling::receipt::Verdict;
use meshwire_signaling::sign::{Signed, domains};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use tokio_tungstenite::tungstenite::Message;

use super::proto::{BOTH, World, new_key, within};

struct Dice(ChaCha8Rng);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("MESHWIRE_SEED").ok().and_then(|s| s.parse().ok());
        let seed: u64 = seed.unwrap_or(0x6d65_7368);
        // Shown when the test fails.
        println!("MESHWIRE_SEED={seed}");
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.0.next_u64() % n as u64).unwrap()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.below(most)];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// A few bytes changed, lost, doubled, or the end cut off.
    fn damage(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, bytes[at]),
                _ => bytes[at] ^= 1 << self.below(8),
            }
        }
        bytes
    }
}

/// A good frame of every kind that a node sends.
fn good(world: &World) -> Vec<Frame> {
    let me = &world.owner;
    let (id, envelope) = me.letter(&world.mesh, new_key().public(), 1, "text", |_| {});
    let receipt = me.receipt(&world.mesh, me.public(), &envelope, Verdict::Delivered, None);
    let session = new_key();
    let attestation = me.attest(&world.mesh, session.public());
    let proof = Bind::prove(&meshwire_signaling::Hash([1; 32]), &session, &attestation);
    let (from, by) = (me.public(), me.public());
    let signed = Signed::new(&me.key, domains::HELLO, &"x");
    vec![
        Hello { hello: signed.clone(), attestation: Some(attestation.clone()) }.into(),
        Bind { req: 1, key: session.public(), attestation, proof }.into(),
        Send { req: 2, envelope, batch: None }.into(),
        ClientAck { from, id, receipt: receipt.clone() }.into(),
        ClientNack {
            from,
            id,
            by,
            reason: "blocked".into(),
            permanent: true,
            receipt: Some(receipt),
        }
        .into(),
        ReceiptAck { from, id, by }.into(),
        ListPeers { req: 3, after: Some(by), key: Some(from) }.into(),
        InviteCreate { req: 4, capability: signed }.into(),
        InviteList { req: 5 }.into(),
        InviteRevoke { req: 6, invite: by }.into(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_and_damaged_frames_never_hurt_the_broker() {
    const ROUNDS: usize = 30;
    let mut dice = Dice::new();
    let world = World::start().await;
    let good = good(&world);
    for round in 0..ROUNDS {
        let encoding = BOTH[round % 2];
        let mut client = world.connect(&world.owner, encoding).await;
        // Stay below the number of malformed frames that ends a connection.
        for i in 0..32 {
            let bytes = if i % 4 == 0 {
                dice.bytes(300)
            } else {
                let frame = dice.below(good.len());
                dice.damage(good[frame].encode(encoding))
            };
            client.raw(Message::binary(bytes)).await.unwrap();
        }
        client.peers().await;
        client.close().await;
    }
    let mut last = world.connect(&world.owner, Encoding::MsgPack).await;
    assert_eq!(last.peers().await.peers.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_instead_of_a_hello_are_refused() {
    let mut dice = Dice::new();
    let world = World::start().await;
    for round in 0..60 {
        let encoding = BOTH[round % 2];
        let mut opening = world.dial(encoding).await;
        let hello = opening.body(&world.mesh, &world.owner).sign(&new_key());
        let frame = Frame::from(Hello { hello, attestation: None });
        let bytes =
            if round % 3 == 0 { dice.bytes(300) } else { dice.damage(frame.encode(encoding)) };
        opening.raw(Message::binary(bytes)).await;
        // An error frame, then the close.
        let refused = opening.answer(meshwire_signaling::Hash([0; 32])).await.unwrap_err();
        assert_eq!(refused.close, 1008, "{refused:?}");
    }
    world.connect(&world.owner, Encoding::Json).await.peers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_instead_of_websocket_frames_end_the_connection() {
    let mut dice = Dice::new();
    let world = World::start().await;
    for round in 0..40 {
        let mut opening = world.dial(BOTH[round % 2]).await;
        let junk = dice.bytes(2_000);
        {
            use tokio::io::AsyncWriteExt as _;
            let stream = opening.ws.get_mut();
            // The broker may have closed before all is written.
            let _ = stream.write_all(&junk).await;
            let _ = stream.shutdown().await;
        }
        within("the end", async { while let Some(Ok(_)) = opening.ws.next().await {} }).await;
    }
    world.connect(&world.owner, Encoding::Json).await.peers().await;
}
