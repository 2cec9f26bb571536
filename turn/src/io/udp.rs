//! Datagrams from clients and from peers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::shared::{Relay, Shared};
use crate::core::{AllocationId, Flow, Transport};

/// Pause after an error of a socket: most concern one datagram, but one that stays must not turn
/// into a busy loop.
const PAUSE: Duration = Duration::from_millis(10);

/// Serves one of the sockets that clients write to.
pub(super) async fn serve(shared: Arc<Shared>, index: usize) {
    let mut stopping = shared.stopping();
    let Some(socket) = shared.udp.get(index).cloned() else { return };
    let id = u64::try_from(index).unwrap_or(u64::MAX);
    loop {
        let got = tokio::select! {
            got = socket.recv(|datagrams| {
                let now = shared.now();
                shared.burst(|burst| {
                    for datagram in datagrams {
                        let flow = Flow {
                            transport: Transport::Udp,
                            id,
                            local: datagram.local,
                            client: datagram.from,
                        };
                        shared.client_sent(now, &flow, datagram.data, burst);
                    }
                });
            }) => got,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        go_on(got).await;
    }
}

/// Serves a relayed socket until its allocation ends.
pub(super) async fn relay(shared: Arc<Shared>, relay: Arc<Relay>, id: AllocationId) {
    loop {
        let got = tokio::select! {
            got = relay.socket.recv(|datagrams| {
                let now = shared.now();
                shared.burst(|burst| {
                    for datagram in datagrams {
                        let length = datagram.data.len();
                        let to = shared.peer_sent(now, id, datagram.from, length);
                        if let Some(delivery) = to {
                            shared.deliver(&delivery, datagram.data, burst);
                        }
                    }
                });
            }) => got,
            () = relay.stop.notified() => return,
        };
        go_on(got).await;
    }
}

/// Lets others run, and rests after an error.
async fn go_on(got: io::Result<()>) {
    match got {
        Ok(()) => tokio::task::consume_budget().await,
        Err(_) => tokio::time::sleep(PAUSE).await,
    }
}
