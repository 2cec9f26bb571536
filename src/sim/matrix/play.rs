//! Plays a cell: two nodes, a broker with its TURN server, a first message, and what becomes of it.

use std::time::Duration;

use meshwire_netsim::simnet::{EPOCH_MS, Sim, Stage, run};
use meshwire_peer::api::{PathEntry, PathReport};
use meshwire_peer::path::{PathMode, Via};
use meshwire_transport::direct::Reach;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, timeout};

use super::cell::Cell;
use super::expect::{Route, expected};
use super::place::place;
use crate::sim::virtual_world::{VirtualNode, VirtualWorld, WorldError};

/// How long two nodes may take to found, join and hear of each other.
const MEETING: Duration = Duration::from_secs(60);
/// How long the first message may take.
const FIRST: Duration = Duration::from_secs(30);
/// How long an attempt may take.
const ATTEMPT: Duration = Duration::from_secs(30);
/// Time for a better pair of addresses to be found on a path that is up.
const SETTLED: Duration = Duration::from_secs(5);
/// Time for a port to be guessed, from the first message on.
const GUESSED: Duration = Duration::from_secs(20);
/// Longest time until it is looked again what became of an attempt.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Messages each way once the path is what it will be.
const MESSAGES: usize = 3;

pub(super) const DIALER: &str = "dialer";
pub(super) const LISTENER: &str = "listener";

/// Something that happened, as one of the nodes tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Milliseconds since the first message was sent; what came before is negative.
    pub ms: i64,
    /// `dialer` or `listener`.
    pub who: &'static str,
    /// What happened.
    pub what: String,
}

/// What a cell got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub cell: String,
    /// Everything random came from it.
    pub seed: u64,
    /// The path that it must get.
    pub expected: Route,
    /// The path that it got; absent if nothing arrived at all.
    pub got: Option<Route>,
    /// Between which kinds of addresses, from the dialer: `host`, `nat`, `mapped`, `relayed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
    /// From `send` until the first message was in the listener's inbox, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte_us: Option<u64>,
    /// From `send` until messages would go by a path of their own, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_us: Option<u64>,
    /// What went wrong beside the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

impl Outcome {
    pub(super) fn new(cell: Cell, seed: u64) -> Self {
        Self {
            cell: cell.to_string(),
            seed,
            expected: expected(cell),
            got: None,
            reach: None,
            first_byte_us: None,
            direct_us: None,
            trouble: None,
            steps: Vec::new(),
        }
    }

    /// A cell that could not be played to its end.
    pub(super) fn broken(cell: Cell, seed: u64, why: String) -> Self {
        Self { trouble: Some(why), ..Self::new(cell, seed) }
    }

    /// Whether the cell is what it must be.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.got == Some(self.expected) && self.trouble.is_none()
    }
}

/// Plays one cell in virtual time, on a runtime of its own. Without `quic` the nodes use the relay
/// alone.
///
/// # Panics
/// As [`run`].
#[must_use]
pub fn play(cell: Cell, seed: u64, quic: bool) -> Outcome {
    run(seed, async |stage| {
        let mut outcome = Outcome::new(cell, stage.seed());
        if let Err(why) = Box::pin(perform(stage, cell, quic, &mut outcome)).await {
            outcome.trouble = Some(why);
        }
        outcome
    })
}

async fn perform(
    stage: Stage,
    cell: Cell,
    quic: bool,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let (sim, site, hosts) = place(stage, cell).map_err(|e| e.to_string())?;
    let mut world = VirtualWorld::start(sim, site).await.map_err(said)?;
    world.set_paths(if quic { PathMode::Auto } else { PathMode::RelayOnly });
    for (name, host) in [(DIALER, hosts[0]), (LISTENER, hosts[1])] {
        let adding = Box::pin(timeout(MEETING, world.add(name, host))).await;
        adding.map_err(|_| format!("the {name} did not join in time"))?.map_err(said)?;
    }
    let pair = Pair {
        dialer: world.node(DIALER).map_err(said)?,
        listener: world.node(LISTENER).map_err(said)?,
        quic,
        sent_at: Instant::now(),
    };
    for (node, other) in [(pair.dialer, LISTENER), (pair.listener, DIALER)] {
        let knows = timeout(MEETING, node.knows(other)).await;
        knows
            .map_err(|_| format!("the {} hears nothing of its peer", node.name()))?
            .map_err(said)?;
    }
    let pair = Pair { sent_at: Instant::now(), ..pair };
    let sent_at = unix_ms(world.sim());
    let played = Box::pin(pair.play(outcome)).await;
    for (who, node, other) in [(DIALER, pair.dialer, LISTENER), (LISTENER, pair.listener, DIALER)] {
        let report = node.path(other).await.map_err(said)?;
        outcome.steps.extend(steps(who, sent_at, &report));
    }
    outcome.steps.sort_by_key(|s| s.ms);
    played
}

fn said(e: WorldError) -> String {
    e.to_string()
}

