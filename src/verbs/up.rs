//! `meshwire up`

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::FalseyValueParser;
use meshwire::direct::{Settings, paths};
use meshwire_peer::api::{Done, Status};
use meshwire_peer::client::Client;
use meshwire_peer::local_api::{self, Http};
use meshwire_peer::path::PathMode;
use meshwire_peer::{Home, node};
use serde::Serialize;

use crate::context::{Context, Holder, POLL};
use crate::exit::{Exit, Failed, invalid};
use crate::logging::LogFormat;
use crate::output::note;

/// Longest wait for the node's socket: migrations of a large database take their time.
const START: Duration = Duration::from_secs(30);
/// Lines of the log that are shown when the node does not start.
const TAIL_LINES: usize = 10;
/// Most bytes of the log that are looked at for them.
const TAIL_BYTES: u64 = 16 * 1024;

/// Start this node in the background, for all its meshes
///
/// It keeps connected, takes what comes in and sends what waits, until `meshwire down`.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire up\n  \
    meshwire up --http                                 for programs: docs/local-api.md\n  \
    meshwire up --foreground                           as a service manager wants it")]
pub(crate) struct Args {
    /// Stay in the foreground and log to stderr, until Ctrl-C
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Serve the local API on 127.0.0.1 too, on this port or a free one; clients show the token in
    /// HOME/api.token, and HOME/api.url has the address
    #[arg(
        long,
        env = "MESHWIRE_HTTP",
        value_name = "PORT",
        num_args = 0..=1,
        default_missing_value = "0"
    )]
    http: Option<u16>,
    /// With --http: make a new token, so that the old one is no longer good
    #[arg(long, requires = "http")]
    new_http_token: bool,
    /// Which paths messages may take: auto, relay-only, or hide-addresses (direct paths through TURN
    /// servers alone, so that peers do not learn this machine's addresses)
    #[arg(long, env = "MESHWIRE_PATHS", value_name = "MODE", default_value_t)]
    paths: PathMode,
    /// The UDP port for direct paths, for a firewall or router that lets one through; else any
    #[arg(long, env = "MESHWIRE_UDP_PORT", value_name = "PORT", default_value_t = 0)]
    #[arg(hide_default_value = true)]
    udp_port: u16,
    /// Do not ask the router to forward a port (PCP, NAT-PMP, UPnP)
    #[arg(long, env = "MESHWIRE_NO_PORT_MAPPING", value_parser = FalseyValueParser::new())]
    no_port_mapping: bool,
}

impl Args {
    fn direct(&self) -> Settings {
        let port_mapping = !self.no_port_mapping;
        Settings { mode: self.paths, udp_port: self.udp_port, port_mapping }
    }

    /// How to serve over TCP, if at all.
    fn http(&self) -> anyhow::Result<Option<Http>> {
        let Some(port) = self.http else { return Ok(None) };
        let set = |name: &str| std::env::var_os(name);
        if port == 0 && in_container(Path::new("/.dockerenv").exists(), set) {
            let text = "in a container a free port is of no use, and 127.0.0.1 is the container's \
                        own: name the port with --http PORT";
            return Err(invalid("http_port", text).into());
        }
        Ok(Some(Http { port, new_token: self.new_http_token }))
    }
}

/// Whether this seems to be a container (inventory C-003).
fn in_container(dockerenv: bool, set: impl Fn(&str) -> Option<std::ffi::OsString>) -> bool {
    dockerenv
        || set("KUBERNETES_SERVICE_HOST").is_some()
        || set("CONTAINER").is_some_and(|v| v == "1")
}

/// What `--json` prints.
#[derive(Serialize)]
struct Up<'a> {
    event: &'static str,
    pid: u32,
    already_running: bool,
    log: Option<PathBuf>,
    /// Where the local API is on TCP.
    http: Option<String>,
    meshes: Vec<&'a str>,
}

impl<'a> Up<'a> {
    fn new(home: &Home, status: &'a Status, already_running: bool, log: Option<PathBuf>) -> Self {
        let meshes = status.meshes.iter().map(|m| m.mesh.name.as_str()).collect();
        let http = local_api::url(home);
        Self { event: "up", pid: status.pid, already_running, log, http, meshes }
    }

    fn describe(&self) -> String {
        let Self { pid, log, .. } = self;
        let mut text = match (self.already_running, log) {
            (true, _) => format!("The node is up already (process {pid})."),
            (false, Some(log)) => {
                format!("The node is up (process {pid}); it logs to {}.", log.display())
            }
            (false, None) => format!("The node is up (process {pid}); Ctrl-C ends it."),
        };
        if let Some(url) = &self.http {
            text.push_str(&format!(
                "\nIts local API is at {url}, for who has the token in api.token."
            ));
        }
        if self.meshes.is_empty() {
            text.push_str("\nIt is in no mesh yet. Next: meshwire join LINK");
        } else if log.is_some() && !self.already_running {
            text.push_str("\nNext: meshwire peers");
        }
        text
    }
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let http = args.http()?;
    match args.foreground {
        true => foreground(cx, http, args.direct()).await,
        false => background(cx, http, args.direct()).await,
    }
}

