//! A reader that takes a few KiB a second holds its sender to the window, whichever way the bytes go: what is under way
//! and the memory of every process that they pass stay as they are for a minute, while the sender has more.
//!
//! ```text
//! this test ──► pipe ──► ana's node ══ broker, or direct path ══► bob's node ──► pipe ──► this test
//!    as fast as it can                                                          4 KiB/s
//! ```

use std::io::{Read as _, Write as _};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::{Home, Pair, Running, pair, until};
use crate::pipe::Pipe;

/// How long it lasts.
const MINUTE: Duration = Duration::from_secs(60);
/// What the reader takes at once, and how often.
const SIP: usize = 1 << 10;
const EVERY: Duration = Duration::from_millis(250);
/// The sender is held up once nothing has been taken of it for so long.
const HELD_UP: Duration = Duration::from_secs(3);
/// What may be under way: the largest window (16 MiB), what the sending node keeps at most (16 MiB), and what the two
/// programs, their sockets and pipes hold, which is some 2 MiB at either end.
const UNDER_WAY: u64 = (16 + 16 + 8) << 20;
/// What a process may grow by in that minute. A node that went on reading at the pace of a loopback would grow by
/// gigabytes, one that kept what the reader takes once more by a quarter of a MiB; an allocator's own moods are below this.
const GROWTH: u64 = 4 << 20;

/// Bytes at this place of the stream.
fn place(at: u64) -> u8 {
    u8::try_from(at % 251).unwrap()
}

/// Bytes that went in or came out so far.
type Count = Arc<AtomicU64>;

/// Writes until nobody takes it any more.
fn pour(mut into: ChildStdin, taken: Count) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut at = 0;
        loop {
            let piece: Vec<u8> = (at..at + 4_096).map(place).collect();
            let Ok(len) = into.write(&piece) else { return };
            at += u64::try_from(len).unwrap();
            taken.store(at, Ordering::Relaxed);
        }
    })
}

/// Reads little by little, and in order, until it is told to stop.
fn sip(mut from: ChildStdout, read: Count, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        let (mut at, mut buffer) = (0, [0; SIP]);
        while !stop.load(Ordering::Relaxed) {
            let len = from.read(&mut buffer).unwrap();
            assert!(len > 0, "it ended after {at} bytes");
            for byte in &buffer[..len] {
                assert_eq!(*byte, place(at), "at {at}");
                at += 1;
            }
            read.store(at, Ordering::Relaxed);
            thread::sleep(EVERY);
        }
    })
}

/// What a process has in memory, in bytes.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    kib << 10
}

fn node(home: &Home, paths: &str) -> Running {
    home.node_as(|mut command| {
        command.args(["--paths", paths, "--no-port-mapping"]);
        command
    })
}

/// Which way new bytes of ana's stream go.
fn way(ana: &Home) -> String {
    let listed = ana.ok(&["stream", "list"]);
    listed["streams"][0]["path"]["kind"].as_str().unwrap_or_default().to_owned()
}

/// One that goes `expected`, between nodes with these paths.
#[expect(clippy::print_stdout, reason = "the figures, for whoever asks")]
fn held_to_the_window(paths: &str, expected: &str) {
    let Pair { ana, bob, broker } = pair();
    let nodes = [node(&ana, paths), node(&bob, paths)];
    let mut listener = Pipe::start(&bob, &["--listen", "-n"], Stdio::null(), Stdio::piped());
    let mut opener = Pipe::start(&ana, &["bob"], Stdio::piped(), Stdio::null());
    opener.connected();
    listener.connected();
    until(expected, || (way(&ana) == expected).then_some(()));
    let (taken, read, stop) =
        (Count::default(), Count::default(), Arc::new(AtomicBool::new(false)));
    let sipping = sip(listener.stdout(), read.clone(), stop.clone());
    let pouring = pour(opener.stdin(), taken.clone());
    let progress = || {
        // In this order: what moves in between makes it look like more, not less.
        let read = read.load(Ordering::Relaxed);
        let taken = taken.load(Ordering::Relaxed);
        let under_way = taken.saturating_sub(read);
        assert!(under_way <= UNDER_WAY, "{expected}: {under_way} bytes are under way");
        (taken, under_way)
    };
    let mut last = (0, Instant::now());
    until("the sender is held up", || {
        let (now, _) = progress();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > 0 && last.1.elapsed() > HELD_UP).then_some(())
    });
    let processes = [
        ("broker", broker.pid()),
        ("ana's node", nodes[0].pid()),
        ("bob's node", nodes[1].pid()),
        ("ana's pipe", opener.pid()),
        ("bob's pipe", listener.pid()),
    ];
    let before = processes.map(|(_, pid)| memory(pid));
    let (begun, first) = (Instant::now(), read.load(Ordering::Relaxed));
    let (mut most, mut grown) = (0, [0; 5]);
    while begun.elapsed() < MINUTE {
        thread::sleep(Duration::from_secs(1));
        most = most.max(progress().1);
        for (i, (who, pid)) in processes.into_iter().enumerate() {
            let more = memory(pid).saturating_sub(before[i]);
            assert!(
                more <= GROWTH,
                "{expected}: {who} had {} bytes, and has {more} more",
                before[i]
            );
            grown[i] = more.max(grown[i]);
        }
    }
    let slow = read.load(Ordering::Relaxed) - first;
    println!("{expected}: {slow} bytes were read, at most {most} under way");
    println!("{expected}: before {before:?}, grown by at most {grown:?}");
    // It was slow, and it was served; and the sender had more all the time.
    assert!((64 << 10..1 << 20).contains(&slow), "{expected}: {slow} bytes in a minute");
    assert!(!pouring.is_finished());
    assert_eq!(way(&ana), expected);
    stop.store(true, Ordering::Relaxed);
    sipping.join().unwrap();
    opener.kill();
    pouring.join().unwrap();
}

#[test]
fn a_slow_reader_holds_its_sender_to_the_window() {
    // Both at once, so that it is one minute; each ends what it has started, whatever becomes of the other.
    thread::scope(|scope| {
        scope.spawn(|| held_to_the_window("relay-only", "relay"));
        scope.spawn(|| held_to_the_window("auto", "direct"));
    });
}
