//! What every verb knows.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use meshwire_peer::api::{ApiError, Done, ErrorKind, MeshInfo, Status};
use meshwire_peer::client::Client;
use meshwire_peer::core::resolve::MIN_PREFIX;
use meshwire_peer::{Agent, Home};
use meshwire_transport::net::Net;

use crate::logging::LogFormat;
use crate::output::Out;
use crate::progress::Progress;

/// How long a verb without a background node waits for brokers: longer, and people think it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long one verb waits for another that has the home.
const HOLDER_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a home that somebody has.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Context {
    home: Option<PathBuf>,
    /// The mesh that was named.
    pub(crate) mesh: Option<String>,
    /// Where output goes.
    pub(crate) out: Out,
    /// How often `-v` was given.
    pub(crate) verbose: u8,
    /// How the log is written.
    pub(crate) log_format: LogFormat,
    /// The outside world.
    pub(crate) net: Arc<dyn Net>,
}

/// Who works with a home right now.
pub(crate) enum Holder {
    /// Nobody.
    Free,
    /// Its background node.
    Node(Client, Box<Status>),
}

impl Context {
    pub(crate) fn new(
        home: Option<PathBuf>,
        mesh: Option<String>,
        out: Out,
        verbose: u8,
        log_format: LogFormat,
        net: Arc<dyn Net>,
    ) -> Self {
        Self { home, mesh, out, verbose, log_format, net }
    }

    /// Where the home is: as given, else `~/.meshwire`.
    pub(crate) fn home_path(&self) -> anyhow::Result<PathBuf> {
        let default = || {
            let home = std::env::home_dir().filter(|h| !h.as_os_str().is_empty());
            home.map(|h| h.join(".meshwire"))
        };
        let path = self.home.clone().or_else(default);
        path.context("no home folder is known: name one with --home")
    }

    /// The home, made if missing.
    pub(crate) fn home(&self) -> anyhow::Result<Home> {
        Ok(Home::open(&self.home_path()?)?)
    }

    /// Asks the home's background node, or works with the home until `ask` is done.
    pub(crate) async fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(&Agent) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let agent = Agent::open(self.net.clone(), &self.home()?).await?;
        let answer = ask(&agent).await;
        agent.close().await;
        answer
    }

    /// Lets an agent without a background node hear from its brokers before it answers.
    pub(crate) async fn settle(&self, agent: &Agent) {
        if agent.is_own() {
            let _progress = self.progress("asking the broker");
            agent.settle(PATIENCE).await;
        }
    }

    /// Who has the home, once that is clear: another verb has it for a moment only.
    pub(crate) async fn holder(&self, home: &Home) -> anyhow::Result<Holder> {
        let until = self.net.now() + HOLDER_PATIENCE;
        loop {
            if home.try_lock()?.is_some() {
                return Ok(Holder::Free);
            }
            let client = Client::new(home.socket());
            match client.status(&Done {}).await {
                Ok(status) => {
                    // Asked as whoever runs this: a session may do less than the home's owner.
                    let client = client.with_session(Client::session_from_env());
                    return Ok(Holder::Node(client, Box::new(status)));
                }
                Err(_) if self.net.now() < until => tokio::time::sleep(POLL).await,
                Err(_) => {
                    let text = "another meshwire command works with this home and does not end, \
                                such as meshwire inbox --follow: end it first";
                    return Err(ApiError::new(ErrorKind::Io, "home_busy", text).into());
                }
            }
        }
    }

    /// Whether a mesh is the one that was named, by name, id or its start; all are if none was.
    pub(crate) fn means(&self, mesh: &MeshInfo) -> bool {
        let id =
            |named: &str| named.len() >= MIN_PREFIX && mesh.mesh.to_string().starts_with(named);
        self.mesh.as_deref().is_none_or(|named| mesh.name == named || id(named))
    }

    /// Shows that work goes on.
    pub(crate) fn progress(&self, text: impl Into<String>) -> Progress {
        Progress::start(self.out.json, text)
    }
}
