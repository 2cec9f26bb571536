//! What happened in a run, as the drivers saw it. Pure: drivers put facts in, [`super::judge`] takes
//! verdicts out. All times are since the beginning of the run.

use std::collections::BTreeMap;
use std::time::Duration;

use meshwire_netsim::scenario::PathKind;
use meshwire_netsim::{Reason, Traffic};

use super::report::{PathChange, millis};

/// A message that a timeline sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Who sent it.
    pub from: String,
    /// Whom to.
    pub to: String,
    /// Its envelope's id, once it is in the outbox.
    pub id: Option<String>,
    /// Why it never got there.
    pub refused: Option<String>,
    /// When it was sent.
    pub at: Duration,
    /// When its author had the receipt, and which way it had gone.
    pub receipt: Option<(Duration, String)>,
    /// Why it will never have one.
    pub failed: Option<String>,
    /// When it surfaced at its recipient, each time.
    pub received: Vec<Duration>,
    /// Its place among what its recipient got from its author, from 0.
    pub place: Option<usize>,
}

/// A node's connection to its broker came up or went down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFact {
    /// Whose.
    pub node: String,
    /// When.
    pub at: Duration,
    /// Whether it is up.
    pub up: bool,
}

/// Messages from one node to another began to go another way, as the first one says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathFact {
    /// Who sends.
    pub from: String,
    /// Whom to.
    pub to: String,
    /// When.
    pub at: Duration,
    /// Which way; none while they wait.
    pub kind: Option<PathKind>,
}

/// How a command ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// When.
    pub at: Duration,
    /// Its code; none if a signal or its time limit ended it.
    pub code: Option<i32>,
    /// The last line that it printed.
    pub said: String,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Every message, in order of sending. A message's text begins with its place here in hexadecimal.
    pub sent: Vec<Sent>,
    /// Every change of every node's connection, in order.
    pub links: Vec<LinkFact>,
    /// Every change of way between the nodes that the scenario asks about, in order.
    pub paths: Vec<PathFact>,
    /// When each node was last started.
    pub started: BTreeMap<String, Duration>,
    /// When steps that have an id were done.
    pub steps: BTreeMap<String, Duration>,
    /// How commands ended, by their steps' ids.
    pub exits: BTreeMap<String, Exit>,
    /// What links carried, by name.
    pub links_carried: BTreeMap<String, Traffic>,
    /// What hosts' interfaces carried altogether, by name.
    pub hosts_carried: BTreeMap<String, Traffic>,
    /// How many packets were dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// When the timeline was done.
    pub done: Option<Duration>,
    /// Messages by their envelopes' ids.
    ids: BTreeMap<String, usize>,
    /// How many messages each pair's recipient has got.
    arrivals: BTreeMap<(String, String), usize>,
}

impl Facts {
    /// From the first message's sending to its arrival.
    pub(super) fn first_took(&self) -> Option<Duration> {
        let first = self.sent.first()?;
        Some(first.received.first()?.saturating_sub(first.at))
    }

    /// Every change of way since the first message.
    pub(super) fn path_changes(&self) -> Vec<PathChange> {
        let since = self.sent.first().map(|s| s.at).unwrap_or_default();
        let change = |p: &PathFact| PathChange {
            from: p.from.clone(),
            to: p.to.clone(),
            ms: millis(p.at.saturating_sub(since)),
            kind: p.kind.map_or("none", PathKind::name),
        };
        self.paths.iter().map(change).collect()
    }
}

/// Letters of a message's text that say which it is.
pub(super) const TAG: usize = 8;

/// The text of the n-th message, of `size` bytes, or of [`TAG`] if that is more.
#[must_use]
pub(super) fn text(number: usize, size: usize) -> String {
    let mut text = format!("{number:0width$x}", width = TAG);
    text.extend(std::iter::repeat_n('.', size.saturating_sub(text.len())));
    text
}

/// Which message a text is of.
#[must_use]
pub(super) fn tag(text: &str) -> Option<usize> {
    text.get(..TAG).and_then(|t| usize::from_str_radix(t, 16).ok())
}

