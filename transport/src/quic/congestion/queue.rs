//! Cubic that asks why a packet was lost.
//!
//! A queue that is full loses packets, and so does a bad radio. Where nothing waits, and little is lost, it
//! was the latter: sending less would change nothing. Round trips tell how long packets wait. So a loss counts if
//! - even the shortest of the last two takes longer than the shortest of five to ten minutes by more than a sixteenth of it (0.25
//!   to 5 ms): single ones do in bursts of our own,
//! - or more than one byte in 50 is lost: the queue may be too short to be seen,
//! - or nothing comes through at all, or a router says so (ECN).

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// Of so many bytes one may be lost.
const SHARE: u64 = 50;
/// What may be lost beyond that, in packets: a few say nothing yet.
const FEW: u64 = 3;
/// Bytes over which losses are counted, at the least: on a slow line more would be an age.
const SAMPLE: u64 = 128 << 10;
/// Packets wait when round trips are longer by this part of the shortest, within the bounds.
const PART: u32 = 16;
const SHORT: Duration = Duration::from_micros(250);
const LONG: Duration = Duration::from_millis(5);
/// How long a shortest round trip counts, at the least; at the most twice as long. Many flows together may keep a queue
/// that never empties: it must not be taken for the way itself. After a move to a longer way this is Cubic for as long.
const MEMORY: Duration = Duration::from_secs(300);

/// Makes them.
#[derive(Debug)]
pub(super) struct QueueConfig(pub(super) Arc<CubicConfig>);

impl ControllerFactory for QueueConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::clone(&self.0).build(now, current_mtu);
        let mtu = u64::from(current_mtu);
        Box::new(Queue { cubic, mtu, waits: Waits::new(now), tally: Tally::default() })
    }
}

/// See the module's documentation.
struct Queue {
    cubic: Box<dyn Controller>,
    mtu: u64,
    waits: Waits,
    tally: Tally,
}

/// How long packets wait on their way.
#[derive(Clone, Copy, Debug)]
struct Waits {
    /// The shortest round trip of this time, and of the one before.
    shortest: [Duration; 2],
    since: Instant,
    /// The shortest of this round trip, and of the one before: bursts of our own wait for themselves, and are no
    /// queue.
    now: [Duration; 2],
    /// When this round trip began.
    round: Instant,
}

impl Waits {
    fn new(now: Instant) -> Self {
        let none = [Duration::MAX; 2];
        Self { shortest: none, since: now, now: none, round: now }
    }

    /// A packet came back after `took`; `smoothed` round trips are what they usually are now.
    fn saw(&mut self, now: Instant, took: Duration, smoothed: Duration) {
        if now.saturating_duration_since(self.since) >= MEMORY {
            self.shortest = [Duration::MAX, self.shortest[0]];
            self.since = now;
        }
        self.shortest[0] = self.shortest[0].min(took);
        if now.saturating_duration_since(self.round) >= smoothed {
            self.now = [Duration::MAX, self.now[0]];
            self.round = now;
        }
        self.now[0] = self.now[0].min(took);
    }

    fn shortest(&self) -> Duration {
        self.shortest[0].min(self.shortest[1])
    }

    /// How much longer round trips may be than the shortest without there being a queue.
    fn allowed(&self) -> Duration {
        (self.shortest() / PART).clamp(SHORT, LONG)
    }

    fn is_long(&self) -> bool {
        let now = self.now[0].min(self.now[1]);
        now.saturating_sub(self.shortest()) > self.allowed()
    }
}

/// Bytes that came through and bytes that were lost, of late.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    acked: u64,
    lost: u64,
}

impl Tally {
    /// Half of what was counted is forgotten once it is more than four windows.
    fn forget(&mut self, window: u64) {
        if self.acked.saturating_add(self.lost) > window.saturating_mul(4).max(SAMPLE) {
            self.acked /= 2;
            self.lost /= 2;
        }
    }

    fn is_much(&self, mtu: u64) -> bool {
        let all = self.acked.saturating_add(self.lost);
        self.lost > (all / SHARE).saturating_add(FEW.saturating_mul(mtu))
    }
}

