//! Who plays: processes of this binary with homes in a temporary folder. Dropping the cast ends the
//! processes, by their handles, and then removes the folder.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use meshwire_transport::net::Net;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::time::timeout;

use super::Sabotage;
use super::gate::Gate;
use super::proxy::{Part, Proxy, through};

/// Longest wait for a process to be ready or a verb to end: none takes a second by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// The nodes' names, and their homes'.
pub(super) const NAMES: [&str; 3] = ["ana", "bob", "cy"];
/// Indices into [`NAMES`].
pub(super) const ANA: usize = 0;
/// See [`ANA`].
pub(super) const BOB: usize = 1;
/// See [`ANA`].
pub(super) const CY: usize = 2;

/// A process that serves; killed when dropped.
struct Process {
    child: Child,
    /// Held open: what it may still print must not fail.
    stdout: Option<BufReader<ChildStdout>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts it and waits for its first line, which is JSON and says that it is ready.
    async fn start(mut command: Command, log: &Path) -> anyhow::Result<(Self, Value)> {
        let stderr = OpenOptions::new().append(true).create(true).open(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut process = Self { child: command.spawn()?, stdout: None };
        let stdout = process.child.stdout.take().context("it has no standard output")?;
        let stdout = process.stdout.insert(BufReader::new(ChildStdout::from_std(stdout)?));
        let mut line = String::new();
        match timeout(PATIENCE, stdout.read_line(&mut line)).await {
            Err(_) => bail!("it was not ready within {} s", PATIENCE.as_secs()),
            Ok(Err(e)) => Err(e.into()),
            Ok(Ok(_)) => match serde_json::from_str(&line) {
                Ok(ready) => Ok((process, ready)),
                Err(_) => bail!("it ended: {}", last_line(log)),
            },
        }
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("it said nothing").to_owned()
}

/// See the module's documentation. The order of its fields is the order in which they end.
pub(super) struct Cast {
    nodes: [Option<Process>; NAMES.len()],
    broker: Option<Process>,
    proxies: Vec<Proxy>,
    gate: Arc<Gate>,
    listen: SocketAddr,
    net: Arc<dyn Net>,
    program: PathBuf,
    folder: TempDir,
}

impl Cast {
    /// Nobody yet, in a fresh folder.
    pub(super) fn new(net: Arc<dyn Net>, keep: bool) -> anyhow::Result<Self> {
        let mut folder = tempfile::Builder::new().prefix("meshwire-demo-").tempdir()?;
        folder.disable_cleanup(keep);
        Ok(Self {
            nodes: [const { None }; NAMES.len()],
            broker: None,
            proxies: Vec::new(),
            gate: Arc::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            net,
            program: std::env::current_exe().context("this program's own path")?,
            folder,
        })
    }

    /// Where everything is.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The outside world.
    pub(super) fn net(&self) -> &dyn Net {
        self.net.as_ref()
    }

    /// A verb, not started, with nothing of the caller's environment that means something to it.
    pub(super) fn command(&self, home: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_remove("MESHWIRE_HOME").env_remove("MESHWIRE_ADMIN_TOKEN");
        command.arg("--json").arg("--home").arg(self.folder.path().join(home)).args(args);
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Starts the broker, the first time on a free port, then on the same; its admin token, if new.
    pub(super) async fn start_broker(&mut self) -> anyhow::Result<Option<String>> {
        let listen = self.listen.to_string();
        let command = self.command("broker", &["broker", "--listen", &listen]);
        let started = Process::start(command, &self.log("broker")).await;
        let (process, ready) = started.context("starting the broker")?;
        self.listen = text(&ready, "addr")?.parse()?;
        self.broker = Some(process);
        Ok(ready["admin_token"].as_str().map(str::to_owned))
    }

    /// Ends the broker as a power cut would: SIGKILL.
    pub(super) fn kill_broker(&mut self) {
        self.broker = None;
    }

    /// Puts a proxy in front of somebody's node: of bob's a misbehaving one, where the sabotage wants that, of cy's the
    /// gate. The link to join by.
    pub(super) async fn way(
        &mut self,
        who: usize,
        sabotage: Option<Sabotage>,
        link: &str,
    ) -> anyhow::Result<String> {
        let part = match who {
            BOB => sabotage.and_then(Sabotage::fault).map(Part::Fault),
            CY => Some(Part::Gate(self.gate.clone())),
            _ => None,
        };
        let Some(part) = part else { return Ok(link.to_owned()) };
        let proxy = Proxy::start(self.net.clone(), self.listen, part).await?;
        let link = through(link, proxy.addr())?;
        self.proxies.push(proxy);
        Ok(link)
    }

    /// What is in front of cy's node.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Creates the mesh, as ana.
    pub(super) async fn create_mesh(&self, token: &str) -> anyhow::Result<()> {
        let url = format!("http://{}", self.listen);
        let args = ["mesh", "create", "demo", "--broker", &url, "--name", NAMES[ANA]];
        let mut command = self.command(NAMES[ANA], &args);
        command.env("MESHWIRE_ADMIN_TOKEN", token);
        finish(command).await.map(drop)
    }

    /// Starts a node, as `meshwire up --foreground`.
    pub(super) async fn up(&mut self, who: usize) -> anyhow::Result<()> {
        let name = NAMES[who];
        let command = self.command(name, &["up", "--foreground"]);
        let started = Process::start(command, &self.log(name)).await;
        let (process, _) = started.with_context(|| format!("starting {name}'s node"))?;
        self.nodes[who] = Some(process);
        Ok(())
    }

    /// Stops a node, as `meshwire down`.
    pub(super) async fn down(&mut self, who: usize) -> anyhow::Result<()> {
        self.verb(who, &["down"]).await?;
        self.nodes[who] = None;
        Ok(())
    }

    /// Runs a verb in somebody's home to its end; what it says.
    pub(super) async fn verb(&self, who: usize, args: &[&str]) -> anyhow::Result<Value> {
        finish(self.command(NAMES[who], args)).await
    }
}

/// Runs a verb to its end.
async fn finish(command: Command) -> anyhow::Result<Value> {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let Ok(output) = timeout(PATIENCE, command.output()).await else {
        bail!("a command did not end within {} s", PATIENCE.as_secs());
    };
    let output = output?;
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let error = said.lines().rev().find_map(|l| serde_json::from_str::<Value>(l).ok());
    let message = error.as_ref().and_then(|e| e["error"]["message"].as_str());
    Err(anyhow!("{}", message.unwrap_or("a command failed")))
}

/// A field of a verb's answer.
pub(super) fn text(answer: &Value, field: &str) -> anyhow::Result<String> {
    let found = answer[field].as_str().map(str::to_owned);
    found.with_context(|| format!("an answer without {field}: {answer}"))
}
