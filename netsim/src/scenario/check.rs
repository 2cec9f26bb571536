//! What must be true in the end.

use std::fmt;
use std::time::Duration;

use super::flaw::Place;
use super::link::DIRECTIONS;
use super::read::{Table, Value};
use super::units::say_duration;
use crate::change::Direction;
use crate::reason::Reason;

/// Something that must be true.
#[derive(Clone, Debug, PartialEq)]
pub struct Assert {
    /// What.
    pub check: Check,
    /// Where it was written.
    pub place: Place,
}

/// What must be true.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Check {
    /// What became of the messages from one node to another.
    Delivered(Delivered),
    /// Which way they took.
    Path(PathCheck),
    /// What a link carried.
    Bytes {
        /// Whose.
        of: Carrier,
        /// Which way.
        direction: Direction,
        /// Bounds.
        bounds: Bounds,
    },
    /// A node is connected to its broker.
    Connected {
        /// Which; [`EVERY`] for all that were started.
        node: String,
        /// At most this long after `after`.
        within: Option<Duration>,
        /// The step that the time counts from; the node's last start if none.
        after: Option<String>,
    },
    /// How a command ended.
    Exit {
        /// The step's id.
        exec: String,
        /// The code it must end with.
        code: i32,
    },
    /// What the world dropped.
    Dropped {
        /// Why.
        reason: Reason,
        /// Bounds of how many packets.
        bounds: Bounds,
    },
}

/// What must become of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Who sent.
    pub from: String,
    /// Whom to.
    pub to: String,
    /// Whether all must arrive; else none may.
    pub all: bool,
    /// None may arrive twice.
    pub exactly_once: bool,
    /// They arrive in the order in which they were sent.
    pub in_order: bool,
    /// From each one's sending to its receipt.
    pub within: Option<Duration>,
}

/// What stands for every node; no name has it.
pub const EVERY: &str = "*";

/// Which way messages must go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathCheck {
    /// Who sends.
    pub from: String,
    /// Whom to.
    pub to: String,
    /// Which way.
    pub kind: PathKind,
    /// For other ways than the broker: at most this long after `after`.
    pub within: Option<Duration>,
    /// The step that counts begin with; the first message if none. Earlier messages may go any way.
    pub after: Option<String>,
    /// Whether each message that counts goes this way, and not only the last ones. Always so for the
    /// broker.
    pub all: bool,
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathKind {
    /// Through the broker.
    Relay,
    /// Between the two machines, with nobody but routers in between.
    Direct,
    /// Between the two machines, through a TURN server.
    Turn,
}

impl PathKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Relay, Self::Direct, Self::Turn];

    /// Its word in scenarios.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Direct => "direct",
            Self::Turn => "turn",
        }
    }
}

/// The words of kinds, for reading.
pub(super) fn kinds() -> [(&'static str, PathKind); 3] {
    PathKind::ALL.map(|kind| (kind.name(), kind))
}

/// Whose bytes are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Those of one link.
    Link(String),
    /// Those of all interfaces of a host.
    Host(String),
}

/// Between what a number must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// More than this.
    pub above: Option<u64>,
    /// Less than this.
    pub below: Option<u64>,
}

impl Bounds {
    /// Whether a number is between them.
    #[must_use]
    pub fn hold(&self, number: u64) -> bool {
        self.above.is_none_or(|a| number > a) && self.below.is_none_or(|b| number < b)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.above, self.below) {
            (Some(a), Some(b)) => write!(f, "above {a} and below {b}"),
            (Some(a), None) => write!(f, "above {a}"),
            (None, Some(b)) => write!(f, "below {b}"),
            (None, None) => f.write_str("any"),
        }
    }
}

impl Check {
    /// What it is about: `delivered ana -> bob`.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Delivered(d) => format!("delivered {} -> {}", d.from, d.to),
            Self::Path(p) => format!("path {} -> {}", p.from, p.to),
            Self::Bytes { of: Carrier::Link(n) | Carrier::Host(n), direction, .. } => {
                let way = DIRECTIONS.iter().find(|(_, d)| d == direction).map_or("", |(w, _)| *w);
                format!("bytes {n} {way}").trim_end_matches(" both").to_owned()
            }
            Self::Connected { node, after: None, .. } => format!("connected {node}"),
            Self::Connected { node, after: Some(id), .. } => format!("connected {node} after {id}"),
            Self::Exit { exec, .. } => format!("exit {exec}"),
            Self::Dropped { reason, .. } => format!("dropped {}", reason.name()),
        }
    }

    /// What is wanted of it: `all, once, in order, each within 10s`.
    #[must_use]
    pub fn wanted(&self) -> String {
        match self {
            Self::Delivered(d) if !d.all => "none".to_owned(),
            Self::Delivered(d) => {
                let mut words = vec!["all".to_owned()];
                words.extend(d.exactly_once.then(|| "once".to_owned()));
                words.extend(d.in_order.then(|| "in order".to_owned()));
                words.extend(d.within.map(|w| format!("each within {}", say_duration(w))));
                words.join(", ")
            }
            Self::Path(p) => {
                let mut words = vec![p.kind.name().to_owned()];
                words.extend(p.within.map(|w| format!("within {}", say_duration(w))));
                words.extend(p.after.iter().map(|id| format!("after {id}")));
                words.extend((p.all && p.kind != PathKind::Relay).then(|| "each".to_owned()));
                words.join(", ")
            }
            Self::Bytes { bounds, .. } | Self::Dropped { bounds, .. } => bounds.to_string(),
            Self::Connected { within: None, .. } => "yes".to_owned(),
            Self::Connected { within: Some(w), .. } => format!("within {}", say_duration(*w)),
            Self::Exit { code, .. } => code.to_string(),
        }
    }
}

