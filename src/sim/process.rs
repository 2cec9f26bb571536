//! Programs of this binary on hosts of a lab.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use tokio::time::{sleep, timeout};

/// Longest wait for a process to be ready or to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether it has ended.
const POLL: Duration = Duration::from_millis(10);

/// Bytes at the end of a log that are looked at.
const TAIL: u64 = 4096;

/// The variables that would mean something to a program that we start.
const OURS: [&str; 6] = [
    "MESHWIRE_HOME",
    "MESHWIRE_HTTP",
    "MESHWIRE_SESSION",
    "MESHWIRE_ADMIN_TOKEN",
    "MESHWIRE_LOG_FORMAT",
    "RUST_LOG",
];

/// A process that serves; killed when dropped.
pub(super) struct Process {
    child: Child,
    /// Held open: what it may still print must not fail.
    _stdout: BufReader<ChildStdout>,
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
    pub(super) async fn start(mut command: Command, log: &Path) -> Result<(Self, Value), String> {
        let failed = |e: std::io::Error| format!("it does not start: {e}");
        for name in OURS {
            command.env_remove(name);
        }
        let stderr = OpenOptions::new().append(true).create(true).open(log).map_err(failed)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take().ok_or_else(|| "it has no output".to_owned())?;
        let stdout = BufReader::new(ChildStdout::from_std(stdout).map_err(failed)?);
        let mut process = Self { child, _stdout: stdout };
        let mut line = String::new();
        match timeout(PATIENCE, process._stdout.read_line(&mut line)).await {
            Err(_) => Err(format!("it was not ready within {} s", PATIENCE.as_secs())),
            Ok(Err(e)) => Err(failed(e)),
            Ok(Ok(_)) => match serde_json::from_str(&line) {
                Ok(ready) => Ok((process, ready)),
                Err(_) => Err({
                    let last = last_line(log).unwrap_or_else(|| "it said nothing".to_owned());
                    format!("it ended: {last}")
                }),
            },
        }
    }

    /// Asks it to end, as a service manager does, and waits until it has.
    pub(super) async fn terminate(mut self) -> Result<(), String> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let told = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            told.map_err(|e| format!("it cannot be told to end: {e}"))?;
        }
        self.ended().await
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&mut self) -> Result<(), String> {
        let wait = async {
            loop {
                match self.child.try_wait() {
                    Ok(Some(_)) => return Ok(()),
                    Ok(None) => sleep(POLL).await,
                    Err(e) => return Err(e.to_string()),
                }
            }
        };
        let late = |_| format!("it did not end within {} s", PATIENCE.as_secs());
        timeout(PATIENCE, wait).await.map_err(late)?
    }
}

/// The last line of a file of which nobody knows how long it is.
pub(super) fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    String::from_utf8_lossy(&bytes).lines().last().map(str::to_owned)
}

/// Where this program is, to be started once more.
pub(super) fn own_program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|e| format!("this program's own path is not known: {e}"))
}
