//! How much of streams waits in one QUIC connection. Its congestion window and half of one more is enough to
//! keep it busy; what is beyond that would only make everything that is written later older, and what a link
//! that dies has to send again more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Bytes that count as one: semaphores count to 2^29 or so, and records have kilobytes.
const UNIT: usize = 1 << 10;
/// What may wait beside the congestion window at the least: enough for a program to be woken.
const SLACK: u64 = 256 << 10;
/// How often the congestion window is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Room for records of all streams of a connection. Who waits for it gets it in turn, so streams are
/// served in turn.
#[derive(Debug)]
pub(in super::super) struct Flight {
    room: Semaphore,
    size: Mutex<Size>,
    most: u64,
}

#[derive(Debug)]
struct Size {
    units: usize,
    /// Units that are to be taken away as they come back.
    debt: usize,
    looked_at: Option<Instant>,
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

impl Flight {
    /// `most`: what the connection's windows take with room for messages beside it.
    pub(in super::super) fn new(most: u64) -> Self {
        let size = Mutex::new(Size { units: 0, debt: 0, looked_at: None });
        Self { room: Semaphore::new(0), size, most }
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the congestion window, if that was not done just now.
    pub(super) fn look(&self, now: Instant, window: impl FnOnce() -> u64) {
        let mut size = self.size();
        if size.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK) {
            return;
        }
        size.looked_at = Some(now);
        drop(size);
        // Without the lock: quinn has one of its own, and drops records under it.
        let window = window();
        let mut size = self.size();
        let wanted = window.saturating_add((window / 2).max(SLACK)).min(self.most);
        let wanted = units(usize::try_from(wanted).unwrap_or(usize::MAX));
        if wanted > size.units {
            let more = wanted - size.units;
            let paid = more.min(size.debt);
            size.debt -= paid;
            self.room.add_permits(more - paid);
        } else {
            let less = size.units - wanted;
            size.debt += less - self.room.forget_permits(less);
        }
        size.units = wanted;
    }

    /// Waits for room of `bytes`, in turn.
    pub(super) async fn room(self: &Arc<Self>, bytes: usize) -> Room {
        let wanted = units(bytes);
        let many = u32::try_from(wanted).unwrap_or(u32::MAX);
        let taken = match self.room.acquire_many(many).await {
            Ok(permits) => {
                permits.forget();
                wanted
            }
            // It is never closed.
            Err(_) => 0,
        };
        Room { flight: Arc::clone(self), units: taken }
    }

    fn back(&self, mut units: usize) {
        let mut size = self.size();
        let paid = units.min(size.debt);
        size.debt -= paid;
        units -= paid;
        drop(size);
        self.room.add_permits(units);
    }
}

/// Room that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    flight: Arc<Flight>,
    units: usize,
}

impl Room {
    /// Gives back what is not needed for `bytes`.
    pub(super) fn keep(&mut self, bytes: usize) {
        let more = self.units.saturating_sub(units(bytes));
        self.units -= more;
        self.flight.back(more);
    }

    /// `record` as bytes that hold the room for as long as they are somewhere.
    pub(super) fn mark(self, record: Bytes) -> Bytes {
        Bytes::from_owner(Mark { record, _room: self })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.flight.back(self.units);
    }
}

struct Mark {
    record: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Mark {
    fn as_ref(&self) -> &[u8] {
        &self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_congestion_window() {
        let flight = Arc::new(Flight::new(16 << 20));
        let now = Instant::now();
        flight.look(now, || 1 << 20);
        let mut first = flight.room(1 << 20).await;
        assert!(flight.room((512 << 10) + 1).now_or_never().is_none());
        let second = flight.room(512 << 10).await;
        // A smaller window: what comes back pays first.
        flight.look(now, || unreachable!("just looked"));
        flight.look(now + LOOK, || 512 << 10);
        drop(second);
        assert!(flight.room(1).now_or_never().is_none());
        first.keep((512 << 10) - 1);
        assert!(flight.room(256 << 10).now_or_never().is_some());
        assert!(flight.room((256 << 10) + 1).now_or_never().is_none());
        let mark = first.mark(Bytes::from_static(&[1, 2]));
        assert_eq!(mark[..], [1, 2]);
        assert!(flight.room(768 << 10).now_or_never().is_none());
        drop(mark);
        assert!(flight.room(768 << 10).now_or_never().is_some());
        flight.look(now + LOOK * 2, || 1 << 40);
        assert!(flight.room(16 << 20).now_or_never().is_some());
        assert!(flight.room((16 << 20) + 1).now_or_never().is_none());
    }
}
