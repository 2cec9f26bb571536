//! Too many steps: the sender is told, and nobody else suffers.

use meshwire_signaling::frame::code;
use meshwire_signaling::id::Blob;
use meshwire_signaling::limits::MAX_P2P;

use super::proto::World;
use super::{MSGPACK, P2pFrame, connect, hand, refused, step};

/// As many steps as a step's burst from one member to one recipient lets through.
const PAIR_BURST: u32 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn each_pair_and_each_sender_has_its_rate() {
    let world = World::with(|c| c.policy.signals = 10).await;
    let mut a = connect(&world, &world.owner, MSGPACK).await;
    let ana = world.owner.public();
    let bob = world.member("bob").await;
    let carol = world.member("carol").await;
    let mut b = connect(&world, &bob, MSGPACK).await;
    let mut c = connect(&world, &carol, MSGPACK).await;
    let (bob, carol) = (bob.public(), carol.public());

    // From bob to ana: the pair's burst first. The rest of bob's own goes to carol.
    let mut through = 0;
    let limited = loop {
        match hand(&mut b, step(bob, ana)).await {
            Ok(()) => through += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(limited.code, code::RATE_LIMITED);
    assert!(!limited.permanent && limited.retry_after_ms.is_some(), "{limited:?}");
    assert!((PAIR_BURST..PAIR_BURST + 10).contains(&through), "{through}");
    assert_eq!(hand(&mut b, step(bob, carol)).await, Ok(()), "another pair");
    while hand(&mut b, step(bob, carol)).await.is_ok() {}
    let limited = refused(&mut b, step(bob, carol)).await;
    assert_eq!(limited.code, code::RATE_LIMITED);

    // Others are not slowed down, also not towards the same recipient, and mail goes on.
    assert_eq!(hand(&mut c, step(carol, ana)).await, Ok(()));
    assert_eq!(hand(&mut a, step(ana, bob)).await, Ok(()));
    let (_, letter) = letter_to(&world, carol);
    a.hand(letter).await.unwrap();
    c.message().await;
}

fn letter_to(
    world: &World,
    to: meshwire_signaling::PublicKey,
) -> (meshwire_signaling::EnvelopeId, meshwire_signaling::Envelope) {
    world.owner.letter(&world.mesh, to, 1, "hello", |_| {})
}

/// Many members send all that they may to one who does not read. Its queue for steps fills up, they
/// are told so, and its connection lives: once it reads, steps and its mail are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_does_not_close_a_slow_reader() {
    let world = World::with(|c| c.policy.signals = 1_000).await;
    let bob = world.member("bob").await;
    let mut b = connect(&world, &bob, MSGPACK).await;
    b.drained().await;
    let to = bob.public();
    let mut full = 0;
    // Far more than the sockets' buffers hold.
    for n in 0..64 {
        let member = world.member(&format!("flooder {n}")).await;
        let mut client = connect(&world, &member, MSGPACK).await;
        for _ in 0..PAIR_BURST {
            let payload = Blob(vec![1; MAX_P2P]);
            match hand(&mut client, P2pFrame { payload, ..step(member.public(), to) }).await {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.code, code::QUEUE_FULL);
                    assert!(!error.permanent && error.retry_after_ms.is_some());
                    full += 1;
                }
            }
        }
        client.leave().await;
        if full > 2 * PAIR_BURST {
            break;
        }
    }
    assert!(full > 0, "nothing was ever full: the flood is too small");
    let (_, letter) = letter_to(&world, to);
    let mut a = connect(&world, &world.owner, MSGPACK).await;
    a.hand(letter).await.unwrap();
    b.message().await;
    b.peers().await;
    let waiting = b.waiting().iter().filter(|f| f.kind() == "p2p_offer").count();
    assert!(waiting > 0);
}
