//! What is looked at while streams are full: the way they take, and messages beside them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use meshwire_peer::api::AskPath;
use meshwire_peer::node::{Node, StreamHandle};
use meshwire_signaling::PublicKey;
use meshwire_transport::link::PathKind;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::super::world::{Member, receipt, until};

/// Bytes of a message.
const MESSAGE: usize = 256;
/// How long after a receipt the next message is sent.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two looks at the pair's path.
const LOOK: Duration = Duration::from_millis(50);

/// Which way streams are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Expected {
    Direct,
    Turn,
    Relay,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "the direct path",
            Self::Turn => "TURN",
            Self::Relay => "the relay",
        })
    }
}

/// The ways that were seen, by their words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ways {
    /// What streams went over: `quic`, `relay`; `none` while there was nothing.
    pub(super) paths: BTreeSet<String>,
    /// Between which kinds of addresses the direct path was: `host`, `relayed` and others.
    pub(super) reach: BTreeSet<String>,
}

impl Expected {
    /// What streams say of it.
    pub(super) fn kind(self) -> PathKind {
        if self == Self::Relay { PathKind::Relay } else { PathKind::Quic }
    }

    /// Refuses a measurement of something else.
    pub(super) fn check(self, ways: &Ways) -> anyhow::Result<()> {
        let set = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
        let only = |set: &BTreeSet<String>, one: &str| set.iter().eq([one]);
        let fits = only(&ways.paths, &word(&self.kind()))
            && match self {
                Self::Direct => !ways.reach.is_empty() && !ways.reach.contains("relayed"),
                Self::Turn => only(&ways.reach, "relayed"),
                Self::Relay => ways.reach.is_empty(),
            };
        if !fits {
            let (paths, reach) = (set(&ways.paths), set(&ways.reach));
            bail!(
                "the streams did not go over {self} all the time: they went over {paths} ({reach})"
            );
        }
        Ok(())
    }
}

/// A value's word in JSON.
fn word(value: &impl Serialize) -> String {
    let json = serde_json::to_value(value).ok();
    json.as_ref().and_then(|v| v.as_str()).unwrap_or("unknown").to_owned()
}

/// Notes which way streams take until it is asked.
pub(super) struct Way {
    seen: Arc<Mutex<Ways>>,
    _watching: JoinSet<()>,
}

impl Way {
    pub(super) async fn watch(node: &Node, peer: PublicKey, streams: Vec<StreamHandle>) -> Self {
        let (seen, mut watching) = (Arc::<Mutex<Ways>>::default(), JoinSet::new());
        look(node, peer, &seen).await;
        for stream in streams {
            let (seen, mut paths) = (Arc::clone(&seen), stream.paths());
            note(&seen).path(*paths.borrow_and_update());
            watching.spawn(async move {
                while paths.changed().await.is_ok() {
                    let now = *paths.borrow_and_update();
                    // One that is over goes nowhere.
                    if !stream.stats().over {
                        note(&seen).path(now);
                    }
                }
            });
        }
        let (node, of) = (node.clone(), Arc::clone(&seen));
        watching.spawn(async move {
            loop {
                sleep(LOOK).await;
                look(&node, peer, &of).await;
            }
        });
        Self { seen, _watching: watching }
    }

    pub(super) fn seen(self) -> Ways {
        note(&self.seen).clone()
    }
}

impl Ways {
    fn path(&mut self, path: Option<PathKind>) {
        self.paths.insert(path.map_or_else(|| "none".to_owned(), |kind| word(&kind)));
    }
}

async fn look(node: &Node, peer: PublicKey, seen: &Mutex<Ways>) {
    let ask = AskPath { mesh: None, peer: peer.to_string() };
    let direct = node.path(ask).await.ok().and_then(|path| path.direct);
    note(seen).reach.extend(direct.map(|path| word(&path.reach)));
}

fn note(seen: &Mutex<Ways>) -> std::sync::MutexGuard<'_, Ways> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Messages to the peer, one after the other.
pub(super) struct Chat {
    task: JoinHandle<anyhow::Result<Vec<Duration>>>,
    over: watch::Sender<bool>,
}

impl Drop for Chat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Chat {
    pub(super) fn start(member: Member, peer: PublicKey) -> Self {
        let (over, watched) = watch::channel(false);
        Self { task: tokio::spawn(chat(member, peer, watched)), over }
    }

    /// From sending each to its receipt; the one under way counts.
    pub(super) async fn stop(mut self) -> anyhow::Result<Vec<Duration>> {
        self.over.send_replace(true);
        (&mut self.task).await?
    }
}

async fn chat(
    member: Member,
    peer: PublicKey,
    over: watch::Receiver<bool>,
) -> anyhow::Result<Vec<Duration>> {
    let (mut events, mut took) = (member.node.events(), Vec::new());
    loop {
        let start = Instant::now();
        let id = member.send(&peer, format!("{:0>MESSAGE$}", took.len())).await?;
        until(&mut events, |event| receipt(&event).filter(|of| *of == id)).await?;
        took.push(start.elapsed());
        if *over.borrow() {
            return Ok(took);
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(paths: &[&str], reach: &[&str]) -> Ways {
        let set = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        Ways { paths: set(paths), reach: set(reach) }
    }

    #[test]
    fn another_way_is_no_measurement() {
        use Expected::{Direct, Relay, Turn};
        for (path, seen, fits) in [
            (Direct, ways(&["quic"], &["host"]), true),
            (Direct, ways(&["quic"], &["host", "nat"]), true),
            (Direct, ways(&["quic"], &["relayed"]), false),
            (Direct, ways(&["quic", "relay"], &["host"]), false),
            (Direct, ways(&["none", "quic"], &["host"]), false),
            (Turn, ways(&["quic"], &["relayed"]), true),
            (Turn, ways(&["quic"], &["host"]), false),
            (Relay, ways(&["relay"], &[]), true),
            (Relay, ways(&["quic"], &["host"]), false),
            (Relay, ways(&[], &[]), false),
        ] {
            let said = path.check(&seen);
            assert_eq!(said.is_ok(), fits, "{path}: {seen:?}");
        }
        let said = Turn.check(&ways(&["quic"], &["host"])).unwrap_err().to_string();
        assert!(said.contains("TURN") && said.contains("host"), "{said}");
    }
}
