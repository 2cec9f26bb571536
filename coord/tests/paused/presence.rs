//! Leases: who is told of whose coming and going, and when (inventory T13 to T16 and T19).

use meshwire_signaling::frame::{PresenceEvent, SetPresence, Status, feature};
use meshwire_signaling::limits::{PRESENCE_LEASE, STALE_AFTER};
use meshwire_signaling::{Priority, PublicKey};
use meshwire_transport::link::{LinkEvent, MessageLink as _};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep};

use super::world::{Link, Wire, World, key, news, next_envelope, receipt};
use std::sync::Arc;

const SECOND: Duration = Duration::from_secs(1);

/// Ana, who watches; bob, whose wire can be frozen and who has just been heard.
async fn two() -> (World, Link, Link, Arc<Wire>) {
    let world = World::new().await;
    let ana = world.connect(1).await;
    world.admit(&ana.0, 2).await;
    let wire = world.wire();
    let bob = world.connect_as(2, wire.clone(), &[]).await;
    let mut ana = ana;
    sleep(SECOND).await;
    let came = news(&mut ana.1);
    assert_eq!(came.last(), Some(&(PresenceEvent::Joined, bob_key())), "{came:?}");
    // Something heard just now, so that the times below are exact.
    bob.0.list_peers(None, None).await.unwrap();
    (world, ana, bob, wire)
}

fn bob_key() -> PublicKey {
    key(2).public()
}

/// Until a link says that it is up.
async fn up(events: &mut mpsc::Receiver<LinkEvent>) {
    while !matches!(events.recv().await.unwrap(), LinkEvent::Up(_)) {}
}

#[tokio::test(start_paused = true)]
async fn t13_a_node_that_stops_for_a_minute_has_not_left() {
    let (_world, mut ana, bob, wire) = two().await;
    wire.freeze();
    sleep(60 * SECOND).await;
    wire.thaw();
    let back = Instant::now();
    bob.0.list_peers(None, None).await.unwrap();
    assert!(back.elapsed() <= 2 * SECOND, "{:?}", back.elapsed());
    sleep(120 * SECOND).await;
    assert_eq!(news(&mut ana.1), []);
}

#[tokio::test(start_paused = true)]
async fn what_the_program_behind_a_member_can_is_known_to_the_others() {
    let (world, mut ana, bob, wire) = two().await;
    // A verb that joins, say, and within its lease the node itself.
    drop(bob);
    let (node, _events) = world.connect_as(2, wire.clone(), &[feature::P2P]).await;
    let features = loop {
        if let LinkEvent::PeerChanged(peer) = ana.1.recv().await.unwrap() {
            break peer.presences[0].features.clone();
        }
    };
    assert_eq!(features, [feature::P2P]);
    node.bye().await.unwrap();
    let _lesser = world.connect_as(2, wire, &[feature::GATE]).await;
    let features = loop {
        if let LinkEvent::Presence(p) = ana.1.recv().await.unwrap()
            && p.event == PresenceEvent::Joined
        {
            break p.features;
        }
    };
    assert_eq!(features, [feature::GATE]);
}

#[tokio::test(start_paused = true)]
async fn t13_however_long_before_it_was_last_heard() {
    // The worst case: it stops just before its next sign of life.
    let (_world, mut ana, bob, wire) = two().await;
    sleep(14 * SECOND).await;
    wire.freeze();
    sleep(60 * SECOND).await;
    wire.thaw();
    sleep(2 * SECOND).await;
    bob.0.list_peers(None, None).await.unwrap();
    sleep(120 * SECOND).await;
    assert_eq!(news(&mut ana.1), []);
}

#[tokio::test(start_paused = true)]
async fn t14_two_minutes_are_one_left_at_90_s_and_one_joined() {
    let (_world, mut ana, mut bob, wire) = two().await;
    let start = Instant::now();
    wire.freeze();
    let told = loop {
        if let LinkEvent::Presence(p) = ana.1.recv().await.unwrap() {
            break p;
        }
    };
    assert_eq!((told.event, told.key), (PresenceEvent::Left, bob_key()));
    let at = start.elapsed();
    assert!(at >= PRESENCE_LEASE - SECOND && at <= PRESENCE_LEASE + SECOND, "left after {at:?}");
    sleep(120 * SECOND - at).await;
    assert_eq!(news(&mut ana.1), []);
    wire.thaw();
    up(&mut bob.1).await;
    sleep(300 * SECOND).await;
    assert_eq!(news(&mut ana.1), [(PresenceEvent::Joined, bob_key())]);
}

