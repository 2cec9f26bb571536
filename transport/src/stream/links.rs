//! The links of one stream, and which of them is the best.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::link::PathKind;

/// Most links of one stream at a time; more are not used.
pub const MAX_LINKS: usize = 8;
/// What a round trip is taken for before one was measured.
const RTT_GUESS: Duration = Duration::from_millis(100);
/// No round trip counts for more: times that are reckoned with it stay small.
const RTT_MAX: Duration = Duration::from_secs(10);
/// How long what is left on a link may move nothing before it is sent again on a better one, beside four round trips.
const DRAIN: Duration = Duration::from_secs(1);

/// Names a link; a link that comes up anew has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

impl LinkId {
    /// One that this process has not had.
    #[must_use]
    pub fn fresh() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    kind: PathKind,
    hint: Option<Duration>,
    measured: Option<Duration>,
    /// The other side is to be told how far we are, over this very link.
    pub(super) greet: bool,
    /// The other side has asked over it.
    pub(super) reply: bool,
    /// It is not the best any more, and has until then to deliver.
    pub(super) drain_at: Option<Instant>,
}

impl Link {
    pub(super) fn rtt(&self) -> Duration {
        self.hint.or(self.measured).unwrap_or(RTT_GUESS).min(RTT_MAX)
    }

    /// How long it may move nothing once it is not the best any more.
    pub(super) fn patience(&self) -> Duration {
        DRAIN.saturating_add(self.rtt().saturating_mul(4))
    }

    /// The lower, the better.
    fn rank(&self) -> (u8, Duration) {
        let kind = match self.kind {
            PathKind::Memory => 0,
            PathKind::Quic => 1,
            PathKind::Relay => 2,
        };
        (kind, self.rtt())
    }
}

#[derive(Debug, Default)]
pub(super) struct Links {
    list: Vec<Link>,
    preferred: Option<LinkId>,
    best: Option<LinkId>,
}

impl Links {
    /// False if it is there already, or there are too many.
    pub(super) fn up(
        &mut self,
        id: LinkId,
        kind: PathKind,
        hint: Option<Duration>,
        now: Instant,
    ) -> bool {
        if self.list.len() >= MAX_LINKS || self.get(id).is_some() {
            return false;
        }
        let link =
            Link { id, kind, hint, measured: None, greet: true, reply: false, drain_at: None };
        self.list.push(link);
        self.choose(now);
        true
    }

    /// False if it is not there.
    pub(super) fn down(&mut self, id: LinkId, now: Instant) -> bool {
        let before = self.list.len();
        self.list.retain(|l| l.id != id);
        if self.preferred == Some(id) {
            self.preferred = None;
        }
        self.choose(now);
        self.list.len() < before
    }

    pub(super) fn prefer(&mut self, id: Option<LinkId>, now: Instant) {
        self.preferred = id.filter(|id| self.get(*id).is_some());
        self.choose(now);
    }

    pub(super) fn hint(&mut self, id: LinkId, rtt: Duration) {
        if let Some(link) = self.get_mut(id) {
            link.hint = Some(rtt);
        }
    }

    pub(super) fn measured(&mut self, id: LinkId, sample: Duration) {
        if let Some(link) = self.get_mut(id) {
            let old = link.measured.unwrap_or(sample);
            link.measured = Some((old.saturating_mul(7).saturating_add(sample)) / 8);
        }
    }

    fn choose(&mut self, now: Instant) {
        let ranked = || self.list.iter().min_by_key(|l| l.rank()).map(|l| l.id);
        let best = self.preferred.or_else(ranked);
        if best == self.best {
            return;
        }
        if let Some(old) = self.best.and_then(|id| self.get_mut(id)) {
            old.drain_at = Some(now + old.patience());
        }
        self.best = best;
        if let Some(new) = best.and_then(|id| self.get_mut(id)) {
            new.drain_at = None;
        }
    }

    pub(super) fn best(&self) -> Option<LinkId> {
        self.best
    }

    /// What kind of link the best is.
    pub(super) fn best_kind(&self) -> Option<PathKind> {
        self.best.and_then(|id| self.get(id)).map(|l| l.kind)
    }

    pub(super) fn is_best(&self, id: LinkId) -> bool {
        self.best == Some(id)
    }

    pub(super) fn get(&self, id: LinkId) -> Option<&Link> {
        self.list.iter().find(|l| l.id == id)
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.list.iter_mut().find(|l| l.id == id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.list.iter_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The `n`th one to ask whether it still works: the best, then each other one, and again.
    pub(super) fn turn(&self, n: u32) -> Option<LinkId> {
        let best = self.best?;
        let others = self.list.iter().map(|l| l.id).filter(|id| *id != best);
        let n = usize::try_from(n).unwrap_or(0);
        std::iter::once(best).chain(others).nth(n % self.list.len().max(1))
    }

    pub(super) fn rtt(&self) -> Duration {
        self.best.and_then(|id| self.get(id)).map_or(RTT_GUESS, Link::rtt)
    }

    pub(super) fn next_drain(&self) -> Option<Instant> {
        self.list.iter().filter_map(|l| l.drain_at).min()
    }
}
