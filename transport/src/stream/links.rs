//! The links of one stream, and which of them is the best.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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

/// How long an answer may be missing at least, until a link over which others come is preferred.
const ANSWER: Duration = Duration::from_millis(500);

/// For how long the shortest round trip counts, at least; at most twice as long.
const LEAST: Duration = Duration::from_secs(30);

/// How often a link that was left is asked whether it works again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

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

/// The shortest round trip of the last while: what the way takes, without what waits on it because of us.
#[derive(Debug)]
struct Least {
    /// Since when, the shortest since then, and in the time as long before.
    since: Instant,
    now: Option<Duration>,
    before: Option<Duration>,
}

impl Least {
    fn new(first: Option<Duration>, since: Instant) -> Self {
        Self { since, now: first, before: None }
    }

    fn note(&mut self, rtt: Duration, now: Instant) {
        if now.saturating_duration_since(self.since) >= LEAST {
            (self.since, self.before) = (now, self.now.take());
        }
        self.now = Some(self.now.map_or(rtt, |least| least.min(rtt)));
    }

    fn get(&self) -> Option<Duration> {
        [self.now, self.before].into_iter().flatten().min()
    }
}

/// When something last came over a connection that carries many streams: what it brings one of them shows that it lives.
/// Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// A record has come, whether it was new or not: nobody but the other side could send it on this connection.
    pub fn beat(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    kind: PathKind,
    hint: Option<Duration>,
    measured: Option<Duration>,
    least: Least,
    /// The other side is to be told how far we are, over this very link.
    pub(super) greet: bool,
    /// The other side has asked over it.
    pub(super) reply: bool,
    /// It is not the best any more, and has until then to deliver.
    pub(super) drain_at: Option<Instant>,
    /// Since when the other side owes an answer over it.
    asked_at: Option<Instant>,
    /// Of the connection that carries it, if others share that.
    pulse: Option<Pulse>,
    /// It left a question unanswered while another link did not: it comes last until something is heard over it.
    mute: Option<Mute>,
}

/// Since when a link is mute, and when it was last asked since.
#[derive(Clone, Copy, Debug)]
struct Mute {
    since: Instant,
    asked: Instant,
}

impl Link {
    pub(super) fn rtt(&self) -> Duration {
        self.hint.or(self.measured).unwrap_or(RTT_GUESS).min(RTT_MAX)
    }

    /// How long it may move nothing once it is not the best any more.
    pub(super) fn patience(&self) -> Duration {
        DRAIN.saturating_add(self.rtt().saturating_mul(4))
    }

    /// It has left a question unanswered while another link did not.
    pub(super) fn is_mute(&self) -> bool {
        self.mute.is_some()
    }

    /// How long an answer over it may take until it counts as missing.
    fn answers_in(&self) -> Duration {
        self.rtt().saturating_mul(2).max(ANSWER)
    }

    /// The lower, the better.
    fn rank(&self) -> (bool, u8, Duration) {
        let kind = match self.kind {
            PathKind::Memory => 0,
            PathKind::Quic => 1,
            PathKind::Relay => 2,
        };
        (self.is_mute(), kind, self.rtt())
    }
}

#[derive(Debug, Default)]
pub(super) struct Links {
    list: Vec<Link>,
    preferred: Option<LinkId>,
    best: Option<LinkId>,
    /// When something came over another link than the best.
    elsewhere: Option<Instant>,
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
        self.list.push(Link {
            id,
            kind,
            hint,
            measured: None,
            least: Least::new(hint, now),
            greet: true,
            reply: false,
            drain_at: None,
            asked_at: None,
            pulse: None,
            mute: None,
        });
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

    pub(super) fn hint(&mut self, id: LinkId, rtt: Duration, now: Instant) {
        if let Some(link) = self.get_mut(id) {
            link.hint = Some(rtt);
            link.least.note(rtt, now);
        }
    }