#[tokio::test(start_paused = true)]
async fn t15_a_dropped_port_ends_the_connection_at_75_s_and_nobody_notices() {
    let (_world, mut ana, mut bob, wire) = two().await;
    while bob.1.try_recv().is_ok() {}
    wire.freeze();
    sleep(STALE_AFTER + 2 * SECOND).await;
    wire.thaw();
    // The old connection is gone, the next one goes on with the presence.
    let mut resumed = false;
    while let Ok(event) = tokio::time::timeout(60 * SECOND, bob.1.recv()).await {
        if let LinkEvent::Up(Some(ack)) = event.unwrap() {
            resumed = ack.lease.unwrap().resumed;
            break;
        }
    }
    assert!(resumed, "the broker had given the connection up and kept the lease");
    sleep(300 * SECOND).await;
    assert_eq!(news(&mut ana.1), []);
}

#[tokio::test(start_paused = true)]
async fn t16_a_message_during_the_grace_comes_exactly_once() {
    let (world, mut ana, mut bob, wire) = two().await;
    wire.freeze();
    sleep(STALE_AFTER + SECOND).await;
    let letter = world.urgent_letter(1, 2, 1, Priority::Now);
    let id = letter.header().unwrap().id;
    ana.0.send(letter).await.unwrap().await.unwrap();
    wire.thaw();
    let inbound = next_envelope(&mut bob.1).await;
    bob.0.answer(receipt(&world, &inbound, 2)).await.unwrap();
    let delivered = async {
        loop {
            match ana.1.recv().await.unwrap() {
                LinkEvent::Receipt { id: of, .. } => return of,
                LinkEvent::Presence(p) => panic!("{:?} {}", p.event, p.key),
                _ => {}
            }
        }
    };
    assert_eq!(tokio::time::timeout(60 * SECOND, delivered).await.unwrap(), id);
    sleep(300 * SECOND).await;
    while let Ok(event) = bob.1.try_recv() {
        assert!(!matches!(event, LinkEvent::Envelope(_)), "a second time");
    }
    assert_eq!(news(&mut ana.1), []);
}

#[tokio::test(start_paused = true)]
async fn t19_a_lost_connection_is_taken_up_within_a_second_of_being_there_again() {
    let (world, mut ana, bob, _wire) = two().await;
    drop(bob);
    sleep(80 * SECOND).await;
    let start = Instant::now();
    let _bob = world.connect(2).await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    sleep(300 * SECOND).await;
    assert_eq!(news(&mut ana.1), []);
}

#[tokio::test(start_paused = true)]
async fn who_says_bye_has_left_at_once() {
    let (_world, mut ana, bob, _wire) = two().await;
    bob.0.bye().await.unwrap();
    bob.0.close().await;
    sleep(SECOND).await;
    assert_eq!(news(&mut ana.1), [(PresenceEvent::Left, bob_key())]);
    sleep(300 * SECOND).await;
    assert_eq!(news(&mut ana.1), []);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_short_losses_are_no_news() {
    let (_world, mut ana, bob, wire) = two().await;
    for _ in 0..100 {
        wire.freeze();
        sleep(59 * SECOND).await;
        wire.thaw();
        bob.0.list_peers(None, None).await.unwrap();
    }
    assert_eq!(news(&mut ana.1), []);
}

fn status(to: Status) -> SetPresence {
    SetPresence {
        req: 0,
        key: bob_key(),
        status: Some(to),
        summary: None,
        profile: None,
        visible: None,
    }
}

/// The broker holds back what is not urgent for a client that does not do so itself.
#[tokio::test(start_paused = true)]
async fn defect_9_every_unblock_drains_what_the_broker_held_back() {
    let (world, ana, mut bob, _wire) = two().await;
    for (round, blocked) in (0..).zip([Status::Dnd, Status::Working]) {
        bob.0.set_presence(status(blocked)).await.unwrap();
        let held = world.letter(1, 2, 10 * round + 1);
        let urgent = world.urgent_letter(1, 2, 10 * round + 2, Priority::Now);
        for letter in [&held, &urgent] {
            ana.0.send(letter.clone()).await.unwrap().await.unwrap();
        }
        let first = next_envelope(&mut bob.1).await;
        assert_eq!(first.envelope.hash(&world.mesh), urgent.hash(&world.mesh));
        bob.0.answer(receipt(&world, &first, 2)).await.unwrap();
        sleep(600 * SECOND).await;
        while let Ok(event) = bob.1.try_recv() {
            assert!(
                !matches!(event, LinkEvent::Envelope(_)),
                "{blocked:?} lets only `now` through"
            );
        }
        let start = Instant::now();
        bob.0.set_presence(status(Status::Idle)).await.unwrap();
        let second = next_envelope(&mut bob.1).await;
        assert_eq!(second.envelope.hash(&world.mesh), held.hash(&world.mesh));
        assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
        bob.0.answer(receipt(&world, &second, 2)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gates_by_itself_gets_everything() {
    let (world, ana, _, _wire) = two().await;
    let mut bob = world.connect_as(2, world.wire(), &[feature::GATE]).await;
    bob.0.set_presence(status(Status::Dnd)).await.unwrap();
    ana.0.send(world.letter(1, 2, 1)).await.unwrap().await.unwrap();
    let start = Instant::now();
    next_envelope(&mut bob.1).await;
    assert!(start.elapsed() < SECOND);
}
