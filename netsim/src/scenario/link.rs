//! `link = { latency = "20ms", loss = "5%", up = { rate = "1mbit" } }`

use std::time::Duration;

use super::flaw::Place;
use super::read::{Table, Value};
use crate::change::Direction;
use crate::link::{Jitter, LinkConfig, Loss, Rate, Reorder};
use crate::topology::Wire;

/// How long a packet may wait in a queue that nobody gave a size.
const QUEUE: Duration = Duration::from_millis(100);

/// What a `link` says; what it does not say stays as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Patch {
    latency: Option<Duration>,
    jitter: Option<Duration>,
    normal: Option<bool>,
    loss: Option<Loss>,
    rate: Option<u64>,
    queue: Option<u64>,
    reorder: Option<crate::Chance>,
    reorder_by: Option<Duration>,
    duplicate: Option<crate::Chance>,
    corrupt: Option<crate::Chance>,
    mtu: Option<u32>,
    mtu_signal: Option<bool>,
}

/// How far a packet is held back when nobody says.
const REORDER_BY: Duration = Duration::from_millis(10);

impl Patch {
    fn read(table: &Table<'_, '_>) -> Self {
        let loss = match (table.get("loss"), table.get("burst")) {
            (Some(_), Some(burst)) => {
                burst.wrong("give either loss or burst: a link loses packets in one way");
                None
            }
            (Some(loss), None) => loss.share().map(|c| match c {
                crate::Chance::NEVER => Loss::None,
                chance => Loss::Independent(chance),
            }),
            (None, burst) => burst.and_then(|b| read_burst(&b)),
        };
        Self {
            latency: table.get("latency").and_then(|v| v.duration()),
            jitter: table.get("jitter").and_then(|v| v.duration()),
            normal: table
                .get("jitter_shape")
                .and_then(|v| v.word(&[("uniform", false), ("normal", true)])),
            loss,
            rate: table.get("rate").and_then(|v| v.rate()),
            queue: table.get("queue").and_then(|v| v.size()),
            reorder: table.get("reorder").and_then(|v| v.share()),
            reorder_by: table.get("reorder_by").and_then(|v| v.duration()),
            duplicate: table.get("duplicate").and_then(|v| v.share()),
            corrupt: table.get("corrupt").and_then(|v| v.share()),
            mtu: table
                .get("mtu")
                .and_then(|v| v.count(68..65_536))
                .and_then(|n| u32::try_from(n).ok()),
            mtu_signal: table.get("mtu_signal").and_then(|v| v.flag()),
        }
    }

    /// The link with this said of it.
    fn apply(&self, old: LinkConfig) -> LinkConfig {
        let (spread, was_normal) = match old.jitter {
            Jitter::None => (Duration::ZERO, false),
            Jitter::Uniform(spread) => (spread, false),
            Jitter::Normal(deviation) => (deviation, true),
        };
        let jitter = match (self.jitter.unwrap_or(spread), self.normal.unwrap_or(was_normal)) {
            (Duration::ZERO, _) => Jitter::None,
            (spread, false) => Jitter::Uniform(spread),
            (deviation, true) => Jitter::Normal(deviation),
        };
        let mtu = self.mtu.unwrap_or(old.mtu);
        let rate = self.rate.or(old.rate.map(|r| r.bits_per_second)).map(|bits_per_second| {
            let kept = old.rate.map(|r| r.queue_bytes).filter(|_| self.rate.is_none());
            let queue = self.queue.or(kept);
            let waits = u128::from(bits_per_second) * QUEUE.as_millis() / 8000;
            let least = u64::from(mtu).saturating_mul(4);
            let default = u64::try_from(waits).unwrap_or(u64::MAX).max(least);
            Rate { bits_per_second, queue_bytes: queue.unwrap_or(default) }
        });
        let held = self.reorder.or(old.reorder.map(|r| r.chance));
        let delay = self.reorder_by.or(old.reorder.map(|r| r.delay)).unwrap_or(REORDER_BY);
        let reorder = held.filter(|c| *c != crate::Chance::NEVER);
        LinkConfig {
            latency: self.latency.unwrap_or(old.latency),
            jitter,
            loss: self.loss.unwrap_or(old.loss),
            rate,
            reorder: reorder.map(|chance| Reorder { chance, delay }),
            duplicate: self.duplicate.unwrap_or(old.duplicate),
            corrupt: self.corrupt.unwrap_or(old.corrupt),
            mtu,
            mtu_signal: self.mtu_signal.unwrap_or(old.mtu_signal),
        }
    }

