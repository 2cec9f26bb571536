//! `meshwire up`

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use meshwire_peer::api::{Done, Status};
use meshwire_peer::client::Client;
use meshwire_peer::{Home, node};
use serde::Serialize;

use crate::context::{Context, Holder, POLL};
use crate::exit::{Exit, Failed};
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
    meshwire up --foreground                           as a service manager wants it")]
pub(crate) struct Args {
    /// Stay in the foreground and log to stderr, until Ctrl-C
    #[arg(long)]
    pub(crate) foreground: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Up<'a> {
    event: &'static str,
    pid: u32,
    already_running: bool,
    log: Option<PathBuf>,
    meshes: Vec<&'a str>,
}

impl<'a> Up<'a> {
    fn new(status: &'a Status, already_running: bool, log: Option<PathBuf>) -> Self {
        let meshes = status.meshes.iter().map(|m| m.mesh.name.as_str()).collect();
        Self { event: "up", pid: status.pid, already_running, log, meshes }
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
        if self.meshes.is_empty() {
            text.push_str("\nIt is in no mesh yet. Next: meshwire join LINK");
        } else if log.is_some() && !self.already_running {
            text.push_str("\nNext: meshwire peers");
        }
        text
    }
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    if args.foreground { foreground(cx).await } else { background(cx).await }
}

async fn foreground(cx: &Context) -> anyhow::Result<Exit> {
    let home = cx.home()?;
    let out = cx.out;
    let ready = move |status: &Status| {
        let up = Up::new(status, false, None);
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
        match node::run(cx.net.clone(), &home, ready).await {
            // Another verb was faster; it has the home for a moment.
            Err(e) if e.code == "home_busy" => {}
            ended => return Ok(ended.map(|()| Exit::Ok)?),
        }
    }
}

async fn background(cx: &Context) -> anyhow::Result<Exit> {
    let home = cx.home()?;
    let log = home.log();
    if let Holder::Node(_, status) = cx.holder(&home).await? {
        let up = Up::new(&status, true, Some(log));
        cx.out.show(&up, || up.describe())?;
        return Ok(Exit::Ok);
    }
    let progress = cx.progress("starting the node");
    let (mut child, from) = spawn(cx, &home)?;
    let status = started(cx, &home, &mut child).await;
    drop(progress);
    match status? {
        Some(status) => {
            let up = Up::new(&status, false, Some(log));
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

/// Starts this program again as the node, away from this terminal; also says where in the log it
/// begins.
fn spawn(cx: &Context, home: &Home) -> anyhow::Result<(Child, u64)> {
    let program = std::env::current_exe().context("this program's own path")?;
    let path = home.log();
    let open = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let log = open.with_context(|| path.display().to_string())?;
    let from = log.metadata()?.len();
    let mut command = Command::new(program);
    command.arg("--home").arg(home.path()).args(["up", "--foreground"]);
    command.args(std::iter::repeat_n("-v", usize::from(cx.verbose)));
    // A group of its own: Ctrl-C in this terminal is not meant for it.
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
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
        let asked: Result<Status, _> = client.post("/v1/status", &Done {}, Duration::ZERO).await;
        match asked {
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
