use meshwire_netsim::scenario::Bounds;
use meshwire_netsim::{Reason, Traffic};

use super::super::facts::{Exit, text};
use super::*;

const S: fn(u64) -> Duration = Duration::from_secs;

fn wanted() -> Delivered {
    let (from, to) = ("ana".to_owned(), "bob".to_owned());
    Delivered { from, to, all: true, exactly_once: false, in_order: false, within: None }
}

/// Two messages, sent at 1 s and 2 s.
fn two() -> Facts {
    let mut facts = Facts::default();
    facts.done = Some(S(2));
    for n in 0..2 {
        assert_eq!(facts.send("ana", "bob", S(1 + n as u64)), n);
        facts.accepted(n, Ok(format!("id{n}")));
    }
    facts
}

fn arrive(facts: &mut Facts, n: usize, at: Duration) {
    facts.received("bob", &text(n, 20), at);
    facts.receipt(&format!("id{n}"), "relay", at);
}

fn verdict(check: Check, facts: &Facts, now: u64) -> Verdict {
    judge(&check, facts, S(now)).verdict
}

#[test]
fn texts_say_which_message_they_are() {
    assert_eq!(text(255, 12), "000000ff....");
    assert_eq!((text(7, 1).len(), super::super::facts::tag(&text(7, 1))), (8, Some(7)));
    assert_eq!(super::super::facts::tag("é"), None);
}

#[test]
fn delivered_needs_receipt_and_text_of_each() {
    let check = || Check::Delivered(wanted());
    let mut facts = two();
    assert_eq!(verdict(check(), &facts, 3), Verdict::Open);
    arrive(&mut facts, 0, S(3));
    facts.receipt("id1", "relay", S(3));
    assert_eq!(verdict(check(), &facts, 3), Verdict::Open, "a receipt without its text");
    facts.received("cy", &text(1, 8), S(3));
    assert_eq!(verdict(check(), &facts, 3), Verdict::Open, "somebody else's");
    facts.received("bob", &text(1, 8), S(4));
    let judged = judge(&check(), &facts, S(4));
    assert_eq!(judged, Judged { verdict: Verdict::Passed, got: "2 of 2, slowest 2s".into() });
    facts.done = None;
    assert_eq!(verdict(check(), &facts, 4), Verdict::Holds, "more may be sent");
    facts.sent[1].refused = Some("no such peer".into());
    assert!(judge(&check(), &facts, S(4)).got.contains("no such peer"));
    facts.sent[1].refused = None;
    facts.failed("id1", "expired");
    assert_eq!(verdict(check(), &facts, 4), Verdict::Failed);
}

#[test]
fn nothing_sent_is_not_delivered() {
    let mut facts = Facts::default();
    facts.done = Some(S(1));
    assert_eq!(verdict(Check::Delivered(wanted()), &facts, 9), Verdict::Open);
    let none = Delivered { all: false, ..wanted() };
    assert_eq!(verdict(Check::Delivered(none), &facts, 9), Verdict::Open);
}

#[test]
fn exactly_once_fails_on_the_second() {
    let check = || Check::Delivered(Delivered { exactly_once: true, ..wanted() });
    let mut facts = two();
    arrive(&mut facts, 0, S(3));
    arrive(&mut facts, 1, S(3));
    assert_eq!(verdict(check(), &facts, 3), Verdict::Holds);
    arrive(&mut facts, 0, S(4));
    assert_eq!(verdict(check(), &facts, 4), Verdict::Failed);
    assert_eq!(verdict(Check::Delivered(wanted()), &facts, 4), Verdict::Passed);
}

#[test]
fn in_order_fails_when_overtaken() {
    let check = || Check::Delivered(Delivered { in_order: true, ..wanted() });
    let mut facts = two();
    arrive(&mut facts, 1, S(3));
    arrive(&mut facts, 0, S(4));
    assert_eq!(verdict(check(), &facts, 4), Verdict::Failed);
    let mut facts = two();
    arrive(&mut facts, 0, S(3));
    arrive(&mut facts, 1, S(3));
    assert_eq!(verdict(check(), &facts, 4), Verdict::Passed);
}

#[test]
fn within_counts_from_each_sending_and_does_not_wait_for_the_end() {
    let check = || Check::Delivered(Delivered { within: Some(S(2)), ..wanted() });
    let mut facts = two();
    arrive(&mut facts, 0, S(3));
    assert_eq!(verdict(check(), &facts, 4), Verdict::Open);
    assert_eq!(verdict(check(), &facts, 5), Verdict::Failed);
    arrive(&mut facts, 1, S(4));
    assert_eq!(verdict(check(), &facts, 50), Verdict::Passed);
}

