//! A node's local API: HTTP with JSON for programs in any language, over a Unix socket that only the
//! home's owner can open and, if asked for, over loopback TCP with a token (`docs/local-api.md`).
//!
//! | module | what it holds |
//! |---|---|
//! | `serve` | connections, their time limits and their end |
//! | `guard` | who is let in: pure rules over a request's head |
//! | `gate` | what every request passes: the guard, limits, its body, its session |
//! | `limits` | how much at once |
//! | `routes` | from a path to a verb |
//! | `send`, `events` | the two verbs that are more than question and answer |
//! | `socket`, `pump` | streams: the upgrade to a WebSocket, and bytes in between |
//! | `shapes` | what events look like |
//! | `openapi` | the document, from the same list as the routes |
//! | `token` | the TCP listener's token and address, in the home |
//! | `failure` | errors as answers |

mod events;
mod failure;
mod gate;
mod guard;
mod limits;
pub(crate) mod openapi;
mod pump;
mod routes;
mod send;
mod serve;
mod shapes;
mod socket;
mod token;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use meshwire_transport::net::Net;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Duration;

use crate::api::{ApiError, ErrorKind};
use crate::home::{Home, io_error};
use crate::node::Node;
use gate::Gate;
pub use openapi::document;
pub(crate) use pump::reset;
pub(crate) use socket::{LONGEST_ACCEPT, MAX_MESSAGE, config as socket_config};
pub use token::{Token, url};

/// The header that says which session asks.
pub const SESSION_HEADER: &str = "meshwire-session";
/// The version in every path.
pub(crate) const API: u32 = 1;
/// How long requests under way are waited for at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The media type of metrics.
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Paths that are no verbs of a node.
pub(crate) mod path {
    /// Which programs run.
    pub(crate) const VERSION: &str = "/v1/version";
    /// Whether the node works.
    pub(crate) const HEALTH: &str = "/v1/health";
    /// The document.
    pub(crate) const OPENAPI: &str = "/v1/openapi.json";
    /// What happens.
    pub(crate) const EVENTS: &str = "/v1/events";
    /// A stream to a peer.
    pub(crate) const OPEN_STREAM: &str = "/v1/streams/open";
    /// A stream that a peer opens.
    pub(crate) const ACCEPT_STREAM: &str = "/v1/streams/accept";
    /// Figures.
    pub(crate) const METRICS: &str = "/v1/metrics";
    /// The node's end.
    pub(crate) const SHUTDOWN: &str = "/v1/shutdown";
}

/// How to serve over loopback TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http {
    /// The port on 127.0.0.1; 0 for a free one.
    pub port: u16,
    /// Makes a new token: the old one is no longer valid.
    pub new_token: bool,
}

/// The serving ends of a home's local API.
#[derive(Debug)]
pub struct Server {
    files: Vec<PathBuf>,
    stop: watch::Sender<bool>,
    serving: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens on the home's socket and, if asked, on loopback TCP. The home's lock is held by the
    /// node, so whatever is at that path is a dead one's.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; `http_port` if the port is taken.
    pub async fn bind(
        node: Node,
        net: Arc<dyn Net>,
        home: &Home,
        http: Option<Http>,
    ) -> Result<Self, ApiError> {
        let (stop, _) = watch::channel(false);
        let mut server = Self { files: Vec::new(), stop, serving: Vec::new() };
        token::remove_url(home)?;
        if let Some(http) = http {
            server.bind_tcp(node.clone(), &net, home, http).await?;
        }
        server.bind_unix(node, &net, home)?;
        Ok(server)
    }

    fn bind_unix(&mut self, node: Node, net: &Arc<dyn Net>, home: &Home) -> Result<(), ApiError> {
        let path = home.socket();
        let failed = |e| io_error(&path, &e);
        if let Err(e) = std::fs::remove_file(&path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            return Err(failed(e));
        }
        #[allow(clippy::disallowed_methods)] // this machine's own socket is no network
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let gate = Gate::new(node, net.clone(), self.stop.clone(), guard::Door::Unix);
        self.serving.push(tokio::spawn(serve::run(listener, Arc::new(gate))));
        self.files.push(path);
        Ok(())
    }

    async fn bind_tcp(
        &mut self,
        node: Node,
        net: &Arc<dyn Net>,
        home: &Home,
        http: Http,
    ) -> Result<(), ApiError> {
        let token = Token::of(home, net.as_ref(), http.new_token)?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, http.port));
        let failed = |e: std::io::Error| {
            let text =
                format!("cannot listen on {addr}: {e}; choose another port with --http PORT");
            ApiError::new(ErrorKind::Io, "http_port", text)
        };
        let listener = net.tcp_bind(addr).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let door = guard::Door::Tcp { port, token };
        let gate = Gate::new(node, net.clone(), self.stop.clone(), door);
        self.serving.push(tokio::spawn(serve::run(listener, Arc::new(gate))));
        self.files.push(token::write_url(home, port)?);
        Ok(())
    }

    /// Waits until somebody asks the node to stop.
    pub async fn stopped(&self) {
        let _ = self.stop.subscribe().wait_for(|s| *s).await;
    }

    /// Stops serving; requests under way are answered first, for a moment.
    pub async fn close(self) {
        self.stop.send_replace(true);
        let until = tokio::time::Instant::now() + LAST_WORDS;
        for mut serving in self.serving {
            if tokio::time::timeout_at(until, &mut serving).await.is_err() {
                serving.abort();
            }
        }
        for file in self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}
