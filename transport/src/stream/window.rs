//! How much the other side may send: a window that follows the bandwidth-delay product.
//!
//! A window that a reader empties within three round trips keeps its sender waiting, so it doubles: one for the window,
//! one for the word that it is read, and one for what was lost on the way and had to be sent again. One that takes
//! ten seconds is more than is needed, so it halves. A limit that was told is never taken back: what was
//! promised stays reserved until it has been used.

use std::time::Duration;

use meshwire_signaling::stream::MIN_WINDOW;
use tokio::time::Instant;

use super::budget::{Budget, Reservation};

/// Round trips below this do not count: by then it decides how long programs wait for a processor, a few turns of the
/// system's scheduler each.
const RTT_FLOOR: Duration = Duration::from_millis(8);
/// A window that is emptied in less than so many round trips is too small.
const LAP: u32 = 3;
/// A window that lasts this long is too large.
const SLOW: Duration = Duration::from_secs(10);

/// Sizes of a stream's windows, in bytes of records. What is below [`MIN_WINDOW`] counts as that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// The receiving window at first, where the budget has as much.
    pub initial: u64,
    /// The largest receiving window. 16 MiB carry 400 MB/s over 40 ms.
    pub max: u64,
    /// Most bytes that wait to be sent or acknowledged.
    pub send: u64,
}

impl Default for Windows {
    fn default() -> Self {
        Self { initial: 256 << 10, max: 16 << 20, send: 16 << 20 }
    }
}

#[derive(Debug)]
pub(super) struct Window {
    size: u64,
    max: u64,
    told: u64,
    read: u64,
    /// Bytes that will ever have been read, once that is known.
    end: Option<u64>,
    reserved: Reservation,
    /// When `size` bytes ago was, and how much had been read then.
    lap_at: Instant,
    lap_read: u64,
}

impl Window {
    /// Takes at least [`MIN_WINDOW`] from `budget`; none if that is not there.
    pub(super) fn new(windows: &Windows, budget: &Budget, now: Instant) -> Option<Self> {
        let max = windows.max.max(MIN_WINDOW);
        let size = windows.initial.clamp(MIN_WINDOW, max);
        let reserved = budget.reserve(size).or_else(|| budget.reserve(MIN_WINDOW))?;
        let size = reserved.bytes();
        Some(Self { size, max, told: 0, read: 0, end: None, reserved, lap_at: now, lap_read: 0 })
    }

    /// One through which nothing comes.
    pub(super) fn closed(budget: &Budget, now: Instant) -> Option<Self> {
        let reserved = budget.reserve(0)?;
        Some(Self {
            size: 0,
            max: 0,
            told: 0,
            read: 0,
            end: None,
            reserved,
            lap_at: now,
            lap_read: 0,
        })
    }

    /// What the other side was told.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// What the other side is to be told now.
    pub(super) fn tell(&mut self) -> u64 {
        self.told = self.told.max(self.read + self.size);
        self.told
    }

    /// Whether there is enough news to tell.
    pub(super) fn is_due(&self) -> bool {
        let news = (self.read + self.size).saturating_sub(self.told);
        news > 0 && news >= self.size / 4
    }

    /// The reader has taken `bytes` that came.
    pub(super) fn consume(&mut self, bytes: u64, rtt: Duration, now: Instant) {
        self.read += bytes;
        if self.read - self.lap_read >= self.size {
            let took = now.saturating_duration_since(self.lap_at);
            if took < rtt.max(RTT_FLOOR).saturating_mul(LAP) {
                let wanted = self.size.saturating_mul(2).min(self.max);
                if wanted > self.size && self.reserve(wanted) {
                    self.size = wanted;
                }
            } else if took >= SLOW {
                self.size = (self.size / 2).max(MIN_WINDOW).min(self.size);
            }
            (self.lap_at, self.lap_read) = (now, self.read);
        }
        self.release();
    }

    fn reserve(&mut self, wanted: u64) -> bool {
        let more = wanted.saturating_sub(self.reserved.bytes());
        self.reserved.grow(more)
    }

    fn release(&mut self) {
        let promised = self.end.unwrap_or(self.told).saturating_sub(self.read);
        self.reserved.shrink_to(self.size.max(promised));
    }

