//! Commands of a timeline, on hosts of a lab.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use meshwire_netsim::HostId;
use meshwire_netsim::lab::Lab;
use meshwire_netsim::scenario::Exec;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::facts::Exit;
use super::process::last_line;

/// A command under way. Its process ends with it.
pub(super) struct Command {
    /// The name under which its end is noted.
    pub(super) id: Option<String>,
    exit: Arc<Mutex<Option<Exit>>>,
    task: AbortHandle,
}

impl Drop for Command {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Command {
    /// Starts it in `folder`; what it prints goes to `log`.
    pub(super) fn start(
        lab: &Lab,
        host: HostId,
        exec: &Exec,
        folder: &Path,
        log: PathBuf,
        begin: Instant,
    ) -> Result<Self, String> {
        let Some((program, args)) = exec.command.split_first() else {
            return Err("a command without a program".to_owned());
        };
        let failed = |e: std::io::Error| format!("{program} does not start: {e}");
        let open = || OpenOptions::new().append(true).create(true).open(&log).map_err(failed);
        let mut command = lab.command(host, program).map_err(|e| e.to_string())?;
        command.args(args).current_dir(folder);
        command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let exit = Arc::new(Mutex::new(None));
        let (slot, within) = (Arc::clone(&exit), exec.within);
        let task = tokio::spawn(async move {
            let ended = timeout(within, child.wait()).await;
            if ended.is_err() {
                // It may just have ended.
                let _ = child.kill().await;
            }
            let code = ended.ok().and_then(Result::ok).and_then(|status| status.code());
            let said = last_line(&log).unwrap_or_default();
            let exit = Exit { at: begin.elapsed(), code, said };
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
        });
        Ok(Self { id: None, exit, task: task.abort_handle() })
    }

    /// How it ended, if it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
