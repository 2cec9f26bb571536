//! Two nodes on this machine.

use std::sync::Arc;

use meshwire_transport::net::OsNet;
use meshwire_transport::quic::interfaces::FixedInterfaces;
use meshwire_transport::quic::{Attempt, Config, Dial, QuicConn, QuicError, QuicNode, Role};

/// A node that has nothing but loopback.
pub(crate) async fn node() -> QuicNode {
    let interfaces = Arc::new(FixedInterfaces::new([]));
    QuicNode::start(Arc::new(OsNet), Config::new(interfaces)).await.unwrap()
}

/// Both attempts know each other; candidates go by themselves.
pub(crate) async fn introduce(a: &Attempt, b: &Attempt) {
    a.handle().set_remote(b.local().clone()).await.unwrap();
    b.handle().set_remote(a.local().clone()).await.unwrap();
}

pub(crate) fn dial(role: Role) -> Dial {
    Dial { loopback: true, ..Dial::new(role) }
}

/// Connects two nodes.
pub(crate) async fn connect(
    a: &QuicNode,
    b: &QuicNode,
) -> (Result<QuicConn, QuicError>, Result<QuicConn, QuicError>) {
    let mut left = a.dial(dial(Role::Controlling)).unwrap();
    let mut right = b.dial(dial(Role::Controlled)).unwrap();
    introduce(&left, &right).await;
    tokio::join!(left.connected(), right.connected())
}