    /// All that will be read has come; `unread` bytes of it are left.
    pub(super) fn complete(&mut self, unread: u64) {
        self.size = 0;
        self.max = 0;
        self.end.get_or_insert(self.read.saturating_add(unread));
        self.release();
    }

    /// Nothing more will be taken.
    pub(super) fn close(&mut self) {
        self.size = 0;
        self.max = 0;
        self.reserved.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);
    const KIB: u64 = 1 << 10;

    fn window(budget: &Budget, now: Instant) -> Window {
        Window::new(&Windows::default(), budget, now).unwrap()
    }

    /// Reads window after window, one per `lap`.
    fn read(window: &mut Window, laps: u32, lap: Duration, mut now: Instant) -> Instant {
        for _ in 0..laps {
            now += lap;
            window.tell();
            window.consume(window.size(), RTT, now);
        }
        now
    }

    #[tokio::test(start_paused = true)]
    async fn it_grows_to_the_bandwidth_delay_product() {
        let (budget, now) = (Budget::new(1 << 30), Instant::now());
        let mut w = window(&budget, now);
        assert_eq!(w.tell(), 256 * KIB);
        // 50 MB/s over 40 ms are 2 MB, over three round trips 6.
        let mut now = now;
        for _ in 0..20 {
            let lap = RTT.max(Duration::from_nanos(w.size() * 20));
            now = read(&mut w, 1, lap, now);
        }
        assert_eq!(w.size(), 8192 * KIB);
        read(&mut w, 10, Duration::from_millis(1), now);
        assert_eq!(w.size(), Windows::default().max);
        assert_eq!(budget.used(), w.size());
    }

    #[tokio::test(start_paused = true)]
    async fn it_shrinks_when_little_is_read_and_gives_back_what_was_used() {
        let (budget, now) = (Budget::new(1 << 30), Instant::now());
        let mut w = window(&budget, now);
        let now = read(&mut w, 9, Duration::from_millis(1), now);
        w.tell();
        let promised = w.size();
        // Half an hour for one window: it halves, but what was promised stays reserved until it is used.
        w.consume(promised, RTT, now + SLOW);
        assert_eq!(w.size(), promised / 2);
        assert_eq!(budget.used(), promised / 2);
        read(&mut w, 20, SLOW, now + SLOW);
        assert_eq!((w.size(), budget.used()), (MIN_WINDOW, MIN_WINDOW));
        drop(w);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_promised_stays_reserved() {
        let (budget, now) = (Budget::new(1 << 30), Instant::now());
        let mut w = window(&budget, now);
        w.tell();
        w.consume(256 * KIB, RTT, now + SLOW);
        assert_eq!(w.size(), 128 * KIB);
        let told = w.tell();
        w.consume(KIB, RTT, now + SLOW);
        assert!(budget.used() >= told - 257 * KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_never_exceeded() {
        let (budget, now) = (Budget::new(1 << 20), Instant::now());
        let mut windows: Vec<_> =
            std::iter::from_fn(|| Window::new(&Windows::default(), &budget, now)).collect();
        assert_eq!(windows.len(), 4);
        for w in &mut windows {
            read(w, 5, Duration::from_millis(1), now);
            assert_eq!(w.size(), 256 * KIB);
        }
        windows.truncate(2);
        read(&mut windows[0], 5, Duration::from_millis(1), now);
        assert_eq!((windows[0].size(), budget.used()), (512 * KIB, 768 * KIB));
        let small =
            Window::new(&Windows { initial: 512 * KIB, ..Windows::default() }, &budget, now);
        assert_eq!(small.unwrap().size(), MIN_WINDOW, "the least, where there is no more");
    }

    #[tokio::test(start_paused = true)]
    async fn news_wait_for_a_quarter() {
        let (budget, now) = (Budget::new(1 << 30), Instant::now());
        let mut w = window(&budget, now);
        assert!(w.is_due(), "the first");
        w.tell();
        w.consume(64 * KIB - 1, RTT, now);
        assert!(!w.is_due());
        w.consume(1, RTT, now);
        assert!(w.is_due());
        assert_eq!((w.tell(), w.is_due()), (320 * KIB, false));
    }
}
