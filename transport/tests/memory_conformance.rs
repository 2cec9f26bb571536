//! The in-memory link passes the suite, with little room and with much.

use std::sync::Arc;

use meshwire_signaling::{MeshId, SecretKey};
use meshwire_transport::conformance::{self, End, Rig};
use meshwire_transport::memory;
use meshwire_transport::net::OsNet;

fn rig(capacity: usize) -> Rig {
    let [a, b] = [[1; 32], [2; 32]].map(|seed| SecretKey::from_seed(&seed));
    let ((link_a, events_a), (link_b, events_b)) = memory::pair(a.public(), b.public(), capacity);
    Rig {
        mesh: MeshId([3; 32]),
        net: Arc::new(OsNet),
        a: End { link: link_a, events: events_a, key: a },
        b: End { link: link_b, events: events_b, key: b },
    }
}

#[tokio::test]
async fn memory_conforms() {
    conformance::run(async || rig(256)).await;
}

#[tokio::test]
async fn memory_conforms_with_room_for_one_event() {
    conformance::run(async || rig(1)).await;
}