#[test]
fn none_fails_on_the_first() {
    let check = || Check::Delivered(Delivered { all: false, ..wanted() });
    let mut facts = two();
    assert_eq!(verdict(check(), &facts, 3), Verdict::Holds);
    facts.received("bob", &text(1, 8), S(3));
    assert_eq!(verdict(check(), &facts, 3), Verdict::Failed);
}

fn way(kind: PathKind, within: Option<u64>, after: Option<&str>, all: bool) -> Check {
    let (from, to, within) = ("ana".into(), "bob".into(), within.map(S));
    Check::Path(PathCheck { from, to, kind, within, after: after.map(str::to_owned), all })
}

#[test]
fn a_direct_path_is_what_the_node_says_in_the_end() {
    let check = || way(PathKind::Direct, Some(3), None, false);
    let mut facts = two();
    arrive(&mut facts, 0, S(3));
    facts.path("ana", "bob", Some(PathKind::Relay), S(2));
    assert_eq!(judge(&check(), &facts, S(4)), Judged::new(Verdict::Open, "relay"));
    assert_eq!(verdict(check(), &facts, 5), Verdict::Failed, "too late by now");
    facts.path("bob", "ana", Some(PathKind::Direct), S(3));
    facts.path("ana", "bob", Some(PathKind::Turn), S(3));
    assert_eq!(verdict(check(), &facts, 4), Verdict::Open, "through a TURN server");
    assert_eq!(verdict(way(PathKind::Turn, Some(3), None, false), &facts, 4), Verdict::Holds);
    facts.path("ana", "bob", Some(PathKind::Direct), S(4));
    facts.path("ana", "bob", Some(PathKind::Direct), S(9));
    assert_eq!(judge(&check(), &facts, S(9)), Judged::new(Verdict::Holds, "direct, 3s"));
    assert_eq!(verdict(way(PathKind::Direct, Some(2), None, false), &facts, 9), Verdict::Failed);
    facts.path("ana", "bob", None, S(10));
    assert_eq!(judge(&check(), &facts, S(4)), Judged::new(Verdict::Open, "none"));
}

#[test]
fn all_messages_after_a_step_go_the_way_that_is_asked_for() {
    let check = || way(PathKind::Direct, None, Some("up"), true);
    let mut facts = two();
    arrive(&mut facts, 0, S(3));
    facts.path("ana", "bob", Some(PathKind::Direct), S(1));
    assert_eq!(verdict(check(), &facts, 3), Verdict::Open, "no such step yet");
    facts.steps.insert("up".into(), S(2));
    assert_eq!(verdict(check(), &facts, 3), Verdict::Open, "no receipt yet");
    let mut other = facts.clone();
    facts.receipt("id1", "direct", S(3));
    assert_eq!(judge(&check(), &facts, S(3)), Judged::new(Verdict::Holds, "direct, all the time"));
    other.receipt("id1", "relay", S(3));
    assert_eq!(judge(&check(), &other, S(3)), Judged::new(Verdict::Failed, "relay"));
}

#[test]
fn every_node_is_connected_when_the_last_one_is() {
    let check =
        |within| Check::Connected { node: EVERY.into(), within: Some(S(within)), after: None };
    let mut facts = two();
    assert_eq!(verdict(check(9), &facts, 3), Verdict::Open, "nobody was started");
    for name in ["ana", "bob", BROKER] {
        facts.started.insert(name.into(), S(1));
    }
    facts.link("ana", true, S(2));
    assert_eq!(judge(&check(3), &facts, S(3)), Judged::new(Verdict::Open, "1 of 2"));
    assert!(judge(&check(3), &facts, S(5)).got.starts_with("bob: not connected"));
    facts.link("bob", true, S(4));
    assert_eq!(judge(&check(3), &facts, S(9)), Judged::new(Verdict::Holds, "2 of 2"));
    assert_eq!(verdict(check(2), &facts, 9), Verdict::Failed);
}

