//! Which probe is sent when: state machines without sockets or clock.
//!
//! Drive contract of both: ask `poll`, do what it says, and ask again, after [`Step::Wait`] not before
//! that moment.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::quic::candidates::LEAST_PORT;

/// Probes of one run of the easy side. Its router remembers each for minutes, and some remember no more
/// than about a thousand ends of one socket (RFC 6888, REQ-5).
pub(super) const PROBES: u32 = 832;
/// The time between two of them.
const PACE: Duration = Duration::from_millis(5);
/// Sockets of the hard side. Some carriers give a subscriber no more than a thousand ports, and many
/// systems a program no more than 1,024 descriptors.
pub(super) const SOCKETS: usize = 448;
/// The time between two of its sends. A router that makes mappings in a burst may drop some.
const OPENING: Duration = Duration::from_millis(2);
/// How often each of its sockets sends at most. Some packets are lost, and mappings may last no more
/// than a few seconds before they are answered.
const VOLLEYS: u32 = 3;
/// From the beginning of one volley to the next.
const AGAIN: Duration = Duration::from_secs(3);
/// The hard side gives up after this: the easy one has sent all by then, a bit late.
const PATIENCE: Duration = Duration::from_secs(10);
/// Fewer sockets than this are not worth the peer's probes.
const FEWEST: usize = 32;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Open one more socket and send from it; then say [`Hard::opened`] or [`Hard::refused`].
    Open,
    /// Send from this socket.
    Again(usize),
    /// Send to this address.
    To(SocketAddr),
    /// Nothing before that moment.
    Wait(Instant),
    /// It came to nothing.
    Over,
}

/// The easy side: ports in random order, none twice.
#[derive(Debug)]
pub(super) struct Easy {
    ip: Ipv4Addr,
    /// Ports that have not been tried.
    left: Vec<u16>,
    most: u32,
    sent: u32,
    next: Instant,
}

impl Easy {
    /// Sends `most` probes.
    pub(super) fn new(ip: Ipv4Addr, most: u32, now: Instant) -> Self {
        Self { ip, left: (LEAST_PORT..=u16::MAX).collect(), most, sent: 0, next: now }
    }

    /// `random` decides on the port.
    pub(super) fn poll(&mut self, now: Instant, random: u64) -> Step {
        if now < self.next {
            return Step::Wait(self.next);
        }
        if self.sent >= self.most || self.left.is_empty() {
            return Step::Over;
        }
        // The modulo's bias is 2^-48.
        let at = usize::try_from(random % self.left.len() as u64).unwrap_or_default();
        let port = self.left.swap_remove(at);
        self.sent += 1;
        // No bursts to make up for lost time. After the last one, time for an answer.
        let pause = if self.sent == self.most { PACE * 200 } else { PACE };
        self.next = now + pause;
        Step::To(SocketAddr::new(self.ip.into(), port))
    }
}

/// The hard side: opens sockets, and keeps their ports open.
#[derive(Debug)]
pub(super) struct Hard {
    open: usize,
    /// No more can be opened.
    full: bool,
    volley: u32,
    /// Which socket sends next in a volley that repeats.
    cursor: usize,
    volley_at: Instant,
    next: Instant,
    deadline: Instant,
}

impl Hard {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            open: 0,
            full: false,
            volley: 0,
            cursor: 0,
            volley_at: now,
            next: now,
            deadline: now + PATIENCE,
        }
    }

    pub(super) fn poll(&mut self, now: Instant) -> Step {
        if now >= self.deadline || (self.full && self.open < FEWEST) {
            return Step::Over;
        }
        if now < self.next {
            return Step::Wait(self.next.min(self.deadline));
        }
        if self.volley == 0 {
            if !self.full && self.open < SOCKETS {
                return Step::Open;
            }
            self.rest(now);
            return Step::Wait(self.next.min(self.deadline));
        }
        if self.volley >= VOLLEYS {
            return Step::Wait(self.deadline);
        }
        if self.cursor >= self.open {
            self.rest(now);
            return Step::Wait(self.next.min(self.deadline));
        }
        if self.cursor == 0 {
            self.volley_at = now;
        }
        let socket = self.cursor;
        self.cursor += 1;
        self.next = now + OPENING;
        Step::Again(socket)
    }

    /// Until the next volley.
    fn rest(&mut self, now: Instant) {
        self.volley += 1;
        self.cursor = 0;
        self.next = (self.volley_at + AGAIN).max(now);
    }

    /// There is one more socket, and it has sent.
    pub(super) fn opened(&mut self, now: Instant) {
        self.open += 1;
        self.next = now + OPENING;
    }

    /// There can be no more sockets; says how many to keep, so that others find some room.
    pub(super) fn refused(&mut self) -> usize {
        self.full = true;
        self.open -= self.open / 4;
        self.open
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_different_and_allowed_and_paced_and_bounded() {
        let start = Instant::now();
        let (mut now, mut state) = (start, 7_u64);
        let mut easy = Easy::new(Ipv4Addr::new(198, 51, 100, 7), PROBES, now);
        let mut ports = BTreeSet::new();
        loop {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match easy.poll(now, state >> 16) {
                Step::To(to) => {
                    assert_eq!(easy.poll(now, 0), Step::Wait(easy.next), "one at a time");
                    assert!(to.port() >= LEAST_PORT && ports.insert(to.port()), "{to}");
                }
                Step::Wait(until) => now = until,
                Step::Over => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ports.len(), PROBES as usize);
        let took = now - start;
        assert!(took >= PACE * (PROBES - 1) && took < Duration::from_secs(6), "{took:?}");
        assert!(took + Duration::from_secs(3) < PATIENCE, "the other side waits for it");
    }

    #[test]
    fn a_late_timer_brings_no_burst() {
        let now = Instant::now();
        let mut easy = Easy::new(Ipv4Addr::new(198, 51, 100, 7), PROBES, now);
        assert!(matches!(easy.poll(now, 1), Step::To(_)));
        let late = now + Duration::from_secs(1);
        assert!(matches!(easy.poll(late, 1), Step::To(_)));
        assert_eq!(easy.poll(late, 1), Step::Wait(late + PACE));
    }

    /// Sockets, sends, and how long it took; at most `most` can be opened.
    fn play(most: usize) -> (usize, usize, Duration) {
        let start = Instant::now();
        let (mut now, mut open, mut sent) = (start, 0, 0);
        let mut hard = Hard::new(now);
        loop {
            match hard.poll(now) {
                Step::Open if open < most => {
                    (open, sent) = (open + 1, sent + 1);
                    hard.opened(now);
                }
                Step::Open => open = hard.refused(),
                Step::Again(socket) => {
                    assert!(socket < open);
                    sent += 1;
                }
                Step::Wait(until) => {
                    assert!(until > now);
                    now = until;
                }
                Step::Over => return (open, sent, now - start),
                Step::To(to) => panic!("{to}"),
            }
        }
    }

    #[test]
    fn sockets_are_opened_and_heard_of_a_few_times() {
        assert_eq!(play(usize::MAX), (SOCKETS, SOCKETS * VOLLEYS as usize, PATIENCE));
    }

    #[test]
    fn who_gets_no_more_sockets_gives_some_back_and_goes_on_with_the_rest() {
        let (open, sent, took) = play(100);
        assert_eq!((open, took), (75, PATIENCE));
        assert_eq!(sent, 100 + 75 * (VOLLEYS as usize - 1));
        let (_, sent, took) = play(20);
        assert!(sent == 20 && took < Duration::from_secs(1), "not worth it");
        assert_eq!(play(0).1, 0);
    }
}
