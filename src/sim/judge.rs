//! Whether what must be true is. Pure: facts and time in, verdicts out; the same for both drivers.

use std::time::Duration;

use meshwire_netsim::Direction;
use meshwire_netsim::scenario::{
    Carrier, Check, Delivered, EVERY, PathCheck, PathKind, say_duration,
};

use super::driver::BROKER;
use super::facts::{Exit, Facts, Sent};

/// What is known of an assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing can change it any more.
    Passed,
    /// Nothing can mend it any more.
    Failed,
    /// It is true, and may still become false.
    Holds,
    /// It is not true yet.
    Open,
}

/// A verdict and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// What was found, for people.
    pub got: String,
}

impl Judged {
    fn new(verdict: Verdict, got: impl Into<String>) -> Self {
        Self { verdict, got: got.into() }
    }

    /// The verdict when nothing more is waited for: what is not true by now is false.
    #[must_use]
    pub fn passed(&self) -> bool {
        matches!(self.verdict, Verdict::Passed | Verdict::Holds)
    }
}

/// What is known of `check` at `now`. Before the timeline is done nothing is [`Verdict::Passed`].
#[must_use]
pub fn judge(check: &Check, facts: &Facts, now: Duration) -> Judged {
    let judged = match check {
        Check::Delivered(d) if d.all => delivered(d, facts, now),
        Check::Delivered(d) => nothing_delivered(d, facts),
        Check::Path(wanted) => path(wanted, facts, now),
        Check::Bytes { of, direction, bounds } => {
            let carried = match of {
                Carrier::Link(name) => facts.links_carried.get(name),
                Carrier::Host(name) => facts.hosts_carried.get(name),
            };
            let carried = carried.copied().unwrap_or_default();
            let bytes = match direction {
                Direction::Up => carried.up_bytes,
                Direction::Down => carried.down_bytes,
                Direction::Both => carried.up_bytes.saturating_add(carried.down_bytes),
            };
            counted(bytes, bounds)
        }
        Check::Dropped { reason, bounds } => counted(facts.dropped(*reason), bounds),
        Check::Connected { node, within, after } if node == EVERY => {
            all_connected(facts, now, *within, after.as_deref())
        }
        Check::Connected { node, within, after } => {
            connected(facts, now, node, *within, after.as_deref())
        }
        Check::Exit { exec, code } => match facts.exits.get(exec) {
            None => Judged::new(Verdict::Open, "it has not ended"),
            Some(exit) => ended(exit, *code),
        },
        _ => Judged::new(Verdict::Failed, "this version cannot judge it"),
    };
    match judged.verdict {
        Verdict::Passed if facts.done.is_none() => Judged { verdict: Verdict::Holds, ..judged },
        _ => judged,
    }
}

fn ended(exit: &Exit, wanted: i32) -> Judged {
    let got = match exit.code {
        Some(got) if got == wanted => return Judged::new(Verdict::Passed, got.to_string()),
        Some(got) => got.to_string(),
        None => "ended by a signal or its time limit".to_owned(),
    };
    let said = if exit.said.is_empty() { String::new() } else { format!(": {}", exit.said) };
    Judged::new(Verdict::Failed, format!("{got}{said}"))
}

fn counted(number: u64, bounds: &meshwire_netsim::scenario::Bounds) -> Judged {
    let too_many = bounds.below.is_some_and(|below| number >= below);
    let verdict = match (bounds.hold(number), too_many) {
        (true, _) => Verdict::Holds,
        // It only grows.
        (false, true) => Verdict::Failed,
        (false, false) => Verdict::Open,
    };
    Judged::new(verdict, number.to_string())
}

/// How many of how many, and how long the slowest took.
fn summary<'f>(sent: impl Iterator<Item = &'f Sent> + Clone) -> String {
    let arrived = sent.clone().filter(|s| s.receipt.is_some() && !s.received.is_empty());
    let slowest = arrived.clone().filter_map(took).max();
    let slowest = slowest.map(|t| format!(", slowest {}", rounded(t))).unwrap_or_default();
    format!("{} of {}{slowest}", arrived.count(), sent.count())
}

fn took(sent: &Sent) -> Option<Duration> {
    sent.receipt.as_ref().map(|(at, _)| at.saturating_sub(sent.at))
}

fn rounded(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    say_duration(Duration::from_millis(millis))
}

fn delivered(wanted: &Delivered, facts: &Facts, now: Duration) -> Judged {
    let sent = || facts.between(&wanted.from, &wanted.to);
    let count = summary(sent());
    let fail = |why: String| Judged::new(Verdict::Failed, format!("{count}; {why}"));
    if let Some(why) = sent().find_map(|s| s.refused.as_ref().or(s.failed.as_ref())) {
        return fail(why.clone());
    }
    if wanted.exactly_once && sent().any(|s| s.received.len() > 1) {
        let twice = sent().filter(|s| s.received.len() > 1).count();
        return fail(format!("{twice} arrived more than once"));
    }
    // A gap says nothing: what fills it may still come, and is then out of order.
    if wanted.in_order && !sent().filter_map(|s| s.place).is_sorted() {
        return fail("not in the order in which they were sent".to_owned());
    }
    if let Some(within) = wanted.within {
        let late = |s: &&Sent| took(s).unwrap_or(now.saturating_sub(s.at)) > within;
        let late = sent().filter(late).count();
        if late > 0 {
            return fail(format!("{late} not within {}", say_duration(within)));
        }
    }
    let all = sent().all(|s| s.receipt.is_some() && !s.received.is_empty());
    let verdict = match (all && sent().next().is_some(), wanted.exactly_once) {
        (true, true) => Verdict::Holds,
        (true, false) => Verdict::Passed,
        (false, _) => Verdict::Open,
    };
    Judged::new(verdict, count)
}

