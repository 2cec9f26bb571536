//! The background node: a home's node with its socket, until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use meshwire_transport::net::Net;
use tokio::signal::unix::{SignalKind, signal};

use super::{DirectPaths, Node};
use crate::api::{ApiError, Done, ErrorKind, Status};
use crate::home::{Home, io_error};
use crate::local_api;

/// Runs the node of `home` until its local API is told so, or SIGINT or SIGTERM comes. `ready` is
/// called once that API answers: on the home's socket and, with `http`, on loopback TCP.
///
/// # Errors
/// [`ApiError`]; `home_busy` if somebody else has the home.
pub async fn run(
    net: Arc<dyn Net>,
    home: &Home,
    http: Option<local_api::Http>,
    direct: DirectPaths,
    ready: impl FnOnce(&Status) + Send,
) -> Result<(), ApiError> {
    let busy = || {
        let text = "another meshwire works with this home: see meshwire status";
        ApiError::new(ErrorKind::Exists, "home_busy", text)
    };
    let lock = home.try_lock()?.ok_or_else(busy)?;
    let node = Node::open(net.clone(), home, lock, direct).await?;
    node.inner.background.store(true, Ordering::Relaxed);
    let server = local_api::Server::bind(node.clone(), net, home, http).await?;
    let signals = |kind| signal(kind).map_err(|e| io_error(home.path(), &e));
    let (mut term, mut int) =
        (signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?);
    ready(&node.status(Done {}).await?);
    tokio::select! {
        () = server.stopped() => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    server.close().await;
    node.leave().await;
    node.close().await;
    Ok(())
}
