//! A broker of milestone 1 behind a proxy: its ack has no lease, and it knows no later frames.

use std::sync::{Arc, Mutex};

use meshwire_signaling::frame::{
    ErrorFrame, Frame, HelloAck, HelloAckBody, MessageState, code, feature,
};
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{SecretKey, frame};

use super::proto::{Proxy, Side};
use super::*;

/// The ack as a broker without leases, groups and sessions gives it.
fn older(broker: &SecretKey, ack: &HelloAck) -> HelloAck {
    let mut body: HelloAckBody = ack.ack.open(&broker.public(), domains::HELLO_ACK).unwrap();
    body.lease = None;
    body.features.retain(|f, _| f == feature::DEDUPE || f == feature::RECEIPTS);
    HelloAck { ack: Signed::new(broker, domains::HELLO_ACK, &body) }
}

/// The request that a frame is which that broker does not know.
fn unknown(frame: &Frame) -> Option<Option<u64>> {
    match frame {
        Frame::Unbind(f) => Some(Some(f.req)),
        Frame::SetPresence(f) => Some(Some(f.req)),
        Frame::SetGroup(f) => Some(Some(f.req)),
        Frame::Disconnect(f) => Some(Some(f.req)),
        Frame::Bye(frame::Bye {}) => Some(None),
        _ => None,
    }
}

/// Plays that broker in front of a real one; what it was asked and did not know is noted.
async fn start(world: &World, asked: Arc<Mutex<Vec<&'static str>>>) -> Proxy {
    let broker = world.broker_secret();
    Proxy::start(world.broker.addr(), move |to, frame| match frame {
        Frame::HelloAck(ack) => vec![(to, older(&broker, &ack).into())],
        frame if to == Side::Broker => match unknown(&frame) {
            None => vec![(to, frame)],
            Some(req) => {
                asked.lock().unwrap().push(frame.kind());
                let text = format!("there is no frame type {:?}", frame.kind());
                let error = ErrorFrame::permanent(code::UNKNOWN_TYPE, text).to_req(req);
                vec![(Side::Node, error.into())]
            }
        },
        frame => vec![(to, frame)],
    })
    .await
}

async fn refused(node: &Node, to: &str) -> api::ApiError {
    let ask = api::Send {
        mesh: None,
        to: to.to_owned(),
        message: "everybody".into(),
        priority: Default::default(),
        reply_to: None,
        idempotency_key: None,
        ttl_ms: None,
        wait: None,
        timeout_ms: None,
    };
    node.send(ask).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_at_a_broker_without_leases_works_and_asks_for_nothing_that_it_lacks() {
    let world = World::start().await;
    let asked = Arc::default();
    let proxy = start(&world, Arc::clone(&asked)).await;
    let ann = world.node_through(&proxy.base, "ann").await;
    let bob = world.node("bob").await;
    up(&ann).await;
    up(&bob).await;
    for (from, to, text) in [(&ann, "bob", "to"), (&bob, "ann", "fro")] {
        let sent = send(from, to, text, Some(api::WaitFor::Delivered), None).await;
        assert_eq!(sent.state, MessageState::Delivered);
    }
    assert_eq!(inbox(&ann, 1).await[0].message, "fro");

    let said = api::SetPresence { summary: Some("here".into()), ..Default::default() };
    let kept = ann.set_presence(said).await.unwrap();
    assert_eq!((kept[0].summary.as_deref(), kept[0].announced), (Some("here"), false));
    let error = refused(&ann, "@all").await;
    assert_eq!(error.code, code::FEATURE_MISSING);
    assert!(error.message.contains(feature::GROUPS), "{error}");
    stop(ann).await;
    stop(bob).await;
    // A goodbye is told to nobody who would have to know it.
    let asked: Vec<_> = asked.lock().unwrap().iter().filter(|f| **f != "bye").copied().collect();
    assert!(asked.is_empty(), "it was asked for {asked:?}");
}