/// The keys of which each assertion has one.
const CHECKS: [&str; 6] = ["delivered", "path", "bytes", "connected", "exit", "dropped"];

pub(super) fn read_assert(table: &Table<'_, '_>) -> Option<Assert> {
    let named = CHECKS.iter().filter(|c| table.has(c)).count();
    let mut found = None;
    let mut take = |check: Option<Check>| found = found.take().or(check);
    take(table.inner("delivered").and_then(|t| read_delivered(&t)));
    take(table.inner("path").and_then(|t| read_path(&t)));
    take(table.inner("bytes").and_then(|t| read_bytes(&t)));
    take(table.inner("connected").and_then(|t| read_connected(&t)));
    take(table.inner("exit").and_then(|t| read_exit(&t)));
    take(table.inner("dropped").and_then(|t| read_dropped(&t)));
    table.end();
    if named != 1 {
        let all = super::flaw::choices(CHECKS);
        table.wrong(format!("each assertion is one, this has {named}; it has one of {all}"));
        return None;
    }
    Some(Assert { check: found?, place: table.place_of(&CHECKS) })
}

fn read_delivered(table: &Table<'_, '_>) -> Option<Check> {
    let from = table.need("from").and_then(|v| v.name());
    let to = table.need("to").and_then(|v| v.name());
    let all = table.get("all").and_then(|v| v.flag());
    let none = table.get("none").and_then(|v| v.flag()).unwrap_or(false);
    let exactly_once = table.get("exactly_once").and_then(|v| v.flag()).unwrap_or(false);
    let in_order = table.get("in_order").and_then(|v| v.flag()).unwrap_or(false);
    let within = table.get("within").and_then(|v| v.duration());
    let more = all == Some(true) || exactly_once || in_order || within.is_some();
    if none && more {
        table.wrong("what does not arrive has neither order nor time: leave none alone");
    }
    if all == Some(false) {
        table.wrong("write none = true where nothing may arrive; all = true is the default");
    }
    table.end();
    let (from, to) = (from?, to?);
    Some(Check::Delivered(Delivered { from, to, all: !none, exactly_once, in_order, within }))
}

fn read_path(table: &Table<'_, '_>) -> Option<Check> {
    let from = table.need("from").and_then(|v| v.name());
    let to = table.need("to").and_then(|v| v.name());
    let kind = table.need("kind").and_then(|v| v.word(&kinds()));
    let within = table.get("within").and_then(|v| v.duration());
    let after = table.get("after").and_then(|v| v.name());
    let all = table.get("all").and_then(|v| v.flag()).unwrap_or(false);
    table.end();
    let relay = kind == Some(PathKind::Relay);
    if relay && within.is_some() {
        table.wrong("messages go by the relay from the first on: leave within to other paths");
    }
    let all = all || relay;
    Some(Check::Path(PathCheck { from: from?, to: to?, kind: kind?, within, after, all }))
}

fn read_bounds(table: &Table<'_, '_>, read: fn(&Value<'_, '_>) -> Option<u64>) -> Bounds {
    let above = table.get("above").and_then(|v| read(&v));
    let below = table.get("below").and_then(|v| read(&v));
    match (above, below) {
        (None, None) => table.wrong("give above, below or both"),
        (Some(a), Some(b)) if b <= a.saturating_add(1) => {
            table.wrong(format!("no number is above {a} and below {b}"));
        }
        _ => {}
    }
    Bounds { above, below }
}

fn read_bytes(table: &Table<'_, '_>) -> Option<Check> {
    let link = table.get("interface").and_then(|v| v.name()).map(Carrier::Link);
    let host = table.get("host").and_then(|v| v.name()).map(Carrier::Host);
    if link.is_some() == host.is_some() {
        table.wrong("say whose bytes: give either interface or host");
    }
    let direction = table.get("direction").map_or(Some(Direction::Both), |v| v.word(&DIRECTIONS));
    let bounds = read_bounds(table, |v| v.size());
    table.end();
    Some(Check::Bytes { of: link.or(host)?, direction: direction?, bounds })
}

fn read_connected(table: &Table<'_, '_>) -> Option<Check> {
    let node = table.need("node").and_then(|v| {
        let every = v.is_text() && v.text()? == EVERY;
        if every { Some(EVERY.to_owned()) } else { v.name() }
    });
    let within = table.get("within").and_then(|v| v.duration());
    let after = table.get("after").and_then(|v| v.name());
    table.end();
    Some(Check::Connected { node: node?, within, after })
}

fn read_exit(table: &Table<'_, '_>) -> Option<Check> {
    let exec = table.need("exec").and_then(|v| v.name());
    let code = table.get("code").map_or(Some(0), |v| v.count(0..256));
    table.end();
    Some(Check::Exit { exec: exec?, code: i32::try_from(code?).ok()? })
}

fn read_dropped(table: &Table<'_, '_>) -> Option<Check> {
    let reasons = Reason::ALL.map(|r| (r.name(), r));
    let reason = table.need("reason").and_then(|v| v.word(&reasons));
    let bounds = read_bounds(table, |v| v.count(0..1 << 53));
    table.end();
    Some(Check::Dropped { reason: reason?, bounds })
}
