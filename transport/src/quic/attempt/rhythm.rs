//! How often a connection makes sure of its way. Policy: no I/O, no clock.
//!
//! While anything is new or in doubt, ICE checks all pairs of addresses every few seconds from both sides. A
//! connection that is settled *rests*: the controlling side alone asks, on the pair in use alone, once per
//! [`PULSE`], which keeps the routers' mappings open (30 s at the least almost everywhere, RFC 4787 section
//! 4.3 wants 2 min) and shows within eight seconds that the peer is gone. It is one packet there and one back;
//! nothing else is sent, and no other timer runs.
//!
//! A direct way that rests is left alone while it is used, too: checks of spare pairs through a server would cost
//! the server more than a few messages do. It is *busy*: both sides look whether QUIC's datagrams
//! are answered by any, and ask at once if not. That shows within two seconds that the way is lost. When nothing
//! is said for [`QUIET`] either side asks once, unless it was heard since: who only receives, behind a router that has
//! forgotten it, notices by that alone. The rest goes on, so that a few bytes now and then cost a few packets.

use std::time::{Duration, Instant};

/// How long after the last doubt or word ICE goes on checking everything.
pub(super) const BRISK: Duration = Duration::from_secs(10);
/// How often a resting connection is heard of.
pub(super) const PULSE: Duration = Duration::from_secs(6);
/// How long an answer may take before it is asked for again.
const PATIENCE: Duration = Duration::from_millis(500);
/// Pulses without an answer that make a doubt.
const TRIES: u32 = 3;
/// The same while the peer leaves something else unanswered as well.
const BUSY_TRIES: u32 = 2;
/// How often a busy connection is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long a busy connection may say nothing.
const QUIET: Duration = Duration::from_secs(1);
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

/// What QUIC has sent and received so far, in datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) sent: u64,
    pub(super) received: u64,
}

#[derive(Debug)]
struct Busy {
    look: Instant,
    seen: Traffic,
    unanswered: Unanswered,
    /// When something was said last.
    said: Instant,
    /// When something came last.
    came: Option<Instant>,
    /// Something was sent although what was sent before is unanswered: no lone acknowledgement, which nobody
    /// answers.
    insists: bool,
}

/// Whether something was sent, and nothing came since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unanswered {
    No,
    /// Since the last look.
    Fresh,
    /// For longer.
    Long,
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
    /// What is looked at while something is said on a resting connection.
    busy: Option<Busy>,
    /// What was said has ended, and may have been cut off: the peer is to be asked, whoever leads.
    unsure: bool,
    patience: Duration,
}

impl Rhythm {
    pub(super) fn new(now: Instant, leads: bool) -> Self {
        let brisk_until = now + BRISK;
        Self {
            leads,
            resting: false,
            brisk_until,
            heard: now,
            asked: None,
            said: 0,
            busy: None,
            unsure: false,
            patience: PATIENCE,
        }
    }

    pub(super) fn is_resting(&self) -> bool {
        self.resting
    }

