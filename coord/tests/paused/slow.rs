//! A reader that stops reading.

use futures_util::SinkExt as _;
use meshwire_signaling::EnvelopeId;
use meshwire_signaling::limits::STALE_AFTER;
use meshwire_transport::link::MessageLink as _;
use tokio::time::{Duration, Instant, sleep};
use tokio_tungstenite::tungstenite::Message;

use super::world::{World, news, next_envelope, receipt};

/// It is closed with a reason, others don't notice, and it gets its mail later.
#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_is_closed_others_go_on_and_it_gets_its_mail_later() {
    const LETTERS: u64 = 40;
    let world = World::new().await;
    let (ana, mut ana_events) = world.connect(1).await;
    world.admit(&ana, 2).await;
    world.admit(&ana, 3).await;
    let mut bob = world.raw(2).await;
    let (cleo, mut cleo_events) = world.connect(3).await;
    sleep(Duration::from_secs(1)).await;
    news(&mut ana_events);
    // From here on bob writes, but reads nothing. More than all buffers in between take.
    for id in 1..=LETTERS {
        let start = Instant::now();
        ana.send(world.large_letter(1, 2, id, 30_000)).await.unwrap().await.unwrap();
        ana.send(world.letter(1, 3, 1_000 + id)).await.unwrap().await.unwrap();
        let inbound = next_envelope(&mut cleo_events).await;
        cleo.answer(receipt(&world, &inbound, 3)).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "cleo and ana do not notice");
    }
    for _ in 0..5 {
        let text = world.metrics().await;
        assert!(text.contains("broker_connections_active 3\n"), "{text}");
        bob.send(Message::Ping(Default::default())).await.unwrap();
        sleep(Duration::from_secs(14)).await;
    }
    sleep(STALE_AFTER - Duration::from_secs(60)).await;
    let text = world.metrics().await;
    assert!(text.contains("broker_slow_consumers_total 1\n"), "{text}");
    assert!(text.contains("broker_connections_active 2\n"), "{text}");
    // He comes back, within the lease of what was last heard of him, and all his mail is there.
    let (bob, mut bob_events) = world.connect(2).await;
    for id in 1..=LETTERS {
        let inbound = next_envelope(&mut bob_events).await;
        let expected = EnvelopeId::new(0, u128::from(id)).to_string();
        let got = inbound.envelope.header().unwrap().id.to_string();
        assert_eq!(got[10..], expected[10..], "all but the time");
        bob.answer(receipt(&world, &inbound, 2)).await.unwrap();
    }
    assert_eq!(news(&mut ana_events), [], "ana was told nothing of bob");
}
