//! `meshwire pipe` and `meshwire stream` between real processes, with background nodes and without.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;
#[path = "cli_pipe/pipe.rs"]
mod pipe;
#[path = "cli_pipe/slow.rs"]
mod slow;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Pair, pair, until};
use pipe::{Ended, Pipe, pour};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use serde_json::json;

/// When a process that was killed is known to have gone: nothing is heard of it for 60 s, whoever may vouch for it.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a node takes to tell of a program of its own.
const TOLD: Duration = Duration::from_secs(10);

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// What goes in by files at both ends, and what comes out.
fn through_files(pair: &Pair, from_ana: &[u8], from_bob: &[u8]) -> [(Ended, Vec<u8>); 2] {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let input = |name: &str, data: &[u8]| {
        std::fs::write(file(name), data).unwrap();
        File::open(file(name)).unwrap()
    };
    let output = |name: &str| File::create(file(name)).unwrap();
    let (to_bob, to_ana) = (input("ana.in", from_ana), input("bob.in", from_bob));
    let listen = ["--listen", "--from", "ana"];
    let listener = Pipe::start(&pair.bob, &listen, to_ana, output("bob.out"));
    let opener = Pipe::start(&pair.ana, &["bob"], to_bob, output("ana.out"));
    let read = |name: &str| std::fs::read(file(name)).unwrap();
    [(opener.wait(), read("ana.out")), (listener.wait(), read("bob.out"))]
}

fn whole(pair: &Pair, from_ana: &[u8], from_bob: &[u8]) {
    let [(ana, at_ana), (bob, at_bob)] = through_files(pair, from_ana, from_bob);
    assert_eq!((ana.status, bob.status), (0, 0), "{ana:?} {bob:?}");
    assert!(at_bob == from_ana && at_ana == from_bob, "{} {}", at_bob.len(), at_ana.len());
    let counts = |end: &Ended| [end.end()["sent"].as_u64(), end.end()["received"].as_u64()];
    let lens = [from_ana, from_bob].map(|data| u64::try_from(data.len()).ok());
    assert_eq!((counts(&ana), counts(&bob)), (lens, [lens[1], lens[0]]));
    assert!(ana.end()["complete"] == true && ana.end()["id"] == bob.end()["id"], "{ana:?}");
}

#[test]
fn a_file_goes_through_without_background_nodes() {
    let pair = pair();
    whole(&pair, &bytes(1, 6 << 20), b"");
}

#[test]
fn files_go_both_ways_at_once_without_background_nodes() {
    let pair = pair();
    whole(&pair, &bytes(2, 3 << 20), &bytes(3, 5 << 20));
    whole(&pair, b"", b"");
}

#[test]
fn files_go_both_ways_between_background_nodes() {
    let pair = pair();
    let (_ana, _bob) = (pair.ana.node(), pair.bob.node());
    whole(&pair, &bytes(4, 6 << 20), b"");
    whole(&pair, &bytes(5, 3 << 20), &bytes(6, 5 << 20));
    whole(&pair, b"", b"");
    assert_eq!(pair.ana.ok(&["stream", "list"])["streams"], json!([]));
}

#[test]
fn a_background_node_at_one_end_is_enough() {
    let pair = pair();
    let ana = pair.ana.node();
    whole(&pair, &bytes(7, 2 << 20), &bytes(8, 100));
    ana.kill();
    let _bob = pair.bob.node();
    whole(&pair, &bytes(9, 2 << 20), &bytes(10, 100));
}

#[test]
fn what_is_typed_is_there_at_once_and_an_end_is_an_end() {
    let Pair { ana, bob, broker: _broker } = pair();
    let _bob = bob.node();
    let mut listener =
        Pipe::start(&bob, &["--listen", "--name", "talk"], Stdio::piped(), Stdio::piped());
    let mut opener = Pipe::start(&ana, &["bob", "--name", "talk"], Stdio::piped(), Stdio::piped());
    let (row, at_bob) = (opener.connected(), listener.connected());
    assert_eq!(
        (&row["peer"], &row["name"], &row["opened"]),
        (&json!("bob"), &json!("talk"), &json!(true))
    );
    assert_eq!((&at_bob["id"], &at_bob["peer"]), (&row["id"], &json!("ana")));
    let (mut to_bob, mut to_ana) = (opener.stdin(), listener.stdin());
    let (mut from_bob, mut from_ana) = (opener.stdout(), listener.stdout());
    let mut buffer = [0; 16];
    for word in [&b"a"[..], b"\0\xff\r\n", b"three"] {
        to_bob.write_all(word).unwrap();
        from_ana.read_exact(&mut buffer[..word.len()]).unwrap();
        assert_eq!(&buffer[..word.len()], word);
        to_ana.write_all(word).unwrap();
        from_bob.read_exact(&mut buffer[..word.len()]).unwrap();
        assert_eq!(&buffer[..word.len()], word);
    }
    // One direction ends, the other goes on.
    drop(to_bob);
    to_ana.write_all(b"still").unwrap();
    from_bob.read_exact(&mut buffer[..5]).unwrap();
    drop(to_ana);
    assert_eq!((opener.wait().status, listener.wait().status), (0, 0));
    assert_eq!((from_ana.read(&mut buffer).unwrap(), from_bob.read(&mut buffer).unwrap()), (0, 0));
}

