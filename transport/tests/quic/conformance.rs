//! The link passes the suite.

use std::sync::Arc;

use meshwire_signaling::{MeshId, SecretKey};
use meshwire_transport::conformance::{self, End, Rig};
use meshwire_transport::link::LinkEvent;
use meshwire_transport::net::OsNet;
use meshwire_transport::queue::Receiver;
use meshwire_transport::quic::{Accepted, Ends, QuicLink};
use tokio::sync::mpsc;

use crate::common::{connect, node};

const MESH: MeshId = MeshId([3; 32]);

#[tokio::test]
async fn quic_conforms() {
    // The nodes outlive every rig.
    let (left, right) = (node().await, node().await);
    conformance::run(async || {
        let (l, r) = connect(&left, &right).await;
        let (l, r) = (l.unwrap(), r.unwrap());
        let [a, b] = [[1; 32], [2; 32]].map(|seed| SecretKey::from_seed(&seed));
        let ends = Ends { mesh: MESH, own: a.public(), peer: b.public() };
        let accepting = async {
            let Accepted::Messages(offered) = r.accept().await.unwrap() else {
                panic!("another stream")
            };
            let expected = Ends { mesh: MESH, own: b.public(), peer: a.public() };
            assert_eq!(offered.ends(), expected);
            offered.accept(Arc::new(OsNet)).await.unwrap()
        };
        let opening = QuicLink::open(&l, Arc::new(OsNet), ends);
        let (opened, (link_b, events_b)) = tokio::join!(opening, accepting);
        let (link_a, events_a) = opened.unwrap();
        let (events_a, events_b) = (bridged(events_a), bridged(events_b));
        Rig {
            mesh: MESH,
            net: Arc::new(OsNet),
            a: End { link: link_a, events: events_a, key: a },
            b: End { link: link_b, events: events_b, key: b },
        }
    })
    .await;
}

/// The suite's own kind of queue; a reader that does not read still makes the link wait.
fn bridged(mut events: Receiver<LinkEvent>) -> mpsc::Receiver<LinkEvent> {
    let (to, bridged) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let Ok(room) = to.reserve().await else { return };
            let Some(event) = events.recv().await else { return };
            room.send(event);
        }
    });
    bridged
}
