//! Connections of one listener, their time limits and their end.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use meshwire_transport::net::{BoxStream, Listener};
use tokio::net::UnixListener;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::gate::{Gate, stopped};
use super::limits::{CONNECTIONS, HEAD, STRANGERS, TCP_HEAD};
use super::routes;

/// Pause after an accept that failed: out of descriptors, or a connection that ended too early.
const RETRY: Duration = Duration::from_millis(50);

/// A connection, as what it carries sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Guest(Arc<GuestState>);

#[derive(Debug, Default)]
struct GuestState {
    known: AtomicBool,
    out: Notify,
}

impl Guest {
    /// It has shown what its door asks for.
    pub(super) fn vouch(&self) {
        self.0.known.store(true, Ordering::Relaxed);
    }

    fn is_known(&self) -> bool {
        self.0.known.load(Ordering::Relaxed)
    }

    /// Waits until it has to go.
    async fn sent_away(&self) {
        self.0.out.notified().await;
        if self.is_known() {
            // It has become known meanwhile.
            std::future::pending().await
        }
    }
}

/// Connections that have shown nothing yet, oldest first. A new one does not wait for them: whoever
/// has the token shows it at once.
#[derive(Debug, Default)]
struct Strangers(VecDeque<Guest>);

impl Strangers {
    fn add(&mut self, guest: &Guest) {
        // Nobody else holds one whose connection has ended.
        self.0.retain(|g| !g.is_known() && Arc::strong_count(&g.0) > 1);
        if self.0.len() >= STRANGERS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.0.out.notify_one();
        }
        self.0.push_back(guest.clone());
    }
}

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
    let mut strangers = Strangers::default();
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
        let guest = Guest::default();
        if gate.is_open() {
            strangers.add(&guest);
        }
        connections.spawn(serve(stream, router.clone(), gate.clone(), guest, permit.ok()));
    }
    while connections.join_next().await.is_some() {}
    gate.idle().await;
}

