//! Real nodes: what tests wait for.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use meshwire::{DirectPaths, Event, Home, Net, Node, OsNet, api};
use meshwire_signaling::EnvelopeId;
use meshwire_signaling::frame::MessageState;
use meshwire_transport::net::{BoxStream, Listener};
use tokio::sync::broadcast::Receiver;

use super::{PATIENCE, within};

/// The operating system's network with a wall clock that is off.
#[derive(Debug)]
pub struct Shifted(pub i64);

#[async_trait]
impl Net for Shifted {
    fn unix_ms(&self) -> u64 {
        OsNet.unix_ms().saturating_add_signed(self.0)
    }
    fn fill(&self, buf: &mut [u8]) {
        OsNet.fill(buf);
    }
    async fn tcp_connect(&self, host: &str, port: u16) -> io::Result<BoxStream> {
        OsNet.tcp_connect(host, port).await
    }
    async fn tcp_bind(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        OsNet.tcp_bind(addr).await
    }
}

impl Shifted {
    /// The node of a home, its clock off.
    pub async fn node(self, path: &Path) -> Node {
        let home = Home::open(path).unwrap();
        let lock = home.try_lock().unwrap().unwrap();
        Node::open(Arc::new(self), &home, lock, DirectPaths::default()).await.unwrap()
    }
}

/// Stops a node and gives up its home.
pub async fn stop(node: Node) {
    node.close().await;
}

/// Waits for an event that `pick` takes.
pub async fn until<T>(events: &mut Receiver<Event>, pick: impl Fn(&Event) -> Option<T>) -> T {
    within("an event", async {
        loop {
            if let Some(found) = pick(&events.recv().await.unwrap()) {
                return found;
            }
        }
    })
    .await
}

/// Waits until the node is connected and nothing waits for it.
pub async fn up(node: &Node) {
    node.settle(PATIENCE).await;
    let status = node.status(api::Done {}).await.unwrap();
    for mesh in status.meshes {
        assert_eq!(mesh.link, "up", "{:?}", mesh.reason);
    }
}

/// Sends a text; `wait` is for a state.
pub async fn send(
    node: &Node,
    to: &str,
    message: &str,
    wait: Option<api::WaitFor>,
    ttl_ms: Option<u64>,
) -> api::Message {
    let ask = api::Send {
        mesh: None,
        to: to.to_owned(),
        message: message.to_owned(),
        priority: Default::default(),
        reply_to: None,
        idempotency_key: None,
        ttl_ms,
        wait,
        timeout_ms: Some(u64::try_from(PATIENCE.as_millis()).unwrap()),
    };
    node.send(ask).await.unwrap()
}

/// Waits until the inbox holds `n` messages; leaves them unread.
pub async fn inbox(node: &Node, n: usize) -> Vec<api::InboxMessage> {
    let mut events = node.events();
    within("messages in the inbox", async {
        loop {
            let ask = api::Inbox { peek: true, limit: Some(1_000), ..Default::default() };
            let rows = node.inbox(ask).await.unwrap();
            if rows.len() >= n {
                return rows;
            }
            let _ = events.recv().await;
        }
    })
    .await
}

/// Waits until a message is in a state; returns it.
pub async fn outbox_is(node: &Node, id: EnvelopeId, state: MessageState) -> api::Message {
    let mut events = node.events();
    within(state.as_str(), async {
        loop {
            let ask = api::MessageStatus { id: id.to_string() };
            let message = node.message(ask).await.unwrap();
            if message.state == state {
                return message;
            }
            let _ = events.recv().await;
        }
    })
    .await
}