    /// The peer was heard on the pair in use.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
        self.unsure = false;
        if let Some(busy) = &mut self.busy {
            (busy.unanswered, busy.insists) = (Unanswered::No, false);
        }
    }

    /// Something is said on a resting connection.
    pub(super) fn stir(&mut self, now: Instant, seen: Traffic) {
        if self.resting && self.busy.is_none() {
            let (look, unanswered) = (now + LOOK, Unanswered::No);
            let (came, insists) = (None, false);
            self.busy = Some(Busy { look, seen, unanswered, said: now, came, insists });
        }
    }

    /// Whether it is time for [`Self::look`].
    pub(super) fn may_look(&self, now: Instant) -> bool {
        self.busy.as_ref().is_some_and(|busy| now >= busy.look)
    }

    /// Looks at what a busy connection says. Says whether it still is busy.
    pub(super) fn look(&mut self, now: Instant, traffic: Traffic) -> bool {
        let Some(busy) = &mut self.busy else { return false };
        let (sent, came) = (traffic.sent != busy.seen.sent, traffic.received != busy.seen.received);
        busy.insists = !came && (busy.insists || sent && busy.unanswered != Unanswered::No);
        if came {
            busy.came = Some(now);
        }
        busy.unanswered = match busy.unanswered {
            _ if came => Unanswered::No,
            Unanswered::No if sent => Unanswered::Fresh,
            Unanswered::No => Unanswered::No,
            Unanswered::Fresh | Unanswered::Long => Unanswered::Long,
        };
        busy.seen = traffic;
        busy.look = now + LOOK;
        if sent || came {
            busy.said = now;
        }
        if now < busy.said + QUIET {
            return true;
        }
        self.unsure |= self.heard <= busy.said;
        self.busy = None;
        false
    }

    /// Whether something is said on a resting connection.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Whether the peer has not answered yet what was said.
    pub(super) fn misses_answers(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.unanswered != Unanswered::No)
    }

    /// Whether the peer leaves unanswered what is said.
    fn is_urgent(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.unanswered == Unanswered::Long)
    }

    /// Something is different, or may be. Says whether that ends a rest.
    pub(super) fn disturb(&mut self, now: Instant) -> bool {
        self.brisk_until = now + BRISK;
        self.asked = None;
        self.busy = None;
        self.unsure = false;
        std::mem::replace(&mut self.resting, false)
    }

    /// Whether it is time to ask if there is anything to do.
    pub(super) fn may_rest(&self, now: Instant) -> bool {
        !self.resting && now >= self.brisk_until
    }

    /// Rests, unless there is reason not to; `said` counts what both sides have said so far, if that is a
    /// reason. A round trip takes `rtt`. Says whether it rests now.
    pub(super) fn rest(&mut self, now: Instant, said: u64, settled: bool, rtt: Duration) -> bool {
        if said != self.said || !settled {
            self.said = said;
            self.brisk_until = now + BRISK;
            return false;
        }
        self.heard(now);
        self.patience = PATIENCE.max(rtt.saturating_mul(3) / 2).min(LATE / TRIES);
        self.resting = true;
        true
    }

    /// What is to be done now. A pulse is taken to be sent.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        if !self.resting || now < self.deadline() {
            return Due::Nothing;
        }
        match self.asked {
            None if self.leads || self.unsure || self.is_urgent() => self.asked = Some((now, 1)),
            // Bulk is in front of the pulse, or of its answer: the way works.
            Some((at, _)) if self.busy.as_ref().is_some_and(|b| b.came > Some(at)) => {
                self.asked = Some((now, 1));
            }
            Some((_, tries)) if tries < self.tries() => self.asked = Some((now, tries + 1)),
            _ => return Due::Doubt,
        }
        Due::Pulse
    }

    fn tries(&self) -> u32 {
        let insists = self.busy.as_ref().is_some_and(|busy| busy.insists);
        if self.is_urgent() && insists { BUSY_TRIES } else { TRIES }
    }

    /// When the peer is to be asked, or given up.
    fn deadline(&self) -> Instant {
        match (self.asked, self.leads) {
            (Some((at, _)), _) => at + self.patience,
            (None, _) if self.unsure || self.is_urgent() => self.heard,
            (None, true) => self.heard + PULSE,
            (None, false) => self.heard + PULSE + LATE,
        }
    }

    /// When something is to be done, while it rests.
    pub(super) fn poll_timeout(&self) -> Instant {
        let look = self.busy.as_ref().map(|busy| busy.look);
        look.into_iter().fold(self.deadline(), Instant::min)
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
        assert!(rhythm.rest(start + BRISK, 0, true, SECOND / 10) && rhythm.is_resting());
        rhythm
    }

    #[test]
    fn what_was_said_puts_a_rest_off() {
        let start = tokio::time::Instant::now().into_std();
        let mut rhythm = Rhythm::new(start, true);
        let rtt = SECOND / 10;
        assert!(!rhythm.rest(start + BRISK, 3, true, rtt));
        assert!(!rhythm.may_rest(start + BRISK + SECOND));
        assert!(!rhythm.rest(start + 2 * BRISK, 3, false, rtt));
        assert!(rhythm.rest(start + 3 * BRISK, 3, true, rtt));
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
                let now = rhythm.poll_timeout();
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

    /// Looks every [`LOOK`] at a connection of which `traffic` is what it has said by then, until there is
    /// something else to do; when and what.
    fn watch(
        rhythm: &mut Rhythm,
        start: Instant,
        traffic: impl Fn(Duration) -> Traffic,
    ) -> Vec<(Duration, Due)> {
        rhythm.stir(start, traffic(Duration::ZERO));
        let mut done = Vec::new();
        while rhythm.poll_timeout() < start + 5 * SECOND {
            let now = rhythm.poll_timeout();
            if rhythm.may_look(now) {
                rhythm.look(now, traffic(now - start));
            }
            match rhythm.due(now) {
                Due::Nothing => {}
                due => done.push((now - start, due)),
            }
            if done.last().is_some_and(|(_, due)| *due == Due::Doubt) {
                break;
            }
        }
        done
    }

    #[test]
    fn a_busy_connection_is_left_alone_while_it_is_answered() {
        let start = tokio::time::Instant::now().into_std();
        for leads in [true, false] {
            let mut rhythm = resting(start, leads);
            let now = start + BRISK;
            let said = |at: Duration| {
                let n = u64::try_from(at.as_millis()).unwrap();
                Traffic { sent: n, received: n / 300 }
            };
            assert_eq!(watch(&mut rhythm, now, said), [], "leads: {leads}");
            assert!(rhythm.is_busy());
        }
    }

    #[test]
    fn a_busy_connection_that_is_not_answered_is_doubted_within_two_seconds() {
        let start = tokio::time::Instant::now().into_std();
        for leads in [true, false] {
            let mut rhythm = resting(start, leads);
            let said = |at: Duration| {
                let sent = u64::try_from(at.as_millis() / 100).unwrap();
                Traffic { sent, received: sent.min(6) }
            };
            let [(first, Due::Pulse), (_, Due::Pulse), (last, Due::Doubt)] =
                watch(&mut rhythm, start + BRISK, said)[..]
            else {
                panic!("two pulses and a doubt")
            };
            // What came last came after 600 ms.
            assert!(first >= SECOND && last - SECOND * 6 / 10 <= 2 * SECOND, "{first:?} {last:?}");
        }
    }

    #[test]
    fn a_lone_datagram_that_is_lost_is_one_pulse() {
        let start = tokio::time::Instant::now().into_std();
        let mut rhythm = resting(start, false);
        let now = start + BRISK;
        rhythm.stir(now, Traffic { sent: 0, received: 0 });
        let lost = Traffic { sent: 1, received: 0 };
        assert!(rhythm.look(now + LOOK, lost) && rhythm.due(now + LOOK) == Due::Nothing);
        assert!(rhythm.misses_answers() && rhythm.look(now + 2 * LOOK, lost));
        assert_eq!(rhythm.due(now + 2 * LOOK), Due::Pulse);
        rhythm.heard(now + 2 * LOOK);
        assert!(rhythm.look(now + 3 * LOOK, lost) && !rhythm.misses_answers());
        assert_eq!(rhythm.due(now + 3 * LOOK), Due::Nothing);
        // The answer came after what was said: nothing is left to ask.
        assert!(!rhythm.look(now + LOOK + QUIET, lost) && rhythm.is_resting());
        assert_eq!(rhythm.due(now + LOOK + QUIET), Due::Nothing);
    }

    #[test]
    fn a_few_bytes_now_and_then_are_one_question_each_and_end_no_rest() {
        let start = tokio::time::Instant::now().into_std();
        for leads in [true, false] {
            let mut rhythm = resting(start, leads);
            let (mut now, mut n, mut asked, mut looks) = (start + BRISK, 0, 0, 0);
            for _ in 0..60 {
                now += 5 * SECOND;
                rhythm.stir(now, Traffic { sent: n, received: n });
                n += 2;
                let quiet = now + 4 * SECOND;
                while rhythm.poll_timeout() < quiet {
                    let at = rhythm.poll_timeout();
                    if rhythm.may_look(at) {
                        looks += 1;
                        rhythm.look(at, Traffic { sent: n, received: n });
                    }
                    match rhythm.due(at) {
                        Due::Nothing => {}
                        Due::Pulse => {
                            asked += 1;
                            rhythm.heard(at + SECOND / 10);
                        }
                        Due::Doubt => panic!("all is answered"),
                    }
                }
                assert!(rhythm.is_resting() && !rhythm.is_busy());
            }
            assert_eq!(asked, 60, "leads: {leads}");
            assert!(looks <= 60 * 6, "{looks}");
        }
    }

    #[test]
    fn who_only_received_asks_when_nothing_comes_any_more() {
        let start = tokio::time::Instant::now().into_std();
        for leads in [true, false] {
            let mut rhythm = resting(start, leads);
            // It answers what comes, for two seconds; then nothing does.
            let said = |at: Duration| {
                let n = u64::try_from(at.min(2 * SECOND).as_millis() / 100).unwrap();
                Traffic { sent: n, received: n }
            };
            let now = start + BRISK;
            let done = watch(&mut rhythm, now, said);
            let [(first, Due::Pulse), (_, Due::Pulse), (_, Due::Pulse), (last, Due::Doubt)] =
                done[..]
            else {
                panic!("{done:?}")
            };
            assert!(first <= 2 * SECOND + QUIET + LOOK, "{first:?}");
            assert!(last <= 2 * SECOND + 3 * SECOND, "{last:?}");
        }
    }

    #[test]
    fn bulk_in_front_of_a_pulse_is_no_doubt() {
        let start = tokio::time::Instant::now().into_std();
        for leads in [true, false] {
            let mut rhythm = resting(start, leads);
            // Nothing comes for 700 ms at first, and no pulse is ever answered.
            let said = |at: Duration| {
                let n = u64::try_from(at.as_millis()).unwrap();
                Traffic { sent: n, received: n.saturating_sub(700) }
            };
            let done = watch(&mut rhythm, start + BRISK, said);
            assert!(done.len() > 2 && done.iter().all(|(_, due)| *due == Due::Pulse), "{done:?}");
        }
    }

    #[test]
    fn a_lone_acknowledgement_gets_all_tries() {
        let start = tokio::time::Instant::now().into_std();
        let mut rhythm = resting(start, false);
        let now = start + BRISK;
        rhythm.stir(now, Traffic { sent: 0, received: 0 });
        let lone = Traffic { sent: 1, received: 0 };
        assert!(rhythm.look(now + LOOK, lone) && rhythm.look(now + 2 * LOOK, lone));
        for pulse in 0..TRIES {
            assert_eq!(rhythm.due(now + 2 * LOOK + pulse * PATIENCE), Due::Pulse);
        }
        assert_eq!(rhythm.due(now + 2 * LOOK + TRIES * PATIENCE), Due::Doubt);
    }
}