/// Serves one connection to its end.
async fn serve(
    stream: BoxStream,
    router: Router,
    gate: Arc<Gate>,
    guest: Guest,
    _permit: Option<OwnedSemaphorePermit>,
) {
    let mut stopping = gate.stopping();
    let mut builder = http1::Builder::new();
    let head = if gate.is_open() { TCP_HEAD } else { HEAD };
    builder.timer(TokioTimer::new()).header_read_timeout(head);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(guest.clone());
        TowerToHyperService::new(router.clone()).call(request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = guest.sent_away() => {
            tracing::debug!("a local API connection that showed no token made room for another");
            return;
        }
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "a local API connection ended");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::{Mutex, mpsc, watch};
    use tokio::time::Instant;

    use super::super::events::KEEP_ALIVE;
    use super::super::guard::Door;
    use super::super::token::Token;
    use super::*;
    use crate::home::Home;
    use crate::node::Node;
    use crate::node::testing::{World, session};

    struct Doorway(Mutex<mpsc::UnboundedReceiver<BoxStream>>);

    #[async_trait]
    impl Accept for Doorway {
        async fn next(&self) -> io::Result<BoxStream> {
            match self.0.lock().await.recv().await {
                Some(stream) => Ok(stream),
                None => std::future::pending().await,
            }
        }
    }

    struct Served {
        node: Node,
        connect: mpsc::UnboundedSender<BoxStream>,
        token: String,
        _stop: watch::Sender<bool>,
        _world: World,
        _folder: tempfile::TempDir,
    }

    impl Served {
        async fn new(tcp: bool) -> Self {
            let world = World::new().await;
            let node = world.node().await;
            let folder = tempfile::tempdir().unwrap();
            let home = Home::open(&folder.path().join("home")).unwrap();
            let token = Token::of(&home, world.net().as_ref(), false).unwrap();
            let text = std::fs::read_to_string(home.api_token()).unwrap();
            let door = if tcp { Door::Tcp { port: 7901, token } } else { Door::Unix };
            let (stop, _) = watch::channel(false);
            let gate = Arc::new(Gate::new(node.clone(), world.net(), stop.clone(), door));
            let (connect, incoming) = mpsc::unbounded_channel();
            tokio::spawn(run(Doorway(Mutex::new(incoming)), gate));
            let token = text.trim().to_owned();
            Self { node, connect, token, _stop: stop, _world: world, _folder: folder }
        }

        fn connect(&self) -> DuplexStream {
            let (ours, theirs) = duplex(64 * 1024);
            self.connect.send(Box::new(theirs)).unwrap();
            ours
        }

        /// Asks, and reads until the answer has this text.
        async fn ask(&self, stream: &mut DuplexStream, path: &str, further: &str, until: &str) {
            let head = format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n{further}\r\n",
                self.token
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            read_until(stream, until).await;
        }
    }

    async fn read_until(stream: &mut DuplexStream, text: &str) {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(text) {
            let mut bytes = [0; 4096];
            let len = stream.read(&mut bytes).await.unwrap();
            assert!(len > 0, "no {text:?} in {:?}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&bytes[..len]);
        }
    }

    /// Waits for the connection's end.
    async fn end(stream: &mut DuplexStream) {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_to_come_in_time() {
        for (tcp, limit) in [(false, HEAD), (true, TCP_HEAD)] {
            let served = Served::new(tcp).await;
            for begin in ["", "GET /v1/version HTTP/1.1\r\nHost: loc"] {
                let start = Instant::now();
                let mut stream = served.connect();
                stream.write_all(begin.as_bytes()).await.unwrap();
                end(&mut stream).await;
                assert_eq!(start.elapsed().as_secs(), limit.as_secs(), "{tcp} {begin:?}");
            }
            // The same for the next head on a connection that is known.
            let mut stream = served.connect();
            served.ask(&mut stream, "/v1/version", "", "schema_version").await;
            let start = Instant::now();
            end(&mut stream).await;
            assert_eq!(start.elapsed().as_secs(), limit.as_secs());
            served.node.close().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_says_that_it_is_alive_for_longer_than_any_head() {
        let served = Served::new(true).await;
        let mut stream = served.connect();
        served.ask(&mut stream, "/v1/events", "", "event: ready").await;
        // Word of the link, which cannot come up, comes in between.
        let (mut alive, mut last) = (0, Instant::now());
        while alive < 5 {
            let mut bytes = [0; 4096];
            let len = stream.read(&mut bytes).await.unwrap();
            let said = String::from_utf8_lossy(&bytes[..len]);
            assert!(len > 0, "it goes on");
            if !said.contains("event: ") {
                assert!(said.contains(":\n\n"), "{said:?}");
                assert_eq!(last.elapsed().as_secs(), KEEP_ALIVE.as_secs());
                alive += 1;
            }
            last = Instant::now();
        }
        served.node.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_sessions_stream_ends_with_the_session() {
        let served = Served::new(false).await;
        let started = session(&served.node, "builder", None).await;
        let header = format!("Meshwire-Session: {}\r\n", started.token);
        let mut stream = served.connect();
        served.ask(&mut stream, "/v1/events", &header, "event: ready").await;
        let ask = crate::api::EndSession { session: "builder".into() };
        served.node.end_session(ask).await.unwrap();
        // The chunk that ends the answer.
        read_until(&mut stream, "0\r\n\r\n").await;
        served.node.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_make_room_for_each_other_and_keep_nobody_out() {
        let served = Served::new(true).await;
        let mut known = served.connect();
        served.ask(&mut known, "/v1/version", "", "schema_version").await;
        let start = Instant::now();
        let mut strangers: Vec<_> = (0..STRANGERS * 3).map(|_| served.connect()).collect();
        // Who has the token is served while strangers sit there, on a new connection too.
        served.ask(&mut known, "/v1/version", "", "schema_version").await;
        served.ask(&mut served.connect(), "/v1/version", "", "schema_version").await;
        for stream in &mut strangers[..STRANGERS * 2] {
            end(stream).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO, "the oldest went at once");
        end(&mut strangers[STRANGERS * 3 - 1]).await;
        assert_eq!(start.elapsed().as_secs(), TCP_HEAD.as_secs(), "the newest had their time");
        served.node.close().await;
    }
}