fn nothing_delivered(wanted: &Delivered, facts: &Facts) -> Judged {
    let sent = || facts.between(&wanted.from, &wanted.to);
    let arrived = sent().filter(|s| s.receipt.is_some() || !s.received.is_empty()).count();
    let verdict = match (arrived, sent().next()) {
        (0, Some(_)) => Verdict::Holds,
        (0, None) => Verdict::Open,
        _ => Verdict::Failed,
    };
    Judged::new(verdict, format!("{arrived} of {}", sent().count()))
}

/// What a message's status calls the way that it took.
fn status(kind: PathKind) -> &'static str {
    match kind {
        PathKind::Relay => "relay",
        _ => "direct",
    }
}

fn path(wanted: &PathCheck, facts: &Facts, now: Duration) -> Judged {
    let (from, to, kind) = (&wanted.from, &wanted.to, wanted.kind);
    let begin = match &wanted.after {
        Some(id) => facts.steps.get(id).copied(),
        None => facts.between(from, to).next().map(|s| s.at),
    };
    let Some(begin) = begin else {
        return Judged::new(Verdict::Open, "what it counts from has not happened");
    };
    let sent = || facts.between(from, to).filter(|s| s.at >= begin);
    let paths = || sent().filter_map(|s| s.receipt.as_ref()).map(|(_, path)| path.as_str());
    if wanted.all {
        if let Some(other) = paths().find(|p| *p != status(kind)) {
            return Judged::new(Verdict::Failed, other);
        }
        match (sent().count(), paths().count()) {
            (0, _) => return Judged::new(Verdict::Open, "nothing sent"),
            (all, known) if all != known => {
                return Judged::new(Verdict::Open, format!("known of {known} of {all}"));
            }
            _ => {}
        }
    }
    if kind == PathKind::Relay {
        return Judged::new(Verdict::Passed, kind.name());
    }
    let last = facts.last_path(from, to);
    let Some(last) = last.filter(|p| p.kind == Some(kind)) else {
        let late = wanted.within.is_some_and(|w| now.saturating_sub(begin) > w);
        let verdict = if late { Verdict::Failed } else { Verdict::Open };
        let got = last.and_then(|p| p.kind).map_or("none", PathKind::name);
        return Judged::new(verdict, got);
    };
    let took = last.at.saturating_sub(begin);
    let time = if took.is_zero() { "all the time".to_owned() } else { rounded(took) };
    let late = wanted.within.is_some_and(|w| took > w);
    let verdict = if late { Verdict::Failed } else { Verdict::Holds };
    Judged::new(verdict, format!("{}, {time}", kind.name()))
}

/// All nodes that were started; what is wrong with one is wrong with all.
fn all_connected(
    facts: &Facts,
    now: Duration,
    within: Option<Duration>,
    after: Option<&str>,
) -> Judged {
    let nodes = || facts.started.keys().filter(|n| *n != BROKER);
    let each = || nodes().map(|n| (n, connected(facts, now, n, within, after)));
    if let Some((node, judged)) = each().find(|(_, j)| j.verdict == Verdict::Failed) {
        return Judged::new(Verdict::Failed, format!("{node}: {}", judged.got));
    }
    let (all, up) = (each().count(), each().filter(|(_, j)| j.passed()).count());
    let verdict = if all > 0 && up == all { Verdict::Holds } else { Verdict::Open };
    Judged::new(verdict, format!("{up} of {all}"))
}

/// Counts from `after`'s step, or from the node's last start. Whoever was connected then and lost
/// nothing since took no time at all.
fn connected(
    facts: &Facts,
    now: Duration,
    node: &str,
    within: Option<Duration>,
    after: Option<&str>,
) -> Judged {
    let from = match after {
        Some(id) => facts.steps.get(id).copied(),
        None => facts.started.get(node).copied(),
    };
    let Some(from) = from else {
        return Judged::new(Verdict::Open, "what it counts from has not happened");
    };
    let changes = || facts.links.iter().filter(|l| l.node == node);
    let Some(last) = changes().next_back().filter(|l| l.up) else {
        let late = within.is_some_and(|w| now.saturating_sub(from) > w);
        let verdict = if late { Verdict::Failed } else { Verdict::Open };
        return Judged::new(verdict, "not connected");
    };
    let took = last.at.saturating_sub(from);
    let got = if took.is_zero() { "all the time".to_owned() } else { rounded(took) };
    match within {
        Some(within) if took > within => Judged::new(Verdict::Failed, got),
        _ => Judged::new(Verdict::Holds, got),
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
