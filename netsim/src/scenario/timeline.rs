//! What happens, and when.

use std::net::IpAddr;
use std::time::Duration;

use super::check::{PathKind, kinds};
use super::flaw::Place;
use super::link::{DIRECTIONS, LinkPatch};
use super::read::{Table, Value};
use super::world::{addresses, read_preset};
use crate::change::Direction;
use crate::link::LinkState;
use crate::preset::Preset;

/// How long a command or a wait may take when nobody says.
const WITHIN: Duration = Duration::from_secs(60);
/// Messages of one `send`.
const MAX_COUNT: u64 = 100_000;
/// Bytes of one message, the least: they say which it is.
const MIN_SIZE: u64 = 8;
/// The most; meshwire's own bound is a little above.
const MAX_SIZE: u64 = 64_000;

/// Something that happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// When.
    pub when: When,
    /// Its name, for assertions to speak of.
    pub id: Option<String>,
    /// What.
    pub action: Action,
    /// Where it was written.
    pub place: Place,
}

/// When a step happens. Steps happen in order, none before the one above it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// This long after the timeline's begin, or at once if that is past.
    At(Duration),
    /// This long after the step before it.
    After(Duration),
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Messages are sent.
    Send(Send),
    /// A node, or the broker, is stopped as its owner would.
    Stop(String),
    /// A node, or the broker, is started.
    Start(String),
    /// Both, one after the other.
    Restart(String),
    /// The world changes.
    World(Disturbance),
    /// A command runs on a host. Lab only.
    Exec(Exec),
    /// The timeline waits; the run fails if it waits in vain.
    WaitFor(WaitFor),
}

/// Messages from one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Who sends.
    pub from: String,
    /// Whom to.
    pub to: String,
    /// How many.
    pub count: u32,
    /// How far apart.
    pub every: Duration,
    /// How many bytes each.
    pub size: usize,
}

/// A command on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Where.
    pub host: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether the timeline goes on while it runs.
    pub background: bool,
    /// How long it may take.
    pub within: Duration,
}

/// What a timeline waits for, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitFor {
    /// What.
    pub what: Awaited,
    /// How long at most.
    pub within: Duration,
}

/// What can be waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Everything that was sent so far from one node to another has a receipt.
    Delivered {
        /// Who sent.
        from: String,
        /// Whom to.
        to: String,
    },
    /// A node's messages to another go this way.
    Path {
        /// Who sends.
        from: String,
        /// Whom to.
        to: String,
        /// Which way.
        kind: PathKind,
    },
    /// A node is connected to its broker.
    Connected(String),
    /// A node is not connected to its broker.
    Disconnected(String),
    /// A command in the background has ended.
    Exit(String),
}

/// A change of the world.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Disturbance {
    /// A link behaves otherwise; what is not said stays.
    Link {
        /// Whose.
        of: String,
        /// Which way.
        direction: Direction,
        /// How.
        patch: LinkChange,
    },
    /// A link goes up, down, or swallows everything.
    State {
        /// Whose.
        of: String,
        /// Which way.
        direction: Direction,
        /// What it does now.
        state: LinkState,
    },
    /// A network falls into parts.
    Partition {
        /// Which.
        network: String,
        /// Names of hosts, homes and routers, part by part.
        parts: Vec<Vec<String>>,
    },
    /// A network is whole again.
    Heal(String),
    /// An interface has other addresses.
    Address {
        /// Whose.
        of: String,
        /// Its addresses from now on.
        addresses: Vec<IpAddr>,
    },
    /// A router forgets everything.
    Reboot(String),
    /// A router becomes another one.
    Preset {
        /// Which.
        router: String,
        /// What it is from now on.
        preset: Preset,
    },
}

/// What a timeline says of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkChange(pub(super) Box<LinkPatch>);

/// The keys that say what happens, of which each step has one.
const ACTIONS: [&str; 15] = [
    "send",
    "stop",
    "start",
    "restart",
    "link",
    "down",
    "up",
    "black_hole",
    "partition",
    "heal",
    "address",
    "reboot",
    "preset",
    "exec",
    "wait_for",
];

pub(super) fn read_step(table: &Table<'_, '_>) -> Option<Step> {
    let at = table.get("at").and_then(|v| v.duration());
    let after = table.get("after").and_then(|v| v.duration());
    if let (Some(_), Some(after)) = (at, table.get("after")) {
        after.wrong("give either at (since the begin) or after (since the step before)");
    }
    let when = at.map_or(When::After(after.unwrap_or_default()), When::At);
    let id = table.get("id").and_then(|v| v.name());
    let named = ACTIONS.iter().filter(|a| table.has(a)).count();
    let action = read_action(table);
    table.end();
    if named != 1 {
        let all = super::flaw::choices(ACTIONS);
        table.wrong(format!("each step does one thing, this one {named}; it has one of {all}"));
        return None;
    }
    Some(Step { when, id, action: action?, place: table.place_of(&ACTIONS) })
}

fn read_action(table: &Table<'_, '_>) -> Option<Action> {
    // All are asked for, so that each is known to the table.
    let name = |v: Option<Value<'_, '_>>| v.and_then(|v| v.name());
    let mut found = None;
    let mut take = |action: Option<Action>| found = found.take().or(action);
    take(table.inner("send").and_then(|t| read_send(&t)));
    take(name(table.get("stop")).map(Action::Stop));
    take(name(table.get("start")).map(Action::Start));
    take(name(table.get("restart")).map(Action::Restart));
    take(table.inner("link").and_then(|t| read_link(&t)).map(Action::World));
    for (key, state) in
        [("down", LinkState::Down), ("up", LinkState::Up), ("black_hole", LinkState::BlackHole)]
    {
        let read = table.get(key).and_then(|v| read_state(&v, state));
        take(read.map(Action::World));
    }
    take(table.inner("partition").and_then(|t| read_partition(&t)).map(Action::World));
    take(name(table.get("heal")).map(Disturbance::Heal).map(Action::World));
    take(table.inner("address").and_then(|t| read_address(&t)).map(Action::World));
    take(name(table.get("reboot")).map(Disturbance::Reboot).map(Action::World));
    take(table.inner("preset").and_then(|t| read_swap(&t)).map(Action::World));
    take(table.inner("exec").and_then(|t| read_exec(&t)));
    take(table.inner("wait_for").and_then(|t| read_wait(&t)));
    found
}

