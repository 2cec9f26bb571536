//! How much of streams waits in one QUIC connection. Its congestion window and half of one more is enough to
//! keep it busy; what is beyond that would only make everything that is written later older, and what a link
//! that dies has to send again more.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use meshwire_signaling::Priority;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::stream::{Shares, level};

/// Bytes that count as one.
const UNIT: usize = 1 << 10;
/// What may wait beside the congestion window at the least: enough for a program to be woken.
const SLACK: u64 = 256 << 10;
/// Bytes of records that leave in one write. Each takes the connection's lock, which its driver holds while it makes
/// packets: whoever writes little at a time waits for it often.
const BATCHES: RangeInclusive<usize> = (64 << 10)..=(1 << 20);
/// How often the congestion window is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Room for records of all streams of a connection. Who waits for it gets it in turn, the more urgent first, so
/// streams are served in turn. What has got it QUIC sends in turn: with its own priorities, which are strict, the states
/// of a less urgent stream might never leave.
#[derive(Debug)]
pub(in super::super) struct Flight {
    size: Mutex<Size>,
    most: u64,
}

#[derive(Debug)]
struct Size {
    units: usize,
    /// Of these, what nobody has.
    free: usize,
    /// Units that are to be taken away as they come back.
    debt: usize,
    looked_at: Option<Instant>,
    /// By priority.
    waiting: [VecDeque<Waiting>; 3],
    shares: Shares,
}

#[derive(Debug)]
struct Waiting {
    units: usize,
    grant: oneshot::Sender<Room>,
}

impl Size {
    /// Takes room for the one that is next, if there is room for it.
    fn serve(&mut self) -> Option<Waiting> {
        for waiting in &mut self.waiting {
            while waiting.front().is_some_and(|w| w.grant.is_closed()) {
                waiting.pop_front();
            }
        }
        let Self { free, waiting, shares, .. } = self;
        let first = |priority| waiting[level(priority)].front().map(|w| w.units);
        let (priority, units) = shares.pick(first)?;
        *free = free.checked_sub(units)?;
        shares.went(priority, units, |below| !waiting[level(below)].is_empty());
        waiting[level(priority)].pop_front()
    }
}

/// A quarter of what may wait, within [`BATCHES`].
fn batch(units: usize) -> usize {
    units.saturating_mul(UNIT / 4).clamp(*BATCHES.start(), *BATCHES.end())
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

impl Flight {
    /// `most`: what the connection's windows take with room for messages beside it.
    pub(in super::super) fn new(most: u64) -> Self {
        let size = Size {
            units: 0,
            free: 0,
            debt: 0,
            looked_at: None,
            waiting: Default::default(),
            shares: Shares::default(),
        };
        Self { size: Mutex::new(size), most }
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the congestion window, if that was not done just now. Bytes that are to leave in one write.
    pub(super) fn look(self: &Arc<Self>, now: Instant, window: impl FnOnce() -> u64) -> usize {
        let mut size = self.size();
        if size.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK) {
            return batch(size.units);
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
            size.free += more - paid;
        } else {
            let less = size.units - wanted;
            let taken = less.min(size.free);
            size.free -= taken;
            size.debt += less - taken;
        }
        size.units = wanted;
        drop(size);
        self.serve();
        batch(wanted)
    }

    /// Waits for room of `bytes`, in turn.
    pub(super) async fn room(self: &Arc<Self>, bytes: usize, priority: Priority) -> Room {
        let (grant, granted) = oneshot::channel();
        let waiting = Waiting { units: units(bytes), grant };
        self.size().waiting[level(priority)].push_back(waiting);
        self.serve();
        // It is not dropped before its room is granted.
        granted.await.unwrap_or_else(|_| Room { flight: Arc::clone(self), units: 0 })
    }

    fn serve(self: &Arc<Self>) {
        loop {
            // Without the lock: whoever does not wait any more gives it back at once.
            let next = self.size().serve();
            let Some(Waiting { units, grant }) = next else { return };
            let _ = grant.send(Room { flight: Arc::clone(self), units });
        }
    }

    fn back(self: &Arc<Self>, units: usize) {
        if units > 0 {
            let mut size = self.size();
            let paid = units.min(size.debt);
            size.debt -= paid;
            size.free += units - paid;
            drop(size);
            self.serve();
        }
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

    const NEXT: Priority = Priority::Next;

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_congestion_window() {
        let flight = Arc::new(Flight::new(16 << 20));
        let now = Instant::now();
        flight.look(now, || 1 << 20);
        let mut first = flight.room(1 << 20, NEXT).await;
        assert!(flight.room((512 << 10) + 1, NEXT).now_or_never().is_none());
        let second = flight.room(512 << 10, NEXT).await;
        // A smaller window: what comes back pays first.
        flight.look(now, || unreachable!("just looked"));
        flight.look(now + LOOK, || 512 << 10);
        drop(second);
        assert!(flight.room(1, NEXT).now_or_never().is_none());
        first.keep((512 << 10) - 1);
        assert!(flight.room(256 << 10, NEXT).now_or_never().is_some());
        assert!(flight.room((256 << 10) + 1, NEXT).now_or_never().is_none());
        let mark = first.mark(Bytes::from_static(&[1, 2]));
        assert_eq!(mark[..], [1, 2]);
        assert!(flight.room(768 << 10, NEXT).now_or_never().is_none());
        drop(mark);
        assert!(flight.room(768 << 10, NEXT).now_or_never().is_some());
        flight.look(now + LOOK * 2, || 1 << 40);
        assert!(flight.room(16 << 20, NEXT).now_or_never().is_some());
        assert!(flight.room((16 << 20) + 1, NEXT).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_urgent_wait_less_and_nobody_for_ever() {
        const BATCH: usize = 64 << 10;
        let flight = Arc::new(Flight::new(16 << 20));
        flight.look(Instant::now(), || BATCH as u64);
        let whole = flight.room(BATCH + (256 << 10), NEXT).await;
        let told = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for (priority, who) in [(Priority::Low, 'l'), (NEXT, 'n'), (Priority::Now, 'u')] {
            for _ in 0..32 {
                let (flight, told) = (Arc::clone(&flight), Arc::clone(&told));
                tasks.spawn(async move {
                    let room = flight.room(5 * BATCH, priority).await;
                    told.lock().unwrap().push(who);
                    drop(room);
                });
            }
            tokio::task::yield_now().await;
        }
        // One that has gone holds up nobody.
        let gone = flight.room(5 * BATCH, Priority::Now);
        assert!(gone.now_or_never().is_none());
        drop(whole);
        tasks.join_all().await;
        let told: String = told.lock().unwrap().iter().collect();
        let at = |who| told.chars().take(34).filter(|c| *c == who).count();
        assert_eq!((at('u'), at('n'), at('l')), (30, 2, 2), "{told}");
        assert!(flight.room(5 * BATCH, NEXT).now_or_never().is_some());
    }
}
