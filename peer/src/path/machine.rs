//! The life of one pair's direct path (design section 6; inventory A-052 to A-056, A-049).
//!
//! ```text
//!          wanted                    connected
//!  idle ───────────► negotiating ──────────────► up ──► idle        5 min without traffic
//!   ▲   their offer       │                      │ ▲
//!   │                     │ failed, 10 s         │ └── renewal       at 55 min, or our network changed:
//!   │                     ▼                      │                   a second try beside the path that is up
//!   └──────────────── waiting ◄──────────────────┘ lost, demoted
//!        over, and still wanted: negotiating
//! ```
//!
//! - One try at a time per pair. Two offers that cross: the lower key's goes on, the other is dropped.
//! - Make before break: while a try runs beside a path that is up, the path stays; once the new one is
//!   connected it takes over, and the old one ends.
//! - A path is an hour old at most: the lower key renews it at 55 minutes, at 60 either side ends it.
//! - A path through a TURN server is better than none, and no reason to rest: the lower key seeks one without,
//!   as if there were none, while messages go over it.
//! - Back-off: see [`super::backoff`]. Tries are made as long as somebody wants the path ([`WANTED`]).
//!
//! Drive contract: [`Machine::handle`] with what happened, [`Machine::handle`] with [`Event::Tick`] when
//! [`Machine::deadline`] has come; do the returned actions in order.

mod words;

use std::sync::Arc;

use meshwire_signaling::PublicKey;
use tokio::time::{Duration, Instant};

use super::backoff::{Backoff, STEADY};
use super::history::{Cause, History, What};
use super::select::Direct;
use super::tally::Tally;

pub use self::words::{Action, AttemptId, Event, Now, Phase};

/// A try is given up after this long.
pub const TRY: Duration = Duration::from_secs(10);
/// Offers that cross come this soon after each other. An older one without an answer has not arrived.
pub const CROSSING: Duration = Duration::from_secs(2);
/// A path without traffic ends after this long (inventory A-053).
pub const IDLE: Duration = Duration::from_secs(300);
/// The lower key renews a path of this age.
pub const RENEW: Duration = Duration::from_secs(3_300);
/// No path gets older (inventory A-054).
pub const MAX_AGE: Duration = Duration::from_secs(3_600);
/// A renewal that failed is tried again after this long.
pub const RENEW_AGAIN: Duration = Duration::from_secs(30);
/// How long after the last message for the pair its direct path is still sought.
pub const WANTED: Duration = Duration::from_secs(60);
/// Offers of the peer that are taken up at once, and one more per [`OFFER_EVERY`]: each costs us a try.
pub const OFFER_BURST: u32 = 8;
/// See [`OFFER_BURST`].
pub const OFFER_EVERY: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
struct Try {
    id: AttemptId,
    since: Instant,
    ours: bool,
    /// Whether it is for a better path than the one that is up.
    seeks: bool,
    answered: bool,
    until: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Path {
    since: Instant,
    /// Since when there has been a path without a break.
    steady: Instant,
    traffic: Instant,
    renew: Instant,
    /// Since when it goes through a TURN server, or through none.
    moved: Instant,
    /// When one that goes through none is sought beside it; never beside one that does so.
    seek: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    lower: bool,
    current: Option<Try>,
    path: Option<Path>,
    wait: Option<Instant>,
    wanted: Option<Instant>,
    backoff: Backoff,
    offers: Option<(Instant, u32)>,
    history: History,
}

impl Machine {
    /// For the pair of `me` and `peer`; what happens to it is counted in `tally`.
    #[must_use]
    pub fn new(me: &PublicKey, peer: &PublicKey, tally: Arc<Tally>) -> Self {
        Self {
            lower: me.0 < peer.0,
            current: None,
            path: None,
            wait: None,
            wanted: None,
            backoff: Backoff::default(),
            offers: None,
            history: History::new(tally),
        }
    }

