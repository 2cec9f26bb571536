//! Connections of one listener, their time limits and their end.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use meshwire_transport::net::{BoxStream, Listener};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::gate::{Gate, stopped};
use super::limits::{CONNECTIONS, HEAD};
use super::routes;

/// Pause after an accept that failed: out of descriptors, or a connection that ended too early.
const RETRY: Duration = Duration::from_millis(50);

/// Where connections come from.
#[async_trait]
pub(super) trait Accept: Send + 'static {
    /// The next one.
    async fn next(&self) -> io::Result<BoxStream>;
}

#[async_trait]
impl Accept for UnixListener {
    async fn next(&self) -> io::Result<BoxStream> {
        Ok(Box::new(self.accept().await?.0))
    }
}

#[async_trait]
impl Accept for Box<dyn Listener> {
    async fn next(&self) -> io::Result<BoxStream> {
        Ok(self.accept().await?.0)
    }
}

/// Serves until the gate's stop is called; then lets requests under way end.
pub(super) async fn run(listener: impl Accept, gate: Arc<Gate>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let router = routes::router(&gate);
    let mut stopping = gate.stopping();
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let permit = room.clone().acquire_owned().await;
            (permit, listener.next().await)
        };
        let (permit, stream) = tokio::select! {
            accepted = accepted => accepted,
            () = stopped(&mut stopping) => break,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "the local API's accept failed");
                sleep(RETRY).await;
                continue;
            }
        };
        let (router, mut stopping) = (router.clone(), gate.stopping());
        connections.spawn(async move {
            let _permit = permit;
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
            let service = TowerToHyperService::new(router);
            let mut connection =
                std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopped(&mut stopping) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(e) = ended {
                tracing::debug!(error = %e, "a local API connection ended");
            }
        });
    }
    while connections.join_next().await.is_some() {}
}
