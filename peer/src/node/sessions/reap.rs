//! Ends sessions whose process is gone.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::Command;
use tokio::time::{Duration, MissedTickBehavior};

use super::end;
use crate::core::process::{Process, parse_ps, parse_stat};
use crate::node::mesh::Mesh;

/// How often processes are looked at: others are to see a session's end within 30 s, and sooner is
/// friendlier.
const EVERY: Duration = Duration::from_secs(2);
/// The system's error number for a process that went while it was looked at (errno(3): ESRCH).
const NO_SUCH_PROCESS: i32 = 3;

/// Runs until it is dropped.
pub(in crate::node) async fn run(mesh: Arc<Mesh>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for session in mesh.sessions.live() {
            if super::gone(session.pid, session.process_start).await {
                end(&mesh, &session.key(), "its process is gone").await;
            }
        }
    }
}

/// What the system says of a process; none if there is none of that number.
pub(super) async fn look(pid: u32) -> io::Result<Option<Process>> {
    if Path::new("/proc/self/stat").exists() { look_in_proc(pid).await } else { ask_ps(pid).await }
}

async fn look_in_proc(pid: u32) -> io::Result<Option<Process>> {
    match tokio::fs::read(format!("/proc/{pid}/stat")).await {
        // A program's name may be any bytes.
        Ok(text) => match parse_stat(&String::from_utf8_lossy(&text)) {
            Some(process) => Ok(Some(process)),
            None => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat is no such line"))
            }
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.raw_os_error() == Some(NO_SUCH_PROCESS) => Ok(None),
        Err(e) => Err(e),
    }
}

async fn ask_ps(pid: u32) -> io::Result<Option<Process>> {
    let mut command = Command::new("ps");
    command.env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
    let said =
        command.args(["-o", "stat=", "-o", "lstart=", "-p", &pid.to_string()]).output().await?;
    // It fails, and prints nothing, where there is no such process.
    Ok(parse_ps(&String::from_utf8_lossy(&said.stdout)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn processes_are_told_by_their_start() {
        let ours = std::process::id();
        let process = look(ours).await.unwrap().unwrap();
        assert!(process.is(process.start) && !process.is(process.start + 1));
        assert_eq!(look(ours).await.unwrap(), Some(process), "it does not change");
        // Above what any system numbers its processes with.
        assert_eq!(look(u32::MAX - 1).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_dead_child_is_gone_before_and_after_its_parent_looked() {
        let mut child = Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
        let pid = child.id().unwrap();
        let start = look(pid).await.unwrap().unwrap().start;
        assert!(!super::super::gone(pid, start).await);
        child.start_kill().unwrap();
        // Its pipe ends with it; nobody has waited for it yet.
        while !super::super::gone(pid, start).await {
            tokio::task::yield_now().await;
        }
        child.wait().await.unwrap();
        assert!(super::super::gone(pid, start).await);
    }
}