#[test]
fn who_opens_waits_for_who_listens() {
    let Pair { ana, bob, broker: _broker } = pair();
    let mut opener = Pipe::start(&ana, &["bob"], Stdio::piped(), Stdio::piped());
    opener.stdin().write_all(b"hello").unwrap();
    // First bob is away, then there, but listens for something else.
    let node = bob.node();
    let other = Pipe::start(&bob, &["--listen", "--name", "other"], Stdio::null(), Stdio::null());
    opener.connected_not_yet();
    let listener = Pipe::start(&bob, &["--listen"], Stdio::null(), Stdio::piped());
    let (opened, heard) = (opener.wait(), listener.output());
    assert_eq!((opened.status, heard.0.status, heard.1.as_slice()), (0, 0, &b"hello"[..]));
    other.kill();
    drop(node);
}

#[test]
fn what_cannot_be_is_said_in_words() {
    let Pair { ana, bob, broker: _broker } = pair();
    let run = |args: &[&str]| Pipe::start(&ana, args, Stdio::null(), Stdio::null()).wait();
    let unknown = run(&["bop"]);
    assert_eq!(unknown.code(), (5, "peer_not_found"));
    assert!(unknown.message().contains("bob"), "{unknown:?}");
    assert_eq!(run(&["bob", "--name", ""]).code(), (3, "bad_stream_name"));
    assert_eq!(run(&["ana"]).code(), (3, "own_key"));
    assert_eq!(run(&["--listen", "--from", "bop"]).code(), (5, "peer_not_found"));
    let away = run(&["bob", "--timeout", "5s"]);
    assert_eq!(away.code(), (4, "peer_offline"));
    let _bob = bob.node();
    let other = Pipe::start(&bob, &["--listen", "--name", "other"], Stdio::null(), Stdio::null());
    let refused = run(&["bob", "--timeout", "20s"]);
    assert_eq!(refused.code(), (7, "stream_refused"), "{refused:?}");
    assert!(refused.message().contains("meshwire pipe --listen"), "{refused:?}");
    assert_eq!(run(&["--listen", "--timeout", "1s"]).code(), (1, "no_stream"));
    drop(other);
}

/// Kills one of two that talk; the other ends in time, with an error.
fn one_dies(background: bool, kill_opener: bool) {
    let Pair { ana, bob, broker: _broker } = pair();
    let nodes = background.then(|| (ana.node(), bob.node()));
    let mut listener = Pipe::start(&bob, &["--listen"], Stdio::piped(), Stdio::null());
    let mut opener = Pipe::start(&ana, &["bob"], Stdio::piped(), Stdio::null());
    opener.connected();
    listener.connected();
    let (pouring, quiet) = (pour(opener.stdin()), listener.stdin());
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    let (dies, lives) = if kill_opener { (opener, listener) } else { (listener, opener) };
    dies.kill();
    let bound = if background { TOLD } else { SILENCE + TOLD };
    let ended = lives.wait_for(bound);
    assert!(begun.elapsed() < bound, "{:?}", begun.elapsed());
    let expected = if background { (1, "stream_reset") } else { (4, "stream_silent") };
    assert_eq!(ended.code(), expected, "{ended:?}");
    assert_eq!(ended.end()["complete"], false);
    drop(quiet);
    pouring.join().unwrap();
    drop(nodes);
}

#[test]
fn a_sender_that_dies_is_no_end() {
    one_dies(false, true);
}

#[test]
fn a_listener_that_dies_is_noticed() {
    one_dies(false, false);
}

#[test]
fn nodes_tell_at_once_of_a_program_that_dies() {
    one_dies(true, true);
    one_dies(true, false);
}

#[test]
fn an_end_by_hand_is_no_end_of_the_bytes() {
    let Pair { ana, bob, broker: _broker } = pair();
    for (node, signal) in [(None, "INT"), (None, "HUP"), (Some(()), "TERM")] {
        let _node = node.map(|()| ana.node());
        let mut listener = Pipe::start(&bob, &["--listen"], Stdio::null(), Stdio::null());
        let mut opener = Pipe::hearing_hangups(&ana, &["bob"], Stdio::piped(), Stdio::null());
        opener.connected();
        listener.connected();
        let mut to_bob = opener.stdin();
        to_bob.write_all(b"half a").unwrap();
        opener.signal(signal);
        assert_eq!(opener.wait().code(), (1, "cancelled"));
        let ended = listener.wait();
        assert_eq!(ended.code(), (1, "stream_reset"), "{ended:?}");
        assert!(ended.message().contains("interrupted"), "{ended:?}");
    }
}

#[test]
fn what_ignores_hangups_goes_on() {
    let Pair { ana, bob, broker: _broker } = pair();
    let listener = Pipe::start(&bob, &["--listen"], Stdio::null(), Stdio::piped());
    let mut opener = Pipe::ignoring_hangups(&ana, &["bob"], Stdio::piped(), Stdio::null());
    opener.connected();
    opener.signal("HUP");
    opener.stdin().write_all(b"still here").unwrap();
    let (ended, (heard, bytes)) = (opener.wait(), listener.output());
    assert_eq!((ended.status, heard.status, bytes.as_slice()), (0, 0, &b"still here"[..]));
}