    /// Why this cannot be said of a link that was like this.
    fn contradiction(&self, old: LinkConfig) -> Option<&'static str> {
        if self.queue.is_some() && self.rate.is_none() && old.rate.is_none() {
            return Some("a queue needs a rate: packets only wait for a link that is busy");
        }
        if self.reorder_by.is_some() && self.reorder.is_none() && old.reorder.is_none() {
            return Some("reorder_by needs reorder, the share of packets that are held back");
        }
        if self.normal.is_some() && self.jitter.is_none() && old.jitter == Jitter::None {
            return Some("jitter_shape needs jitter, such as jitter = \"5ms\"");
        }
        None
    }
}

fn read_burst(value: &Value<'_, '_>) -> Option<Loss> {
    let table = value.table()?;
    let share = |v: Option<Value<'_, '_>>| v.and_then(|v| v.share());
    let (enter, leave) = (share(table.need("enter")), share(table.need("leave")));
    let good = table.get("good").map_or(Some(crate::Chance::NEVER), |v| v.share());
    let bad = table.get("bad").map_or(Some(crate::Chance::ALWAYS), |v| v.share());
    table.end();
    Some(Loss::Burst { enter: enter?, leave: leave?, good: good?, bad: bad? })
}

/// What a `link` says of both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkPatch {
    pub(super) up: Patch,
    pub(super) down: Patch,
    both: Patch,
    place: Place,
}

impl LinkPatch {
    /// Reads the keys of a link; other keys of the table are the caller's to ask for.
    pub(super) fn read(table: &Table<'_, '_>) -> Self {
        let side = |value: Option<Value<'_, '_>>| {
            let table = value.and_then(|v| v.table());
            table.map_or_else(Patch::default, |t| {
                let patch = Patch::read(&t);
                t.end();
                patch
            })
        };
        Self {
            both: Patch::read(table),
            up: side(table.get("up")),
            down: side(table.get("down")),
            place: table.place.clone(),
        }
    }

    /// The wire with this said of it, or what is wrong with that.
    pub(super) fn apply(&self, old: Wire) -> Result<Wire, super::Flaw> {
        let side = |old: LinkConfig, own: &Patch| {
            let flaw = |text: &str| self.place.flaw(text);
            if let Some(text) = self.both.contradiction(old) {
                return Err(flaw(text));
            }
            let both = self.both.apply(old);
            if let Some(text) = own.contradiction(both) {
                return Err(flaw(text));
            }
            let new = own.apply(both);
            new.check().map_err(|e| flaw(&e.to_string()))?;
            Ok(new)
        };
        Ok(Wire { up: side(old.up, &self.up)?, down: side(old.down, &self.down)? })
    }
}

/// Reads a whole `link` key into a wire that starts as a perfect one.
pub(super) fn read_wire(table: &Table<'_, '_>) -> Wire {
    let Some(link) = table.inner("link") else { return Wire::default() };
    let patch = LinkPatch::read(&link);
    link.end();
    match patch.apply(Wire::default()) {
        Ok(wire) => wire,
        Err(flaw) => {
            table.source.flaws.borrow_mut().push(flaw);
            Wire::default()
        }
    }
}

/// The words for a direction.
pub(super) const DIRECTIONS: [(&str, Direction); 3] =
    [("up", Direction::Up), ("down", Direction::Down), ("both", Direction::Both)];
