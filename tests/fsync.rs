//! Power-cut honesty: what an answer promises is on disk before its first byte leaves. strace watches
//! real processes; `MESHWIRE_REQUIRE_STRACE=1` makes its absence a failure.

// Helpers panic, which is what they are for.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;
mod strace;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{PATIENCE, Pair, Running, pair};
use strace::{CALLS, Promise, Trace, frame};
use tempfile::TempDir;

/// Longer than any string in a trace.
const STRING: &str = "1048576";

/// Whether this machine can trace; if not, says so.
fn can_trace() -> bool {
    let mut probe = Command::new("strace");
    probe.args(["-f", "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    let why = match probe.status() {
        Ok(status) if status.success() => return true,
        Ok(status) => format!("strace cannot trace here ({status})"),
        Err(e) => format!("strace is not there ({e})"),
    };
    let required = std::env::var_os("MESHWIRE_REQUIRE_STRACE").is_some_and(|v| v == "1");
    assert!(!required, "{why}");
    // Not println: the harness would swallow it.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
    false
}

/// Where traces go.
struct Traces(TempDir);

impl Traces {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts a command under strace, which is its grandchild: process id and signals stay its own.
    fn watch(&self, name: &str, command: &Command) -> Command {
        let mut traced = Command::new("strace");
        traced.args(["-D", "-f", "-y", "-xx", "-s", STRING, "-e", &format!("trace={CALLS}"), "-o"]);
        traced.arg(self.path(name)).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => traced.env(key, value),
                None => traced.env_remove(key),
            };
        }
        traced.stdin(Stdio::null());
        traced
    }

    /// The whole trace of a process that has ended.
    fn of(&self, name: &str, pid: u32) -> Trace {
        Trace::parse(&whole(&self.path(name), pid))
    }
}

/// What strace wrote, once it has seen the end of its process.
fn whole(path: &Path, pid: u32) -> String {
    let until = Instant::now() + PATIENCE;
    let end = |l: &str| l.starts_with(&format!("{pid} ")) && l.contains("+++ ");
    loop {
        let text = std::fs::read_to_string(path).unwrap();
        if text.lines().any(end) {
            return text;
        }
        assert!(Instant::now() < until, "strace has not written the end of {}", path.display());
        sleep(Duration::from_millis(5));
    }
}

fn ended(process: Running) -> u32 {
    let pid = process.pid();
    assert_eq!(process.terminate(), 0);
    pid
}

#[test]
fn no_answer_leaves_before_what_it_promises_is_on_disk() {
    if !can_trace() {
        return;
    }
    let traces = Traces(TempDir::new().unwrap());
    let Pair { ana, bob, mut broker } = pair();
    broker.restart_as(|command| traces.watch("broker", &command));
    // Frames on direct paths are not to be read in a trace.
    let node = |home: &common::Home, name| {
        home.node_as(|mut command| {
            command.args(["--paths", "relay-only"]);
            traces.watch(name, &command)
        })
    };
    let (at_ana, at_bob) = (node(&ana, "ana"), node(&bob, "bob"));

    // Through the background node, then by a process of its own.
    let first = ana.deliver("bob", "one")["id"].as_str().unwrap().to_owned();
    let queued = ana.ok(&["send", "bob", "two"])["id"].as_str().unwrap().to_owned();
    ana.deliver("bob", "three");
    let at_ana = ended(at_ana);
    let alone = traces.watch("send", &ana.command(&["--json", "send", "bob", "four"]));
    let alone = Running::start(alone, None);
    let last = alone.json_line()["id"].as_str().unwrap().to_owned();
    let sender = alone.pid();
    assert_eq!(alone.wait(), 0);
    let (at_bob, at_broker) = (ended(at_bob), broker.pid());
    assert_eq!(broker.stop(), 0);

    let trace = traces.of("broker", at_broker);
    for id in [&first, &queued, &last] {
        let id = id.as_bytes();
        let accepted = Promise {
            request: Some(&[&frame("send"), id]),
            answer: &[&frame("accepted"), id],
            file: "/broker.db-wal",
            holding: id,
        };
        assert_eq!(trace.covered(&accepted), Ok(()), "accepted");
    }
    // Receipts of these had come when the third one's had; nobody waited for the last one's.
    for id in [&first, &queued] {
        let id = id.as_bytes();
        let receipt = Promise {
            request: Some(&[&frame("client_ack"), id]),
            answer: &[&frame("receipt"), id],
            file: "/broker.db-wal",
            holding: b"",
        };
        assert_eq!(trace.covered(&receipt), Ok(()), "receipt");
    }
    let trace = traces.of("bob", at_bob);
    for id in [&first, &queued] {
        let id = id.as_bytes();
        let ack = Promise {
            request: Some(&[&frame("message"), id]),
            answer: &[&frame("client_ack"), id],
            file: "/peer.db-wal",
            holding: id,
        };
        assert_eq!(trace.covered(&ack), Ok(()), "client_ack");
    }
    let queued = queued.as_bytes();
    let answered = Promise {
        request: Some(&[b"POST /v1/send"]),
        answer: &[b"HTTP/1.1 200", queued],
        file: "/peer.db-wal",
        holding: queued,
    };
    assert_eq!(traces.of("ana", at_ana).covered(&answered), Ok(()), "the local API's answer");
    let last = last.as_bytes();
    let printed =
        Promise { request: None, answer: &[b"\"id\":", last], file: "/peer.db-wal", holding: last };
    let trace = traces.of("send", sender);
    assert_eq!(trace.covered(&printed), Ok(()), "what send prints");
    let sent = Promise { answer: &[&frame("send"), last], ..printed };
    assert_eq!(trace.covered(&sent), Ok(()), "nothing leaves that is not kept");
}

// The fault exists in debug builds only.
#[cfg(debug_assertions)]
#[test]
fn a_broker_that_does_not_sync_is_caught() {
    if !can_trace() {
        return;
    }
    let traces = Traces(TempDir::new().unwrap());
    let Pair { ana, bob: _bob, mut broker } = pair();
    broker.restart_as(|mut command| {
        traces.watch("broker", command.env("MESHWIRE_TEST_MUTANT", "sync-off"))
    });
    let sent = ana.ok(&["send", "bob", "one", "--wait", "accepted"]);
    let id = sent["id"].as_str().unwrap().as_bytes();
    let pid = broker.pid();
    broker.kill();
    let accepted = Promise {
        request: Some(&[&frame("send"), id]),
        answer: &[&frame("accepted"), id],
        file: "/broker.db-wal",
        holding: id,
    };
    assert_eq!(traces.of("broker", pid).covered(&accepted), Err(strace::Uncovered::NotSynced));
}