#[test]
fn path_fails_on_another() {
    let check = || way(PathKind::Relay, None, None, true);
    let mut facts = two();
    arrive(&mut facts, 0, S(3));
    assert_eq!(verdict(check(), &facts, 3), Verdict::Open);
    let mut other = facts.clone();
    arrive(&mut facts, 1, S(3));
    assert_eq!(verdict(check(), &facts, 3), Verdict::Passed);
    other.receipt("id1", "direct", S(3));
    assert_eq!(judge(&check(), &other, S(3)), Judged::new(Verdict::Failed, "direct"));
}

#[test]
fn bytes_are_those_of_the_interface_and_way() {
    let mut facts = two();
    let traffic = Traffic { up_bytes: 100, down_bytes: 7, ..Traffic::default() };
    facts.links_carried.insert("ana".into(), traffic);
    facts.hosts_carried.insert("ana".into(), Traffic { up_bytes: 1, ..Traffic::default() });
    let check = |of, direction, above, below| Check::Bytes {
        of,
        direction,
        bounds: Bounds { above, below },
    };
    let link = || Carrier::Link("ana".into());
    for (check, wanted) in [
        (check(link(), Direction::Both, Some(106), Some(108)), Verdict::Holds),
        (check(link(), Direction::Down, Some(7), None), Verdict::Open),
        (check(link(), Direction::Up, None, Some(100)), Verdict::Failed),
        (check(Carrier::Host("ana".into()), Direction::Up, None, Some(2)), Verdict::Holds),
    ] {
        assert_eq!(verdict(check.clone(), &facts, 3), wanted, "{check:?}");
    }
}

#[test]
fn dropped_counts_its_reason() {
    let mut facts = two();
    facts.dropped.insert(Reason::Loss.name(), 5);
    let check = |reason, above| Check::Dropped { reason, bounds: Bounds { above, below: None } };
    assert_eq!(verdict(check(Reason::Loss, Some(4)), &facts, 3), Verdict::Holds);
    assert_eq!(verdict(check(Reason::Loss, Some(5)), &facts, 3), Verdict::Open);
    assert_eq!(verdict(check(Reason::BlackHole, Some(0)), &facts, 3), Verdict::Open);
}

#[test]
fn connected_counts_from_start_or_step() {
    let check = |within, after: Option<&str>| Check::Connected {
        node: "ana".into(),
        within: Some(S(within)),
        after: after.map(str::to_owned),
    };
    let mut facts = two();
    assert_eq!(verdict(check(2, None), &facts, 1), Verdict::Open, "never started");
    facts.started.insert("ana".into(), S(1));
    assert_eq!(verdict(check(2, None), &facts, 3), Verdict::Open);
    assert_eq!(verdict(check(2, None), &facts, 4), Verdict::Failed);
    assert!(facts.link("ana", true, S(3)) && !facts.link("ana", true, S(4)));
    assert_eq!(verdict(check(2, None), &facts, 9), Verdict::Holds);
    assert_eq!(verdict(check(1, None), &facts, 9), Verdict::Failed);
    facts.steps.insert("cut".into(), S(10));
    let judged = judge(&check(1, Some("cut")), &facts, S(11));
    assert_eq!(judged, Judged::new(Verdict::Holds, "all the time"));
    facts.link("ana", false, S(11));
    assert_eq!(verdict(check(5, Some("cut")), &facts, 12), Verdict::Open);
    facts.link("ana", true, S(14));
    assert_eq!(judge(&check(5, Some("cut")), &facts, S(15)), Judged::new(Verdict::Holds, "4s"));
    assert_eq!(verdict(check(3, Some("cut")), &facts, 15), Verdict::Failed);
}

#[test]
fn exit_is_the_codes() {
    let check = || Check::Exit { exec: "web".into(), code: 3 };
    let mut facts = two();
    assert_eq!(verdict(check(), &facts, 3), Verdict::Open);
    for (code, wanted) in
        [(Some(3), Verdict::Passed), (Some(0), Verdict::Failed), (None, Verdict::Failed)]
    {
        facts.exits.insert("web".into(), Exit { at: S(2), code, said: "bye".into() });
        assert_eq!(verdict(check(), &facts, 3), wanted, "{code:?}");
    }
    assert!(judge(&check(), &facts, S(3)).got.ends_with(": bye"));
}

#[test]
fn open_is_false_in_the_end() {
    for (verdict, passed) in [
        (Verdict::Passed, true),
        (Verdict::Holds, true),
        (Verdict::Open, false),
        (Verdict::Failed, false),
    ] {
        assert_eq!(Judged::new(verdict, "").passed(), passed);
    }
}
