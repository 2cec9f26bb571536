//! The relay link over the real broker passes the suite of all links, in both encodings and with
//! both databases.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

mod proto;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meshwire::{Database, OsNet};
use meshwire_signaling::codec::Encoding;
use meshwire_transport::conformance::{self, End, Rig};

use proto::{Member, World, relay, relay_config};

fn end(world: &World, member: &Member, encoding: Encoding) -> End {
    let config = relay_config(world, member, encoding, world.broker.url(), None);
    let (link, events) = relay(config);
    End { link, events, key: member.key.clone() }
}

async fn conforms(database: Database, encoding: Encoding) {
    let world = World::with(|c| c.database = database).await;
    let round = AtomicU64::new(0);
    conformance::run(async || {
        // Two members of their own for every check: nothing is left of the one before.
        let n = round.fetch_add(1, Ordering::Relaxed);
        let a = world.member(&format!("a{n}")).await;
        let b = world.member(&format!("b{n}")).await;
        Rig {
            mesh: world.mesh,
            net: Arc::new(OsNet),
            a: end(&world, &a, encoding),
            b: end(&world, &b, encoding),
        }
    })
    .await;
    world.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_over_sqlite_in_msgpack() {
    conforms(Database::Sqlite, Encoding::MsgPack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_over_sqlite_in_json() {
    conforms(Database::Sqlite, Encoding::Json).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_over_memory_in_msgpack() {
    conforms(Database::Memory, Encoding::MsgPack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_over_memory_in_json() {
    conforms(Database::Memory, Encoding::Json).await;
}
