//! Somebody between node and broker.

use std::sync::{Arc, Mutex};

use meshwire_signaling::PublicKey;
use meshwire_signaling::frame::{Challenge, Frame, HelloAck, HelloAckBody, close, code};
use meshwire_signaling::invite::Role;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_transport::link::LinkEvent;

use super::MSGPACK;
use super::proto::{self, BOTH, Opening, Proxy, Side, World, new_key, refusal, relay_config};

/// Passes everything but shows its own key instead of the broker's.
async fn impostor(world: &World, seen: Arc<Mutex<Vec<Frame>>>) -> (Proxy, PublicKey) {
    let own = new_key().public();
    let proxy = Proxy::start(world.broker.addr(), move |to, frame| {
        if to == Side::Broker {
            seen.lock().unwrap().push(frame.clone());
        }
        match frame {
            Frame::Challenge(c) => vec![(to, Challenge { broker: own, ..c }.into())],
            frame => vec![(to, frame)],
        }
    });
    (proxy.await, own)
}

#[tokio::test]
async fn a_broker_with_another_key_in_between_gets_no_hello() {
    let world = World::start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (proxy, _) = impostor(&world, seen.clone()).await;
    for encoding in BOTH {
        let config = relay_config(&world, &world.owner, encoding, &proxy.base, None);
        let (_, code) = refusal(config).await;
        assert_eq!(code.as_deref(), Some(code::WRONG_BROKER));
    }
    assert_eq!(*seen.lock().unwrap(), [], "nothing is said to a stranger");
}

#[tokio::test]
async fn a_hello_meant_for_another_broker_is_of_no_use_at_this_one() {
    let world = World::start().await;
    let (proxy, own) = impostor(&world, Arc::default()).await;
    for encoding in BOTH {
        // Tricked: its invite names the impostor's key.
        let opening = Opening::dial(&proxy.base.parse().unwrap(), None, encoding).await;
        assert_eq!(opening.challenge.broker, own);
        let hello = opening.body(&world.mesh, &world.owner).sign(&world.owner.key);
        let refused = opening.say(hello, None).await.unwrap_err();
        assert_eq!(refused.codes(), (code::WRONG_BROKER, close::REFUSED));
    }
}

#[tokio::test]
async fn an_ack_that_was_changed_is_refused_by_the_node() {
    type Forge = fn(&mut HelloAckBody);
    let world = World::start().await;
    let forges: [Forge; 3] =
        [|a| a.features.clear(), |a| a.limits.body = 1, |a| a.role = Role::Owner];
    let bob = world.member("bob").await;
    for forge in forges {
        for resign in [false, true] {
            let hostile = new_key();
            let proxy = Proxy::start(world.broker.addr(), move |to, frame| {
                let Frame::HelloAck(mut ack) = frame else { return vec![(to, frame)] };
                let mut body: HelloAckBody = ack.ack.peek().unwrap();
                forge(&mut body);
                let sig = ack.ack.sig;
                ack.ack = Signed::new(&hostile, domains::HELLO_ACK, &body);
                if !resign {
                    ack.ack.sig = sig;
                }
                vec![(to, ack.into())]
            })
            .await;
            let (_, code) = refusal(relay_config(&world, &bob, MSGPACK, &proxy.base, None)).await;
            assert_eq!(code.as_deref(), Some(code::BAD_SIGNATURE));
        }
    }
    // The broker's own ack, but for another hello.
    let first: Arc<Mutex<Option<HelloAck>>> = Arc::default();
    let proxy = Proxy::start(world.broker.addr(), move |to, frame| match frame {
        Frame::HelloAck(ack) => {
            let ack = first.lock().unwrap().get_or_insert(ack).clone();
            vec![(to, ack.into())]
        }
        frame => vec![(to, frame)],
    })
    .await;
    let base = proxy.base.parse().unwrap();
    let opening = Opening::dial(&base, None, MSGPACK).await;
    let hello = opening.body(&world.mesh, &bob).sign(&bob.key);
    let recorded = opening.say(hello, None).await.unwrap();
    let (_, code) = refusal(relay_config(&world, &bob, MSGPACK, &proxy.base, None)).await;
    assert_eq!(code.as_deref(), Some(code::BAD_CHALLENGE));
    drop(recorded);
}

#[tokio::test]
async fn a_relay_link_says_which_feature_is_missing_and_stops() {
    let world = World::start().await;
    let mut config = relay_config(&world, &world.owner, MSGPACK, world.broker.url(), None);
    config.requires.push("teleport".into());
    let (link, mut events) = proto::relay(config);
    let Some(LinkEvent::Down { reason, code, retry_in }) = events.recv().await else {
        panic!("refused");
    };
    assert!(reason.contains("teleport"), "{reason}");
    assert_eq!((code.as_deref(), retry_in), (Some(code::FEATURE_MISSING), None));
    assert!(events.recv().await.is_none(), "and does not try again");
    drop(link);
}