async fn foreground(cx: &Context, http: Option<Http>, direct: Settings) -> anyhow::Result<Exit> {
    let home = cx.home()?;
    let out = cx.out;
    let ready = |status: &Status| {
        let up = Up::new(&home, status, false, None);
        if let Err(e) = out.show(&up, || up.describe()) {
            // The node is what was asked for, not the line about it.
            tracing::warn!(error = %e, "cannot write to stdout");
        }
    };
    loop {
        if let Holder::Node(_, status) = cx.holder(&home).await? {
            let message = format!("this home's node is up already (process {})", status.pid);
            return Err(Failed { code: "already_running", message }.into());
        }
        let paths = paths(cx.net.clone(), direct).await;
        match node::run(cx.net.clone(), &home, http, paths, ready).await {
            // Another verb was faster; it has the home for a moment.
            Err(e) if e.code == "home_busy" => {}
            ended => return Ok(ended.map(|()| Exit::Ok)?),
        }
    }
}

async fn background(cx: &Context, http: Option<Http>, direct: Settings) -> anyhow::Result<Exit> {
    let home = cx.home()?;
    let log = home.log();
    if let Holder::Node(_, status) = cx.holder(&home).await? {
        let up = Up::new(&home, &status, true, Some(log));
        if http.is_some_and(|http| !serves(&up, http)) {
            let message = match &up.http {
                Some(url) => {
                    format!("the node is up already and serves {url}: meshwire down first")
                }
                None => "the node is up already, without --http: meshwire down first".to_owned(),
            };
            return Err(Failed { code: "already_running", message }.into());
        }
        cx.out.show(&up, || up.describe())?;
        return Ok(Exit::Ok);
    }
    let progress = cx.progress("starting the node");
    let (mut child, from) = spawn(cx, &home, http, direct)?;
    let status = started(cx, &home, &mut child).await;
    drop(progress);
    match status? {
        Some(status) => {
            let up = Up::new(&home, &status, false, Some(log));
            cx.out.show(&up, || up.describe())?;
            Ok(Exit::Ok)
        }
        None => {
            let said = tail(&log, from).unwrap_or_default();
            note(cx.out, &said);
            let last = said.lines().last().unwrap_or("it said nothing").to_owned();
            let message = format!("the node did not start: {last}");
            Err(Failed { code: "not_started", message }.into())
        }
    }
}

/// Whether a node that is up does what is asked for.
fn serves(up: &Up<'_>, http: Http) -> bool {
    let port = format!(":{}", http.port);
    up.http.as_ref().is_some_and(|url| http.port == 0 || url.ends_with(&port)) && !http.new_token
}

/// Starts this program again as the node, away from this terminal; also says where in the log it
/// begins.
fn spawn(
    cx: &Context,
    home: &Home,
    http: Option<Http>,
    direct: Settings,
) -> anyhow::Result<(Child, u64)> {
    let program = std::env::current_exe().context("this program's own path")?;
    let path = home.log();
    let open = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let log = open.with_context(|| path.display().to_string())?;
    let from = log.metadata()?.len();
    let mut command = Command::new(program);
    command.arg("--home").arg(home.path()).args(["up", "--foreground"]);
    command.args(std::iter::repeat_n("-v", usize::from(cx.verbose)));
    command.args(["--log-format", cx.log_format.word()]);
    // What it serves is decided here, whatever its environment says.
    command.env_remove("MESHWIRE_HTTP").args(["--paths", direct.mode.as_str()]);
    command.env_remove("MESHWIRE_NO_PORT_MAPPING");
    command.args(["--udp-port", &direct.udp_port.to_string()]);
    command.args((!direct.port_mapping).then_some("--no-port-mapping"));
    if let Some(Http { port, new_token }) = http {
        command.args(["--http", &port.to_string()]);
        command.args(new_token.then_some("--new-http-token"));
    }
    // A group of its own: Ctrl-C in this terminal is not meant for it.
    let stdout = match cx.log_format {
        LogFormat::Text => log.try_clone()?.into(),
        // A log for programs has events alone in it.
        LogFormat::Json => Stdio::null(),
    };
    command.stdin(Stdio::null()).stdout(stdout).stderr(log).process_group(0);
    Ok((command.spawn().context("starting the node")?, from))
}

/// Waits until the node answers. None: it has ended.
async fn started(cx: &Context, home: &Home, child: &mut Child) -> anyhow::Result<Option<Status>> {
    let client = Client::new(home.socket());
    let until = cx.net.now() + START;
    while cx.net.now() < until {
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
        match client.status(&Done {}).await {
            Ok(status) if status.pid == child.id() => return Ok(Some(status)),
            _ => tokio::time::sleep(POLL).await,
        }
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// The log's last lines since `from`.
fn tail(log: &Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(len.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_known_by_their_marks() {
        let none = |_: &str| None;
        let with = |name: &'static str, value: &'static str| {
            move |asked: &str| (asked == name).then(|| value.into())
        };
        assert!(!in_container(false, none) && in_container(true, none));
        assert!(in_container(false, with("KUBERNETES_SERVICE_HOST", "10.0.0.1")));
        assert!(in_container(false, with("CONTAINER", "1")));
        assert!(!in_container(false, with("CONTAINER", "0")));
    }

    #[test]
    fn the_tail_of_a_log_is_short_and_new() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("node.log");
        let lines: String = (0..5_000).map(|i| format!("line {i}\n")).collect();
        std::fs::write(&log, &lines).unwrap();
        let all = tail(&log, 0).unwrap();
        assert_eq!((all.lines().count(), all.lines().last()), (TAIL_LINES, Some("line 4999")));
        let from = u64::try_from(lines.len() - "line 4999\n".len()).unwrap();
        assert_eq!(tail(&log, from).unwrap(), "line 4999");
    }
}
