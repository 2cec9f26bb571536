use std::future::pending;
use std::sync::Mutex;

use meshwire_signaling::frame::MessageState;
use meshwire_signaling::invite::Role;
use meshwire_signaling::{EnvelopeId, Priority};
use meshwire_transport::link::Handed;
use tokio::time::{Instant, sleep, timeout};

use super::super::Node;
use super::super::testing::{NOW, World, key, lab};
use super::load::SHARE;
use super::*;
use crate::api::Send;
use crate::core::outbox::{LATE, OutboxState};
use crate::store::{NewMember, OutboxFilter};

/// Links of which the one to `stuck` takes everything and never answers; all others answer after a
/// round trip of 5 ms.
struct Links {
    stuck: PublicKey,
    taken: Mutex<Vec<EnvelopeId>>,
}

#[async_trait]
impl Carry for Links {
    fn reachable(&self) -> Option<Vec<PublicKey>> {
        None
    }

    async fn hand(&self, row: OutboxRow) -> Handing {
        if row.meta.recipient == self.stuck {
            self.taken.lock().unwrap().push(row.meta.id);
            // Only what is not late goes by the path.
            let path = (row.meta.reason.as_deref() != Some(LATE)).then_some(self.stuck);
            return (path, pending().boxed());
        }
        let (id, author, attempts) = (row.meta.id, row.meta.author, row.meta.attempts);
        let answer = async move {
            sleep(Duration::from_millis(5)).await;
            let handed =
                Handed { state: MessageState::Relayed, duplicate: false, full: Vec::new() };
            Outcome { id, author, attempts, end: End::Link(Ok(handed)) }
        };
        (None, answer.boxed())
    }
}

impl Links {
    fn taken(&self) -> usize {
        self.taken.lock().unwrap().len()
    }
}

async fn send(node: &Node, whom: &str, n: usize) -> EnvelopeId {
    let ask = Send {
        mesh: Some("lab".into()),
        to: whom.into(),
        message: format!("number {n}"),
        priority: Priority::Next,
        reply_to: None,
        idempotency_key: None,
        ttl_ms: None,
        wait: None,
        timeout_ms: None,
    };
    node.send(ask).await.unwrap().id
}

/// How many messages are where.
async fn count(mesh: &Mesh, state: OutboxState) -> usize {
    let filter = OutboxFilter { states: vec![state], limit: 500, ..OutboxFilter::default() };
    mesh.store().outbox_list(&filter).await.unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_keeps_nobody_waiting() {
    let world = World::new().await;
    let node = world.node().await;
    let mesh = lab(&node);
    world.bob(&node).await;
    let carla = NewMember {
        mesh: mesh.id(),
        key: key(51).public(),
        name: "carla".into(),
        role: Role::Member,
        chain: mesh.row.chain.clone(),
        now: NOW,
    };
    mesh.store().upsert_member(&carla).await.unwrap();
    for n in 0..WINDOW + 50 {
        send(&node, "bob", n).await;
    }
    for n in 0..100 {
        send(&node, "carla", n).await;
    }
    let links = Links { stuck: key(50).public(), taken: Mutex::default() };
    let start = Instant::now();
    let test = async {
        let mut events = node.events();
        while count(&mesh, OutboxState::Relayed).await < 100 {
            events.recv().await.unwrap();
        }
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
        assert_eq!(links.taken(), SHARE);

        // What comes later has no reason to wait either.
        let (begun, last) = (Instant::now(), send(&node, "carla", 100).await);
        mesh.wake.notify_waiters();
        loop {
            let row = mesh.store().outbox_get(&mesh.id(), &last).await.unwrap().unwrap();
            if row.meta.state == OutboxState::Relayed {
                break;
            }
            events.recv().await.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_millis(10), "{:?}", begun.elapsed());

        // A late one goes by another way, though the path has its share.
        let late = links.taken.lock().unwrap()[3];
        let to = StepTo::Retry { next_attempt_at: mesh.now(), reason: LATE.to_owned() };
        apply(&mesh, &[(mesh.row.self_key, Step { mesh: mesh.id(), id: late, to })]).await.unwrap();
        mesh.wake.notify_waiters();
        while links.taken() == SHARE {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(links.taken.lock().unwrap()[SHARE..], [late]);
    };
    tokio::select! {
        () = pump(&mesh, &links) => {}
        done = timeout(Duration::from_secs(60), test) => done.unwrap(),
    }
    node.close().await;
}