fn read_send(table: &Table<'_, '_>) -> Option<Action> {
    let from = table.need("from").and_then(|v| v.name());
    let to = table.need("to").and_then(|v| v.name());
    let count = table.get("count").map_or(Some(1), |v| v.count(1..MAX_COUNT + 1));
    let every = table.get("every").map_or(Some(Duration::ZERO), |v| v.duration());
    let size = table.get("size").map_or(Some(32), |v| v.size());
    if size.is_some_and(|s| !(MIN_SIZE..=MAX_SIZE).contains(&s)) {
        table.wrong(format!("a message has {MIN_SIZE} to {MAX_SIZE} bytes"));
    }
    table.end();
    Some(Action::Send(Send {
        from: from?,
        to: to?,
        count: u32::try_from(count?).ok()?,
        every: every?,
        size: usize::try_from(size?).ok()?,
    }))
}

fn read_link(table: &Table<'_, '_>) -> Option<Disturbance> {
    let of = table.need("of").and_then(|v| v.name());
    let direction = table.get("direction").map_or(Some(Direction::Both), |v| v.word(&DIRECTIONS));
    let patch = LinkChange(Box::new(LinkPatch::read(table)));
    table.end();
    Some(Disturbance::Link { of: of?, direction: direction?, patch })
}

fn read_state(value: &Value<'_, '_>, state: LinkState) -> Option<Disturbance> {
    if value.is_text() {
        let of = value.name()?;
        return Some(Disturbance::State { of, direction: Direction::Both, state });
    }
    let table = value.table()?;
    let of = table.need("of").and_then(|v| v.name());
    let direction = table.need("direction").and_then(|v| v.word(&DIRECTIONS));
    table.end();
    Some(Disturbance::State { of: of?, direction: direction?, state })
}

fn read_partition(table: &Table<'_, '_>) -> Option<Disturbance> {
    let network = table.get("network").map_or(Some("internet".to_owned()), |v| v.name());
    let names = |v: &Value<'_, '_>| v.list().iter().filter_map(Value::name).collect();
    let parts = table.need("parts").map(|v| v.list().iter().map(names).collect());
    table.end();
    Some(Disturbance::Partition { network: network?, parts: parts? })
}

fn read_address(table: &Table<'_, '_>) -> Option<Disturbance> {
    let of = table.need("of").and_then(|v| v.name());
    let addresses = addresses(table.need("addresses"));
    table.end();
    Some(Disturbance::Address { of: of?, addresses })
}

fn read_swap(table: &Table<'_, '_>) -> Option<Disturbance> {
    let router = table.need("router").and_then(|v| v.name());
    let preset = table.need("preset").and_then(|v| read_preset(&v));
    table.end();
    Some(Disturbance::Preset { router: router?, preset: preset? })
}

fn read_exec(table: &Table<'_, '_>) -> Option<Action> {
    let host = table.need("host").and_then(|v| v.name());
    let command = table.need("command").map(|v| {
        if v.is_text() {
            let shell = ["/bin/sh".to_owned(), "-c".to_owned()];
            return shell.into_iter().chain(v.text()).collect();
        }
        v.list().iter().filter_map(Value::text).collect::<Vec<_>>()
    });
    if command.as_ref().is_some_and(Vec::is_empty) {
        table.wrong("a command needs a program: command = [\"ping\", \"-c1\", \"broker\"]");
    }
    let background = table.get("background").and_then(|v| v.flag()).unwrap_or(false);
    let within = table.get("within").map_or(Some(WITHIN), |v| v.duration());
    table.end();
    Some(Action::Exec(Exec { host: host?, command: command?, background, within: within? }))
}

fn read_wait(table: &Table<'_, '_>) -> Option<Action> {
    let within = table.get("within").map_or(Some(WITHIN), |v| v.duration());
    let name = |v: Option<Value<'_, '_>>| v.and_then(|v| v.name());
    let delivered = table.inner("delivered").and_then(|t| {
        let from = name(t.need("from"));
        let to = name(t.need("to"));
        t.end();
        Some(Awaited::Delivered { from: from?, to: to? })
    });
    let path = table.inner("path").and_then(|t| {
        let from = name(t.need("from"));
        let to = name(t.need("to"));
        let kind = t.need("kind").and_then(|v| v.word(&kinds()));
        t.end();
        Some(Awaited::Path { from: from?, to: to?, kind: kind? })
    });
    let all = [
        delivered,
        path,
        name(table.get("connected")).map(Awaited::Connected),
        name(table.get("disconnected")).map(Awaited::Disconnected),
        name(table.get("exit")).map(Awaited::Exit),
    ];
    table.end();
    let mut all = all.into_iter().flatten();
    match (all.next(), all.next()) {
        (Some(what), None) => Some(Action::WaitFor(WaitFor { what, within: within? })),
        _ => {
            let keys = "delivered = { from, to }, path = { from, to, kind }, connected, \
                        disconnected or exit";
            table.wrong(format!("wait for one thing: {keys}"));
            None
        }
    }
}