    pub(super) fn measured(&mut self, id: LinkId, sample: Duration, now: Instant) {
        if let Some(link) = self.get_mut(id) {
            if link.hint.is_none() {
                link.least.note(sample, now);
            }
            let old = link.measured.unwrap_or(sample);
            link.measured = Some((old.saturating_mul(7).saturating_add(sample)) / 8);
        }
    }

    /// The other side was asked over a link, to answer over it.
    pub(super) fn asked(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.get_mut(id) {
            link.asked_at.get_or_insert(now);
        }
    }

    /// Something new and authentic has come over a link. If the best one owes an answer meanwhile, it is given up once
    /// that has been missing for too long: its carrier may need longer to see that it is dead.
    pub(super) fn heard(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.get_mut(id) {
            link.asked_at = None;
            link.mute = None;
        }
        if self.best != Some(id) {
            self.elsewhere = Some(now);
        }
        self.choose(now);
        self.judge(now);
    }

    pub(super) fn pulse(&mut self, id: LinkId, pulse: Pulse) {
        if let Some(link) = self.get_mut(id) {
            link.pulse = Some(pulse);
        }
    }

    /// When [`Self::judge`] is due.
    pub(super) fn next_judge(&self) -> Option<Instant> {
        let again =
            self.list.iter().filter_map(|l| l.mute).map(|mute| mute.asked + ASK_AGAIN).min();
        self.verdict().into_iter().chain(again).min()
    }

    /// When the best link has owed an answer for too long.
    fn verdict(&self) -> Option<Instant> {
        let best = self.best.and_then(|id| self.get(id)).filter(|best| !best.is_mute())?;
        let asked = best.asked_at.filter(|asked| self.elsewhere >= Some(*asked))?;
        let lives = best.pulse.as_ref().and_then(Pulse::last);
        Some(lives.map_or(asked, |lives| lives.max(asked)) + best.answers_in())
    }

    /// Leaves the best link if it owes an answer for too long, and asks again over those that were left: nothing else
    /// would bring them back, for where both sides have left one nobody says anything new over it.
    pub(super) fn judge(&mut self, now: Instant) {
        if self.verdict().is_some_and(|at| at <= now)
            && let Some(best) = self.best.and_then(|id| self.get_mut(id))
        {
            best.mute = Some(Mute { since: now, asked: now });
        }
        for link in &mut self.list {
            let lives = link.pulse.as_ref().and_then(Pulse::last);
            link.mute = link.mute.filter(|mute| lives.is_none_or(|lives| lives <= mute.since));
            if let Some(mute) = link.mute.as_mut().filter(|mute| mute.asked + ASK_AGAIN <= now) {
                mute.asked = now;
                link.greet = true;
            }
        }
        self.choose(now);
    }

    fn choose(&mut self, now: Instant) {
        let ranked = || self.list.iter().min_by_key(|l| l.rank()).map(|l| l.id);
        let preferred = self.preferred.filter(|id| self.get(*id).is_some_and(|l| !l.is_mute()));
        let best = preferred.or_else(ranked);
        if best == self.best {
            return;
        }
        if let Some(old) = self.best.and_then(|id| self.get_mut(id)) {
            old.drain_at = Some(if old.is_mute() { now } else { now + old.patience() });
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

    pub(super) fn count(&self) -> usize {
        self.list.len()
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

    /// A link by the broker, where it works.
    pub(super) fn relay(&self) -> Option<LinkId> {
        self.list.iter().find(|l| l.kind == PathKind::Relay && !l.is_mute()).map(|l| l.id)
    }

    /// The shortest that the best link's was of late: the bandwidth-delay product is reckoned with it. With one that
    /// grows with what waits on the way, a window would grow because it has.
    pub(super) fn least_rtt(&self) -> Duration {
        let least = self.best.and_then(|id| self.get(id)).and_then(|l| l.least.get());
        least.map_or(self.rtt(), |least| least.min(RTT_MAX))
    }

    pub(super) fn next_drain(&self) -> Option<Instant> {
        self.list.iter().filter_map(|l| l.drain_at).min()
    }
}