    /// Where the pair stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match (&self.path, &self.current, self.wait) {
            (Some(_), current, _) => Phase::Up { renewing: current.is_some() },
            (None, Some(_), _) => Phase::Negotiating,
            (None, None, Some(until)) => Phase::Waiting(until),
            (None, None, None) => Phase::Idle,
        }
    }

    /// The same, as [`super::select_path`] asks for it.
    #[must_use]
    pub fn direct(&self) -> Direct {
        match self.phase() {
            Phase::Idle => Direct::None,
            Phase::Negotiating => Direct::Negotiating,
            Phase::Waiting(_) => Direct::BackingOff,
            Phase::Up { .. } => Direct::Up,
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Whether nothing would be lost by forgetting this pair.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase() == Phase::Idle
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let path = self.path.map(|p| {
            let end = (p.traffic + IDLE).min(p.since + MAX_AGE);
            match self.current.is_none() && self.lower {
                true => p.seek.map_or(end, |seek| end.min(seek)).min(p.renew),
                false => end,
            }
        });
        let current = self.current.map(|t| t.until);
        let wait = if self.current.is_none() { self.wait } else { None };
        [path, current, wait].into_iter().flatten().min()
    }

    /// Takes in what happened; says what to do.
    #[must_use]
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Action> {
        let mut todo = Vec::new();
        match event {
            Event::Wanted => {
                self.wanted = Some(now.at);
                if self.is_idle() {
                    self.offer(now, &mut todo);
                }
            }
            Event::Traffic => {
                self.wanted = Some(now.at);
                if let Some(path) = &mut self.path {
                    path.traffic = now.at;
                }
            }
            Event::Offer(id) => self.offered(now, id, &mut todo),
            Event::Answer(id) => {
                if let Some(t) = self.current.as_mut().filter(|t| t.id == id && t.ours) {
                    t.answered = true;
                }
            }
            Event::Connected { attempt, relayed, detail } => {
                self.connected(now, attempt, relayed, &detail, &mut todo);
            }
            Event::Failed { attempt, cause, detail } => {
                if self.is_current(&attempt) {
                    self.fail(now, cause, &detail);
                }
            }
            Event::Moved { relayed, detail } => self.moved(now, relayed, &detail, &mut todo),
            Event::Stayed { detail } => self.history.note(now.unix, What::Stayed, &detail),
            Event::Lost(cause) => self.lose(now, cause, &mut todo),
            Event::Demote => {
                if self.path.is_some() {
                    todo.push(Action::Close(Cause::LateAcks));
                    self.lose(now, Cause::LateAcks, &mut todo);
                }
            }
            Event::NetworkChanged => {
                self.backoff.reset();
                if let Some(t) = self.current {
                    // Its candidates are of yesterday.
                    let (attempt, cause) = (t.id, Cause::NetworkChanged);
                    todo.push(Action::Abandon { attempt, cause, tell: true });
                    self.current = None;
                }
                // Whoever waits on the other side may be waiting for just this.
                let waited = self.wait.take().is_some();
                if self.path.is_some() || waited || self.is_wanted(now) {
                    self.offer(now, &mut todo);
                }
            }
            Event::PeerBack => {
                self.backoff.reset();
                self.wait = None;
                if self.current.is_none() && self.path.is_none() && self.is_wanted(now) {
                    self.offer(now, &mut todo);
                }
            }
            Event::RelayUp => {
                if let Some(t) = self.current.take_if(|t| t.ours && !t.answered) {
                    // The answer may have gone with the old connection.
                    let (attempt, cause) = (t.id, Cause::Replaced);
                    todo.push(Action::Abandon { attempt, cause, tell: false });
                    match self.path {
                        Some(_) if t.seeks => self.seek_later(now),
                        Some(_) => self.offer(now, &mut todo),
                        None => {}
                    }
                }
                if self.current.is_none() && self.path.is_none() && self.is_wanted(now) {
                    self.wait = None;
                    self.offer(now, &mut todo);
                }
            }
            Event::Forbid(cause) => {
                if let Some(t) = self.current.take() {
                    todo.push(Action::Abandon { attempt: t.id, cause, tell: true });
                    self.history.note(now.unix, What::Failed(cause), "");
                }
                if self.path.take().is_some() {
                    todo.push(Action::Close(cause));
                    self.history.note(now.unix, What::Down(cause), "");
                }
                (self.wait, self.wanted) = (None, None);
                self.backoff.reset();
            }
            Event::Tick => self.tick(now, &mut todo),
        }
        todo
    }

    fn is_current(&self, attempt: &AttemptId) -> bool {
        self.current.is_some_and(|t| t.id == *attempt)
    }

    fn is_wanted(&self, now: Now) -> bool {
        self.wanted.is_some_and(|at| now.at.saturating_duration_since(at) < WANTED)
    }

    fn begin(&mut self, now: Now, id: AttemptId, ours: bool, seeks: bool) {
        self.wait = None;
        let (since, until) = (now.at, now.at + TRY);
        self.current = Some(Try { id, since, ours, seeks, answered: false, until });
        let what = if ours { What::Offered } else { What::Answered };
        self.history.note(now.unix, what, "");
    }

    fn offer(&mut self, now: Now, todo: &mut Vec<Action>) {
        self.begin(now, now.fresh, true, false);
        todo.push(Action::Offer(now.fresh));
    }

    /// A path that goes through a TURN server is up: is it time to look for a better one?
    fn seek(&mut self, now: Now, todo: &mut Vec<Action>) {
        let wanted = self.is_wanted(now);
        let Some(path) = &mut self.path else { return };
        if path.seek.is_none_or(|at| now.at < at) {
            return;
        }
        // Nobody misses it while nothing is said.
        path.seek = (!wanted).then(|| now.at + WANTED);
        if wanted {
            self.begin(now, now.fresh, true, true);
            todo.push(Action::Seek(now.fresh));
        }
    }

    fn moved(&mut self, now: Now, relayed: bool, detail: &str, todo: &mut Vec<Action>) {
        let Some(path) = &mut self.path else { return };
        self.history.note(now.unix, What::Moved, detail);
        let lasted = now.at.saturating_duration_since(path.moved);
        (path.moved, path.seek) = (now.at, None);
        if relayed {
            self.backoff.lost(now.at, lasted);
            self.seek_later(now);
        } else if let Some(t) = self.current.take_if(|t| t.seeks) {
            let (attempt, cause) = (t.id, Cause::Replaced);
            todo.push(Action::Abandon { attempt, cause, tell: true });
        }
    }

    fn seek_later(&mut self, now: Now) {
        let at = now.at + self.backoff.wait(now.at, random(now));
        if let Some(path) = &mut self.path {
            path.seek = Some(at);
        }
    }

    fn offered(&mut self, now: Now, id: AttemptId, todo: &mut Vec<Action>) {
        if self.is_current(&id) || !self.may_offer(now) {
            return;
        }
        if let Some(t) = self.current {
            let crossed = t.answered || now.at.saturating_duration_since(t.since) < CROSSING;
            if t.ours && self.lower && crossed {
                // Ours goes on; theirs sees it and gives way.
                return;
            }
            // Theirs goes first, or they have begun anew: either way they know.
            let cause = if t.ours { Cause::Glare } else { Cause::Replaced };
            todo.push(Action::Abandon { attempt: t.id, cause, tell: false });
        }
        self.begin(now, id, false, false);
        todo.push(Action::Answer(id));
    }

    fn may_offer(&mut self, now: Now) -> bool {
        let (since, left) = self.offers.unwrap_or((now.at, OFFER_BURST));
        let earned = now.at.saturating_duration_since(since).as_secs() / OFFER_EVERY.as_secs();
        let earned = u32::try_from(earned).unwrap_or(OFFER_BURST);
        let left = left.saturating_add(earned).min(OFFER_BURST);
        let since = if earned == 0 { since } else { now.at };
        self.offers = Some((since, left.saturating_sub(1)));
        left > 0
    }

    fn connected(
        &mut self,
        now: Now,
        attempt: AttemptId,
        relayed: bool,
        detail: &str,
        todo: &mut Vec<Action>,
    ) {
        if !self.is_current(&attempt) {
            todo.push(Action::Abandon { attempt, cause: Cause::Replaced, tell: false });
            return;
        }
        self.current = None;
        let steady = self.path.map_or(now.at, |path| path.steady);
        if self.path.is_some() {
            self.history.note(now.unix, What::Down(Cause::Replaced), "");
        }
        self.path = Some(Path {
            since: now.at,
            steady,
            traffic: now.at,
            renew: now.at + RENEW,
            moved: now.at,
            seek: None,
        });
        self.history.note(now.unix, What::Up, detail);
        if relayed {
            self.backoff.failed();
            self.seek_later(now);
        }
        todo.push(Action::Promote(attempt));
    }

    fn fail(&mut self, now: Now, cause: Cause, detail: &str) {
        let sought = self.current.take().is_some_and(|t| t.seeks);
        if let Some(path) = &mut self.path {
            if sought {
                self.history.note(now.unix, What::Stayed, cause.words());
                self.backoff.failed();
                self.seek_later(now);
            } else {
                self.history.note(now.unix, What::Failed(cause), detail);
                path.renew = now.at + RENEW_AGAIN;
            }
            return;
        }
        self.history.note(now.unix, What::Failed(cause), detail);
        if cause.is_failure() {
            self.backoff.failed();
        }
        self.put_off(now);
    }

    /// No path, no try: when is the next one due?
    fn put_off(&mut self, now: Now) {
        let wait = self.backoff.wait(now.at, random(now));
        self.wait = (!wait.is_zero()).then(|| now.at + wait);
    }

    fn lose(&mut self, now: Now, cause: Cause, todo: &mut Vec<Action>) {
        let Some(path) = self.path.take() else { return };
        self.history.note(now.unix, What::Down(cause), "");
        let lasted = now.at.saturating_duration_since(path.steady);
        if matches!(cause, Cause::Idle | Cause::PeerEnded) {
            if lasted >= STEADY {
                self.backoff.reset();
            }
            return;
        }
        self.backoff.lost(now.at, lasted);
        if self.current.is_some() {
            return;
        }
        self.put_off(now);
        if self.wait.is_none() && self.is_wanted(now) {
            self.offer(now, todo);
        }
    }

    fn tick(&mut self, now: Now, todo: &mut Vec<Action>) {
        if let Some(t) = self.current.filter(|t| t.until <= now.at) {
            let cause = if t.ours && !t.answered { Cause::NoAnswer } else { Cause::NoPair };
            todo.push(Action::Abandon { attempt: t.id, cause, tell: true });
            self.fail(now, cause, "");
        }
        if let Some(path) = self.path {
            let cause = if path.since + MAX_AGE <= now.at {
                Some(Cause::TooOld)
            } else if path.traffic + IDLE <= now.at {
                Some(Cause::Idle)
            } else {
                None
            };
            if let Some(cause) = cause {
                todo.push(Action::Close(cause));
                self.lose(now, cause, todo);
            } else if self.lower && self.current.is_none() {
                match path.renew <= now.at {
                    true => self.offer(now, todo),
                    false => self.seek(now, todo),
                }
            }
        }
        if self.current.is_none() && self.wait.is_some_and(|at| at <= now.at) {
            self.wait = None;
            if self.is_wanted(now) {
                self.offer(now, todo);
            }
        }
    }
}

/// A try's name is random as a whole.
fn random(now: Now) -> u64 {
    u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| now.fresh[i]))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