#[test]
fn who_sends_nothing_leaves_standard_input_alone() {
    let Pair { ana, bob, broker: _broker } = pair();
    // Still open, and with something in it that is for somebody else.
    let (mut rest, mut open) = std::io::pipe().unwrap();
    open.write_all(b"next").unwrap();
    let input = rest.try_clone().unwrap();
    let listener = Pipe::start(&bob, &["--listen", "-n"], input, Stdio::piped());
    let mut opener = Pipe::start(&ana, &["bob"], Stdio::piped(), Stdio::null());
    opener.stdin().write_all(b"hello").unwrap();
    let (opened, (told, bytes)) = (opener.wait(), listener.output());
    assert_eq!((opened.status, told.status, bytes.as_slice()), (0, 0, &b"hello"[..]));
    assert_eq!(told.end()["sent"], 0);
    drop(open);
    let mut left = String::new();
    rest.read_to_string(&mut left).unwrap();
    assert_eq!(left, "next");
}

#[test]
fn who_has_read_enough_goes_quietly() {
    let Pair { ana, bob, broker: _broker } = pair();
    for node in [None, Some(())] {
        let _node = node.map(|()| bob.node());
        let mut listener = Pipe::start(&bob, &["--listen"], Stdio::null(), Stdio::piped());
        let mut opener = Pipe::start(&ana, &["bob"], Stdio::piped(), Stdio::null());
        opener.connected();
        listener.connected();
        let pouring = pour(opener.stdin());
        let mut first = [0; 1000];
        let mut from_ana = listener.stdout();
        from_ana.read_exact(&mut first).unwrap();
        drop(from_ana);
        let (quiet, told) = (listener.wait(), opener.wait());
        assert_eq!(quiet.code(), (0, ""), "{quiet:?}");
        assert_eq!(told.code(), (1, "stream_stopped"), "{told:?}");
        assert!(told.message().contains("bob reads no more"), "{told:?}");
        pouring.join().unwrap();
    }
}

#[test]
fn streams_are_listed_and_can_be_closed() {
    let Pair { ana, bob, broker: _broker } = pair();
    let (_ana, _bob) = (ana.node(), bob.node());
    let mut listener = Pipe::start(&bob, &["--listen"], Stdio::piped(), Stdio::null());
    let mut opener = Pipe::start(&ana, &["bob"], Stdio::piped(), Stdio::null());
    let (row, _) = (opener.connected(), listener.connected());
    let (mut to_bob, _quiet) = (opener.stdin(), listener.stdin());
    to_bob.write_all(b"hello").unwrap();
    let listed = until("five bytes", || {
        let listed = ana.ok(&["stream", "list"]);
        (listed["streams"][0]["written"] == 5).then_some(listed)
    });
    let shown = &listed["streams"][0];
    assert_eq!(listed["streams"].as_array().unwrap().len(), 1);
    for field in ["id", "name", "peer", "peer_key", "own_key", "mesh", "opened", "since"] {
        assert_eq!(shown[field], row[field], "{field}");
    }
    assert!(["relay", "direct"].map(Into::into).contains(&shown["path"]["kind"]), "{shown}");
    let lines = ana.text(&["stream", "list"]).stdout;
    assert!(lines.contains("\tpipe\tto bob\t"), "{lines}");
    let id = row["id"].as_str().unwrap();
    let refused = |id: &str| ana.run(&["stream", "close", id]);
    assert_eq!(refused("0000000000000000").error_code(), "stream_not_found");
    assert_eq!(refused("hello").error_code(), "bad_stream_id");
    let closed = ana.ok(&["stream", "close", &id[..8], "--reason", "the disk is full"]);
    assert_eq!(closed["id"], row["id"]);
    let (here, there) = (opener.wait(), listener.wait());
    assert_eq!((here.code(), there.code()), ((1, "stream_closed"), (1, "stream_reset")));
    for ended in [&here, &there] {
        assert!(ended.message().contains("the disk is full"), "{ended:?}");
    }
    until("none", || (ana.ok(&["stream", "list"])["streams"] == json!([])).then_some(()));
}

#[test]
fn a_node_that_stops_ends_its_streams() {
    let Pair { ana, bob, broker: _broker } = pair();
    let node = ana.node();
    let mut listener = Pipe::start(&bob, &["--listen"], Stdio::piped(), Stdio::null());
    let mut opener = Pipe::start(&ana, &["bob"], Stdio::piped(), Stdio::null());
    opener.connected();
    listener.connected();
    let _open = (opener.stdin(), listener.stdin());
    assert_eq!(node.terminate(), 0);
    let ended = [opener.wait(), listener.wait()];
    assert_eq!(ended[0].code(), (1, "stream_closed"), "{ended:?}");
    assert_eq!(ended[1].code(), (1, "stream_reset"), "{ended:?}");
}
