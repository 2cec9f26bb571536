//! `meshwire bench hub`: the node that `bench idle` weighs, in a process of its own.
//!
//! It reads an [`Ask`] a line from standard input and answers each on standard output; when the input
//! ends, so does it.

use std::io::BufRead as _;

use anyhow::Context as _;
use meshwire_peer::api::Done;
use meshwire_peer::path::PathMode;
use meshwire_signaling::PublicKey;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::world::{Keep, join, open};
use crate::context::Context;
use crate::exit::Exit;

/// What the kernel counts time in towards programs: USER_HZ is 100 on all that Rust runs on.
const TICK_US: u64 = 10_000;
/// Lines that wait.
const LINES: usize = 8;

/// Be the node that bench idle measures (which starts it)
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire bench hub")]
pub(super) struct Args {}

/// What it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// Join a mesh.
    Join {
        /// The invite link.
        invite: String,
    },
    /// Who is there.
    Peers,
    /// What it takes.
    Weigh,
}

/// Its answer to [`Ask::Join`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Joined {
    /// Its key in the mesh.
    pub(super) key: PublicKey,
}

/// Its answer to [`Ask::Peers`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Peers {
    /// Members that are online, in all meshes.
    pub(super) online: u64,
}

/// Its answer to [`Ask::Weigh`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Weight {
    /// Resident memory, in bytes.
    pub(super) rss: u64,
    /// Processor time since its start, in microseconds.
    pub(super) cpu_us: u64,
    /// How often its threads have gone to sleep since its start.
    pub(super) sleeps: u64,
}

pub(super) async fn run(cx: &Context, Args {}: Args) -> anyhow::Result<Exit> {
    let node = open(&cx.net, Keep::Disk, &cx.home_path()?, PathMode::Auto).await?;
    let mut lines = lines();
    while let Some(line) = lines.recv().await {
        match serde_json::from_str(&line?)? {
            Ask::Join { invite } => {
                let key = join(&node, &invite, "hub").await?;
                cx.out.object(&Joined { key })?;
            }
            Ask::Peers => {
                let meshes = node.status(Done {}).await?.meshes;
                let online = meshes.iter().filter_map(|mesh| mesh.online).sum();
                cx.out.object(&Peers { online })?;
            }
            Ask::Weigh => cx.out.object(&weigh()?)?,
        }
    }
    node.close().await;
    Ok(Exit::Ok)
}

/// Standard input. A thread of its own blocks on it, and ends with it.
pub(super) fn lines() -> mpsc::Receiver<std::io::Result<String>> {
    let (line, lines) = mpsc::channel(LINES);
    std::thread::spawn(move || {
        for read in std::io::stdin().lock().lines() {
            if line.blocking_send(read).is_err() {
                return;
            }
        }
    });
    lines
}

fn weigh() -> anyhow::Result<Weight> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let rss = field(&status, "VmRSS:").context("/proc/self/status without VmRSS")?;
    let mut sleeps = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        // A thread may end in between.
        let status = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        sleeps += field(&status, "voluntary_ctxt_switches:").unwrap_or_default();
    }
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let ticks = ticks(&stat).context("/proc/self/stat without times")?;
    Ok(Weight { rss: rss.saturating_mul(1_024), cpu_us: ticks.saturating_mul(TICK_US), sleeps })
}

/// A number of `/proc/PID/status` (proc_pid_status(5)).
pub(super) fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time, of threads that have ended as well (proc_pid_stat(5), fields 14 and 15).
fn ticks(stat: &str) -> Option<u64> {
    // A program's name, field 2, may have anything in it.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11);
    let time = |text: Option<&str>| text?.parse::<u64>().ok();
    Some(time(times.next())?.saturating_add(time(times.next())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_weight() {
        let before = weigh().unwrap();
        assert!(before.rss > 1 << 20, "{before:?}");
        let status = "Name:\tx\nVmRSS:\t  1234 kB\nnonvoluntary_ctxt_switches:\t1\n";
        assert_eq!(field(status, "VmRSS:"), Some(1_234));
        let stat = "1 (a) b) S 1 2 3 4 5 6 7 8 9 10 140 15 1 1";
        assert_eq!(ticks(stat), Some(155));
        assert_eq!(field(status, "voluntary_ctxt_switches:"), None);
    }
}