fn unix_ms(sim: &Sim) -> u64 {
    EPOCH_MS.saturating_add(sim.now().as_nanos() / 1_000_000)
}

/// What a node remembers of a path.
fn steps(who: &'static str, since: u64, report: &PathReport) -> Vec<Step> {
    let step = |entry: &PathEntry| {
        let mut what = entry.what.clone();
        for more in [entry.cause.map(|c| c.as_str()), Some(entry.detail.as_str())] {
            if let Some(more) = more.filter(|m| !m.is_empty()) {
                what.push_str(": ");
                what.push_str(more);
            }
        }
        let ms = i64::try_from(entry.at).unwrap_or(i64::MAX);
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        Step { ms: ms.saturating_sub(since), who, what }
    };
    report.history.iter().map(step).collect()
}

/// Both nodes, from the first message on.
struct Pair<'a> {
    dialer: &'a VirtualNode,
    listener: &'a VirtualNode,
    quic: bool,
    sent_at: Instant,
}

impl Pair<'_> {
    async fn play(&self, outcome: &mut Outcome) -> Result<(), String> {
        let first = self.dialer.send(LISTENER, "0").await.map_err(said)?;
        outcome.steps.push(self.step(DIALER, "sends the first message"));
        let arrives = async {
            let arrived = timeout(FIRST, self.listener.received(1)).await;
            arrived.map_err(|_| "the first message does not arrive".to_owned())?.map_err(said)?;
            Ok::<_, String>((self.since_us(), self.step(LISTENER, "has the first message")))
        };
        let settles = async {
            let settled = timeout(ATTEMPT, self.settled()).await;
            settled.map_err(|_| "the attempt does not end".to_owned())?.map_err(said)
        };
        let (arrived, settled) = tokio::join!(arrives, settles);
        let (first_byte, step) = arrived?;
        outcome.first_byte_us = Some(first_byte);
        outcome.steps.push(step);
        outcome.direct_us = settled?;
        self.dialer.delivered(first).await.map_err(said)?;
        if outcome.direct_us.is_some() {
            sleep(SETTLED).await;
        }
        while outcome.expected == Route::Direct
            && self.quic
            && !self.is_direct().await.map_err(said)?
            && self.sent_at.elapsed() < GUESSED
        {
            sleep(LOOK_AGAIN).await;
        }
        let report = self.dialer.path(LISTENER).await.map_err(said)?;
        let direct = report.direct.filter(|_| report.via == Via::Direct);
        outcome.reach = direct.map(|d| d.reach);
        outcome.got = Some(match outcome.reach {
            None => Route::Relay,
            Some(Reach::Relayed) => Route::Turn,
            Some(_) => Route::Direct,
        });
        let path = if outcome.reach.is_some() { "direct" } else { "relay" };
        self.chat(path).await?;
        outcome.steps.push(self.step(DIALER, &format!("messages go both ways, path {path}")));
        Ok(())
    }

    /// Waits until the first attempt has ended; when a path was up, if one was.
    async fn settled(&self) -> Result<Option<u64>, WorldError> {
        if !self.quic {
            return Ok(None);
        }
        let mut events = self.dialer.node()?.events();
        loop {
            let report = self.dialer.path(LISTENER).await?;
            if report.via == Via::Direct {
                return Ok(Some(self.since_us()));
            }
            if report.history.iter().any(|e| e.what == "failed") {
                return Ok(None);
            }
            // A failure is not told; and an event that was missed is one more reason to look.
            if let Ok(Err(RecvError::Closed)) = timeout(LOOK_AGAIN, events.recv()).await {
                return Err(WorldError::Stopped(DIALER.to_owned()));
            }
        }
    }

    /// Whether messages go from node to node.
    async fn is_direct(&self) -> Result<bool, WorldError> {
        let report = self.dialer.path(LISTENER).await?;
        let direct = report.direct.filter(|_| report.via == Via::Direct);
        Ok(direct.is_some_and(|d| d.reach != Reach::Relayed))
    }

    /// A few messages each way, one after the other, which all take `path`.
    async fn chat(&self, path: &str) -> Result<(), String> {
        for n in 1..=MESSAGES {
            for (from, to) in [(self.dialer, LISTENER), (self.listener, DIALER)] {
                let id = from.send(to, &n.to_string()).await.map_err(said)?;
                let delivered = timeout(FIRST, from.delivered(id)).await;
                delivered
                    .map_err(|_| format!("message {n} to the {to} does not arrive"))?
                    .map_err(said)?;
                let took = from.message(id).await.map_err(said)?.path.unwrap_or_default();
                if took != path {
                    return Err(format!(
                        "message {n} to the {to} took the path {took}, not {path}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn since_us(&self) -> u64 {
        u64::try_from(self.sent_at.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn step(&self, who: &'static str, what: &str) -> Step {
        let ms = i64::try_from(self.sent_at.elapsed().as_millis()).unwrap_or(i64::MAX);
        Step { ms, who, what: what.to_owned() }
    }
}
