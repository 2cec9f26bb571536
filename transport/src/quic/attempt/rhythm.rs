//! How often a connection makes sure of its way. Policy: no I/O, no clock.
//!
//! While something is said, or anything is in doubt, ICE checks all pairs of addresses every few seconds
//! from both sides. A connection that says nothing *rests*: the controlling side alone asks, on the pair in use
//! alone, once per [`PULSE`], which keeps the routers' mappings open (30 s at the least almost
//! everywhere, RFC 4787 section 4.3 wants 2 min) and shows within eight seconds that the peer is gone. It is one
//! packet there and one back; nothing else is sent, and no other timer runs.

use std::time::{Duration, Instant};

/// How long after the last doubt or word ICE goes on checking everything.
pub(super) const BRISK: Duration = Duration::from_secs(10);
/// How often a resting connection is heard of.
pub(super) const PULSE: Duration = Duration::from_secs(6);
/// How long an answer may take before it is asked for again.
const PATIENCE: Duration = Duration::from_millis(500);
/// Pulses without an answer that make a doubt.
const TRIES: u32 = 3;
/// How much longer than [`PULSE`] the other side waits: all tries, and some delay.
const LATE: Duration = Duration::from_secs(3);
/// A connection whose peer has not been heard at all for so long is dead (design section 6).
pub(super) const DEAD: Duration = Duration::from_secs(15);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing yet.
    Nothing,
    /// Ask the peer whether it is there.
    Pulse,
    /// It is not heard any more.
    Doubt,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Rhythm {
    /// Whether this side asks.
    leads: bool,
    resting: bool,
    brisk_until: Instant,
    heard: Instant,
    /// When a pulse was sent last that has no answer, and how many.
    asked: Option<(Instant, u32)>,
    /// How much had been said when it was looked last.
    said: u64,
}

impl Rhythm {
    pub(super) fn new(now: Instant, leads: bool) -> Self {
        let brisk_until = now + BRISK;
        Self { leads, resting: false, brisk_until, heard: now, asked: None, said: 0 }
    }

    pub(super) fn is_resting(&self) -> bool {
        self.resting
    }

    /// The peer was heard on the pair in use.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
    }

    /// Something is different, or may be. Says whether that ends a rest.
    pub(super) fn disturb(&mut self, now: Instant) -> bool {
        self.brisk_until = now + BRISK;
        self.asked = None;
        std::mem::replace(&mut self.resting, false)
    }

    /// Whether it is time to ask if there is anything to do.
    pub(super) fn may_rest(&self, now: Instant) -> bool {
        !self.resting && now >= self.brisk_until
    }

    /// Rests, unless there is reason not to; `said` counts what both sides have said so far. Says whether it
    /// rests now.
    pub(super) fn rest(&mut self, now: Instant, said: u64, settled: bool) -> bool {
        if said != self.said || !settled {
            self.said = said;
            self.brisk_until = now + BRISK;
            return false;
        }
        self.heard(now);
        self.resting = true;
        true
    }

    /// What is to be done now. A pulse is taken to be sent.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        if !self.resting || now < self.deadline() {
            return Due::Nothing;
        }
        match self.asked {
            None if self.leads => self.asked = Some((now, 1)),
            Some((_, tries)) if tries < TRIES => self.asked = Some((now, tries + 1)),
            _ => return Due::Doubt,
        }
        Due::Pulse
    }

    /// When something is to be done, while it rests.
    pub(super) fn deadline(&self) -> Instant {
        match (self.asked, self.leads) {
            (Some((at, _)), _) => at + PATIENCE,
            (None, true) => self.heard + PULSE,
            (None, false) => self.heard + PULSE + LATE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn resting(start: Instant, leads: bool) -> Rhythm {
        let mut rhythm = Rhythm::new(start, leads);
        assert!(!rhythm.may_rest(start + BRISK - SECOND));
        assert!(rhythm.may_rest(start + BRISK));
        assert!(rhythm.rest(start + BRISK, 0, true) && rhythm.is_resting());
        rhythm
    }

    #[test]
    fn what_was_said_puts_a_rest_off() {
        let start = tokio::time::Instant::now().into_std();
        let mut rhythm = Rhythm::new(start, true);
        assert!(!rhythm.rest(start + BRISK, 3, true));
        assert!(!rhythm.may_rest(start + BRISK + SECOND));
        assert!(!rhythm.rest(start + 2 * BRISK, 3, false));
        assert!(rhythm.rest(start + 3 * BRISK, 3, true));
    }

    #[test]
    fn an_answered_pulse_is_one_packet_per_period() {
        let start = tokio::time::Instant::now().into_std();
        let mut rhythm = resting(start, true);
        let mut now = start + BRISK;
        for _ in 0..100 {
            assert_eq!(rhythm.due(now + PULSE - SECOND), Due::Nothing);
            now += PULSE;
            assert_eq!(rhythm.due(now), Due::Pulse);
            assert_eq!(rhythm.due(now), Due::Nothing);
            rhythm.heard(now);
        }
    }

    #[test]
    fn silence_is_noticed_in_time_by_both_sides() {
        let start = tokio::time::Instant::now().into_std();
        for leads in [true, false] {
            let mut rhythm = resting(start, leads);
            let mut pulses = 0;
            let at = loop {
                let now = rhythm.deadline();
                match rhythm.due(now) {
                    Due::Pulse => pulses += 1,
                    Due::Doubt => break now,
                    Due::Nothing => unreachable!(),
                }
            };
            assert_eq!(pulses, if leads { TRIES } else { 0 });
            assert!(at - (start + BRISK) < DEAD - 4 * SECOND);
            assert!(rhythm.disturb(at) && !rhythm.is_resting());
        }
    }
}