impl Facts {
    /// A message is sent; its number.
    pub fn send(&mut self, from: &str, to: &str, at: Duration) -> usize {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.sent.push(Sent { from, to, at, ..Sent::default() });
        self.sent.len() - 1
    }

    /// A message is in its author's outbox, or was refused there.
    pub fn accepted(&mut self, number: usize, outcome: Result<String, String>) {
        let Some(sent) = self.sent.get_mut(number) else { return };
        match outcome {
            Ok(id) => {
                self.ids.insert(id.clone(), number);
                sent.id = Some(id);
            }
            Err(why) => sent.refused = Some(why),
        }
    }

    /// A message has surfaced at `node`, with this text.
    pub fn received(&mut self, node: &str, text: &str, at: Duration) {
        let Some(sent) = tag(text).and_then(|n| self.sent.get_mut(n)) else { return };
        if sent.to != node {
            return;
        }
        sent.received.push(at);
        if sent.place.is_none() {
            let count = self.arrivals.entry((sent.from.clone(), sent.to.clone())).or_default();
            sent.place = Some(*count);
            *count += 1;
        }
    }

    /// A message is in the inbox of `node`, which may have been noted already.
    pub fn surely_received(&mut self, node: &str, text: &str, at: Duration) {
        let known =
            tag(text).and_then(|n| self.sent.get(n)).is_some_and(|s| !s.received.is_empty());
        if !known {
            self.received(node, text, at);
        }
    }

    /// A message's author has its receipt.
    pub fn receipt(&mut self, id: &str, path: &str, at: Duration) {
        if let Some(sent) = self.by_id(id)
            && sent.receipt.is_none()
        {
            sent.receipt = Some((at, path.to_owned()));
        }
    }

    /// A message's author has given it up.
    pub fn failed(&mut self, id: &str, why: &str) {
        if let Some(sent) = self.by_id(id) {
            sent.failed = Some(why.to_owned());
        }
    }

    fn by_id(&mut self, id: &str) -> Option<&mut Sent> {
        self.ids.get(id).and_then(|n| self.sent.get_mut(*n))
    }

    /// The messages of `node` of which nobody knows how they ended.
    pub(super) fn unanswered(&self, node: &str) -> Vec<String> {
        let open = |s: &&Sent| s.from == node && s.receipt.is_none() && s.failed.is_none();
        self.sent.iter().filter(open).filter_map(|s| s.id.clone()).collect()
    }

    /// A node's connection is up or not. Says whether that is news.
    pub fn link(&mut self, node: &str, up: bool, at: Duration) -> bool {
        let news = self.connected(node) != up;
        if news {
            self.links.push(LinkFact { node: node.to_owned(), at, up });
        }
        news
    }

    /// Messages from one node to another go this way now.
    pub fn path(&mut self, from: &str, to: &str, kind: Option<PathKind>, at: Duration) {
        if self.last_path(from, to).map(|p| p.kind) != Some(kind) {
            let (from, to) = (from.to_owned(), to.to_owned());
            self.paths.push(PathFact { from, to, at, kind });
        }
    }

    /// Which way messages from one node to another go, and since when.
    #[must_use]
    pub fn last_path(&self, from: &str, to: &str) -> Option<&PathFact> {
        self.paths.iter().rev().find(|p| p.from == from && p.to == to)
    }

    /// Whether a node's connection is up, as far as is known.
    #[must_use]
    pub fn connected(&self, node: &str) -> bool {
        self.links.iter().rev().find(|l| l.node == node).is_some_and(|l| l.up)
    }

    /// What was sent from one node to another.
    pub fn between<'f>(
        &'f self,
        from: &'f str,
        to: &'f str,
    ) -> impl Iterator<Item = &'f Sent> + Clone + 'f {
        self.sent.iter().filter(move |s| s.from == from && s.to == to)
    }

    /// How many packets were dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped.get(reason.name()).copied().unwrap_or(0)
    }
}
