//! Claims and their leases.

use meshwire_signaling::PublicKey;
use meshwire_transport::link::{Answer, Inbound, MessageLink as _};
use tokio::time::{Duration, Instant};

use super::world::{World, key, next_envelope};

fn later(inbound: &Inbound, by: PublicKey) -> Answer {
    let header = inbound.envelope.header().unwrap();
    Answer::Later { from: header.from.key, id: header.id, by, reason: "not now".into() }
}

#[tokio::test(start_paused = true)]
async fn what_was_put_off_comes_again_on_a_connection_where_nothing_else_happens() {
    let world = World::new().await;
    let (ana, _ana_events) = world.connect(1).await;
    world.admit(&ana, 2).await;
    let (bob, mut events) = world.connect(2).await;
    ana.send(world.letter(1, 2, 1)).await.unwrap().await.unwrap();
    let mut last = Instant::now();
    for attempt in 1..=3 {
        let inbound = next_envelope(&mut events).await;
        assert_eq!(inbound.attempt, attempt);
        if attempt > 1 {
            let waited = last.elapsed();
            assert!((29..40).contains(&waited.as_secs()), "put off for 30 s, not {waited:?}");
        }
        last = Instant::now();
        // Some time after the push, so that the lease and the put-off end at different times.
        tokio::time::sleep(Duration::from_millis(700)).await;
        last += Duration::from_millis(700);
        bob.answer(later(&inbound, key(2).public())).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_push_comes_again_when_its_lease_ends() {
    let world = World::new().await;
    let (ana, _ana_events) = world.connect(1).await;
    world.admit(&ana, 2).await;
    let (_bob, mut events) = world.connect(2).await;
    ana.send(world.letter(1, 2, 1)).await.unwrap().await.unwrap();
    assert_eq!(next_envelope(&mut events).await.attempt, 1);
    let start = Instant::now();
    assert_eq!(next_envelope(&mut events).await.attempt, 2);
    assert!((29..32).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}