impl Controller for Queue {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.waits.saw(now, now.saturating_duration_since(sent), rtt.get());
        self.tally.acked = self.tally.acked.saturating_add(bytes);
        self.tally.forget(self.cubic.window());
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.tally.lost = self.tally.lost.saturating_add(lost_bytes);
        let told = lost_bytes == 0;
        let much = self.tally.is_much(self.mtu);
        if told || is_persistent_congestion || much || self.waits.is_long() {
            self.tally = Tally::default();
            self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let Self { mtu, waits, tally, .. } = *self;
        Box::new(Self { cubic: self.cubic.clone_box(), mtu, waits, tally })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const MTU: u64 = 1_452;

    /// Counts what it is told.
    #[derive(Clone, Default)]
    struct Told(Arc<AtomicU32>);

    impl Controller for Told {
        fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn on_mtu_update(&mut self, _: u16) {}

        fn window(&self) -> u64 {
            1 << 20
        }

        fn clone_box(&self) -> Box<dyn Controller> {
            Box::new(self.clone())
        }

        fn initial_window(&self) -> u64 {
            1 << 20
        }

        fn into_any(self: Box<Self>) -> Box<dyn Any> {
            self
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Round trips of 40 ms, and of `now` now; 10 MB came through.
    fn queue(now: Duration) -> (Queue, Told, Instant) {
        let (told, start) = (Told::default(), tokio::time::Instant::now().into_std());
        let mut waits = Waits::new(start);
        for (round, took) in (0..).zip([ms(40), now, now, now]) {
            waits.saw(start + round * now, took, now);
        }
        let tally = Tally { acked: 10_000_000, lost: 0 };
        (Queue { cubic: Box::new(told.clone()), mtu: MTU, waits, tally }, told, start)
    }

    #[test]
    fn a_loss_counts_where_packets_wait() {
        for (now, counts) in [(ms(40), 0), (ms(42), 0), (ms(43), 1), (ms(80), 1)] {
            let (mut queue, told, at) = queue(now);
            queue.on_congestion_event(at, at, false, MTU);
            assert_eq!(told.0.load(Ordering::Relaxed), counts, "{now:?}");
        }
    }

    #[test]
    fn a_burst_that_waits_for_itself_is_no_queue() {
        let start = tokio::time::Instant::now().into_std();
        let mut waits = Waits::new(start);
        for round in 0..4 {
            for (after, took) in [(0, ms(40)), (1, ms(60)), (2, ms(60))] {
                waits.saw(start + round * ms(53) + ms(after), took, ms(53));
            }
            assert!(!waits.is_long(), "{round}");
        }
        waits.saw(start + 4 * ms(53), ms(50), ms(53));
        assert!(!waits.is_long(), "in the round trip before there was no queue");
        waits.saw(start + 5 * ms(53), ms(50), ms(53));
        assert!(waits.is_long());
    }

    #[test]
    fn many_losses_count_anywhere() {
        let (mut queue, told, at) = queue(ms(40));
        // Two in a hundred, and three more.
        for _ in 0..(200_000 / MTU + 3) {
            queue.on_congestion_event(at, at, false, MTU);
        }
        assert_eq!(told.0.load(Ordering::Relaxed), 0);
        for _ in 0..8 {
            queue.on_congestion_event(at, at, false, MTU);
        }
        // What was counted once does not count again.
        assert_eq!(told.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_routers_say_and_silence_count() {
        let (mut queue, told, at) = queue(ms(40));
        queue.on_congestion_event(at, at, false, 0);
        queue.on_congestion_event(at, at, true, MTU);
        assert_eq!(told.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_shortest_round_trip_is_forgotten() {
        let start = tokio::time::Instant::now().into_std();
        let mut waits = Waits::new(start);
        waits.saw(start, ms(1), ms(1));
        for _ in 0..2 {
            waits.saw(start + MEMORY / 2, ms(100), ms(0));
        }
        assert!(waits.is_long(), "another way, or a queue: it cannot tell yet");
        waits.saw(start + MEMORY, ms(100), ms(100));
        assert!(waits.is_long());
        waits.saw(start + MEMORY * 2, ms(100), ms(100));
        assert_eq!((waits.shortest(), waits.is_long()), (ms(100), false));
        assert_eq!(waits.allowed(), LONG);
    }

    #[test]
    fn old_losses_are_forgotten() {
        let mut tally = Tally { acked: 600_000, lost: 60_000 };
        tally.forget(10_000);
        assert!(tally.is_much(MTU));
        for _ in 0..20 {
            tally.acked += 1_000_000;
            tally.forget(10_000);
        }
        assert_eq!(tally.lost, 0);
    }
}
