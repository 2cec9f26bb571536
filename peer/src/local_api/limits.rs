//! How much one listener does at once (inventory C-005).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};

use super::failure::Failure;
use crate::api::ErrorKind;

/// Largest request: a message of 64 KiB, as JSON may sixfold it. (C-005 has 1 MiB, its code 256 KiB.)
pub(super) const MAX_BODY: usize = 512 * 1024;
/// Most of a body that is too large that is read before the refusal, so that a client which
/// writes first and reads then gets to see it.
pub(super) const MAX_REFUSED_BODY: usize = 8 * MAX_BODY;
/// Longest time for a request's head, and for a connection to stay idle.
pub(super) const HEAD: Duration = Duration::from_secs(30);
/// Longest time for a request's body.
pub(super) const BODY: Duration = Duration::from_secs(15);
/// Most connections: every request and stream below has one, and as many may idle.
pub(super) const CONNECTIONS: usize = 256;
/// Most requests under way.
const REQUESTS: usize = 64;
/// Most streams of events.
const STREAMS: usize = 32;
/// Requests per second, sustained.
const RATE: f64 = 100.0;
/// Requests at once after a pause.
const BURST: f64 = 1_000.0;

/// Requests per time: a token bucket that is full at first.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: BURST, at: now }
    }

    /// Whether one more request is fine now.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + since * RATE).min(BURST);
        self.at = self.at.max(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// Places for what goes on.
#[derive(Debug)]
pub(super) struct Places {
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let places = |n| Arc::new(Semaphore::new(n));
        Self { requests: places(REQUESTS), streams: places(STREAMS) }
    }
}

impl Places {
    /// A place for a request, until it is dropped.
    pub(super) fn request(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let text = format!("{REQUESTS} requests are under way: ask again when one has ended");
        take(&self.requests, "daemon_busy", text)
    }

    /// A place for a stream of events, until it is dropped.
    pub(super) fn stream(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let text = format!("{STREAMS} streams of events are open: close one first");
        take(&self.streams, "too_many_streams", text)
    }
}

fn take(
    places: &Arc<Semaphore>,
    code: &str,
    text: String,
) -> Result<OwnedSemaphorePermit, Failure> {
    let busy = |_| Failure::new(ErrorKind::Busy, code, text);
    places.clone().try_acquire_owned().map_err(busy)
}

/// There were too many requests.
pub(super) fn too_fast() -> Failure {
    let text = format!("more than {RATE} requests a second, and {BURST} at once: slow down");
    Failure::new(ErrorKind::Busy, "rate_limited", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_at_once_and_a_hundred_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let taken = |bucket: &mut Bucket, at: Duration| {
            (0..5_000).take_while(|_| bucket.take(start + at)).count()
        };
        assert_eq!(taken(&mut bucket, Duration::ZERO), 1_000);
        assert_eq!(taken(&mut bucket, Duration::from_millis(5)), 0);
        assert_eq!(taken(&mut bucket, Duration::from_millis(505)), 50);
        assert_eq!(taken(&mut bucket, Duration::from_millis(400)), 0, "a clock that steps back");
        assert_eq!(taken(&mut bucket, Duration::from_secs(3_600)), 1_000, "never more");
    }

    #[test]
    fn places_come_back() {
        let places = Places::default();
        let all: Vec<_> = (0..STREAMS).map(|_| places.stream().ok().unwrap()).collect();
        assert!(places.stream().is_err() && places.request().is_ok());
        drop(all);
        assert!(places.stream().is_ok());
    }
}
