//! When a stream says something by itself, and when it gives up.

use std::time::Duration;

use tokio::time::Instant;

use super::error::StreamError;
use super::machine::{Known, Phase, Stream};

/// How long an acknowledgement waits for more to acknowledge.
const ACK_DELAY: Duration = Duration::from_millis(20);
/// What is not confirmed is asked for after two round trips, and not before this.
const PROBE: Duration = Duration::from_millis(500);
/// And at the latest after this.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// What a busy sender has reserved is given back when it has been idle for this long.
const RELAX: Duration = Duration::from_secs(1);
/// When nothing was heard for this long, the other side is asked whether it is there: over the relay first, whose
/// connection never rests, so that an idle stream lets a direct path rest.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// And again this often; four links are asked twice before the end.
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(5);
/// When nothing was heard for this long, the stream has failed. Long enough for a machine to change its network
/// with all its paths lost for 20 s.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// The same once somebody has said, without proof, that the other side is gone.
pub(super) const HINTED: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Timers {
    heard_at: Instant,
    hinted_at: Option<Instant>,
    pub(super) ack_at: Option<Instant>,
    probe_at: Option<Instant>,
    /// Probes since something moved.
    probes: u32,
    keepalive_at: Instant,
    progress_at: Instant,
    relax_at: Option<Instant>,
    /// How many probes and keepalives there were: which link's turn it is.
    turn: u32,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard_at: now,
            hinted_at: None,
            ack_at: None,
            probe_at: None,
            probes: 0,
            keepalive_at: now + KEEPALIVE,
            progress_at: now,
            relax_at: None,
            turn: 0,
        }
    }

    /// Something authentic and new has come.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.hinted_at = None;
        self.keepalive_at = now + KEEPALIVE;
        self.turn = 0;
    }

    pub(super) fn ack_soon(&mut self, now: Instant) {
        self.ack_at.get_or_insert(now + ACK_DELAY);
    }

    /// The other side has more than before, or wants more.
    pub(super) fn progress(&mut self, now: Instant) {
        self.progress_at = now;
        self.probes = 0;
        self.turn = 0;
        self.probe_at = None;
    }

    /// Nothing has been heard for so long that what comes now is to find out whether we are there.
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard_at) >= KEEPALIVE - KEEPALIVE_AGAIN
    }

    fn dead_at(&self) -> Instant {
        let silent = self.heard_at + SILENCE;
        self.hinted_at.map_or(silent, |at| silent.min(at + HINTED))
    }
}

impl Stream {
    /// Somebody who cannot prove it says that the other side is gone or does not know the stream: it has ten seconds to
    /// say something.
    pub fn hint_gone(&mut self, now: Instant) {
        let first = self.timers.hinted_at.is_none();
        self.timers.hinted_at.get_or_insert(now);
        if self.phase != Phase::Open || self.is_done() {
            // Nothing of ours is at stake any more.
            self.over();
        }
        if first {
            // Only then: what this sends may bring the next hint.
            self.timers.keepalive_at = now;
        }
    }

    /// When [`Self::handle_timeout`] is to be called; none once it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let t = &self.timers;
        let end = match self.phase {
            Phase::Over => return None,
            Phase::Resetting { until, .. } | Phase::WasReset { until, .. } => {
                until.min(t.dead_at())
            }
            _ => t.dead_at(),
        };
        let talks = matches!(self.keys, Known::Agreed(_)) && !self.links.is_empty();
        let keepalive = (self.phase == Phase::Open).then_some(t.keepalive_at);
        let (drain, judge) = (self.links.next_drain(), self.links.next_judge());
        let soon = [t.ack_at, t.probe_at, keepalive, drain, judge];
        let soon = soon.into_iter().flatten().min().filter(|_| talks);
        [soon, t.relax_at, Some(end)].into_iter().flatten().min()
    }

    /// Does what has become due by `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match self.phase {
            Phase::Over => return,
            Phase::Resetting { until, .. } | Phase::WasReset { until, .. } if until <= now => {
                return self.over();
            }
            _ => {}
        }
        if self.timers.dead_at() <= now {
            return self.die();
        }
        if past(self.timers.relax_at) {
            self.sending.relax();
        }
        if past(self.timers.ack_at) {
            self.timers.ack_at = None;
            self.say_state();
        }
        if past(self.timers.probe_at) {
            self.timers.probe_at = None;
            self.timers.probes = self.timers.probes.saturating_add(1);
            self.ask_somebody(now);
        }
        if self.phase == Phase::Open && self.timers.keepalive_at <= now {
            self.timers.keepalive_at = now + KEEPALIVE_AGAIN;
            // Who says that the other side is gone may be the relay itself: then every link is asked.
            let first = self.timers.hinted_at.is_none()
                && now < self.timers.heard_at + KEEPALIVE + KEEPALIVE_AGAIN;
            match self.links.relay().filter(|_| first) {
                Some(relay) => self.probe = Some(relay),
                None => self.ask_somebody(now),
            }
        }
        self.links.judge(now);
        self.drain(now);
        self.rearm(now);
    }

    /// Asks over one link after the other: were all asked at once, the fastest one's question would make the
    /// others' old before they are answered.
    fn ask_somebody(&mut self, now: Instant) {
        self.probe = self.links.turn(self.timers.turn);
        if let Some(link) = self.probe {
            // Now, not once its carrier takes the question: that one may be stuck.
            self.links.asked(link, now);
        }
        self.timers.turn = self.timers.turn.wrapping_add(1);
    }

    /// Sends again what is stuck on links that are not the best any more.
    fn drain(&mut self, now: Instant) {
        let (moved, sending) = (self.timers.progress_at, &mut self.sending);
        for link in self.links.iter_mut().filter(|l| l.drain_at.is_some_and(|at| at <= now)) {
            let until = moved + link.patience();
            let moves = until > now && !link.is_mute();
            link.drain_at = (moves && sending.is_on(link.id)).then_some(until);
            if link.drain_at.is_none() {
                sending.lost(link.id, u64::MAX);
            }
        }
    }

    fn die(&mut self) {
        if self.phase == Phase::Open && !self.is_done() {
            let unanswered = matches!(self.keys, Known::Offered(_));
            self.fail(if unanswered { StreamError::Unanswered } else { StreamError::Silent });
        }
        self.over();
    }

    /// Starts or stops waiting for the other side to confirm something, and for the writer to come back.
    pub(super) fn rearm(&mut self, now: Instant) {
        if !self.sending.is_slack() {
            self.timers.relax_at = None;
        } else if self.timers.relax_at.is_none() {
            self.timers.relax_at = Some(now + RELAX);
        }
        if !self.is_waiting() || self.links.is_empty() {
            self.timers.probe_at = None;
            return;
        }
        if self.timers.probe_at.is_none() {
            let wait = self.links.rtt().saturating_mul(2).max(PROBE);
            // Less and less often, once each link has had its turn.
            let (probes, links) = (self.timers.probes as usize, self.links.count().max(1));
            let wait = match probes % links {
                0 => wait.saturating_mul(1 << (probes / links).min(4)).min(PROBE_MAX),
                _ => wait / 2,
            };
            self.timers.probe_at = Some(now + wait);
        }
    }
}
