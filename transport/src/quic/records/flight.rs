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
const BATCHES: RangeInclusive<usize> = (64 << 10)..=((1 << 20) + (32 << 10));
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
    /// Names those who wait.
    last: u64,
    shares: Shares,
}

#[derive(Debug)]
struct Waiting {
    name: u64,
    units: usize,
    grant: oneshot::Sender<Room>,
}

impl Size {
    /// Takes room for the one that is next, if there is room for it. It gets no more than goes at once as things are now: who
    /// began to wait in better times may have asked for more than there will ever be.
    fn serve(&mut self) -> Option<(usize, oneshot::Sender<Room>)> {
        let most = units(batch(self.units));
        let Self { free, waiting, shares, .. } = self;
        let first = |priority| waiting[level(priority)].front().map(|w| w.units.min(most));
        let (priority, units) = shares.pick(first)?;
        *free = free.checked_sub(units)?;
        shares.went(priority, units, |below| !waiting[level(below)].is_empty());
        waiting[level(priority)].pop_front().map(|w| (units, w.grant))
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
            last: 0,
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

    /// Waits for room of `bytes`, or as much of it as goes at once by then, in turn.
    pub(super) async fn room(self: &Arc<Self>, bytes: usize, priority: Priority) -> Room {
        let (grant, granted) = oneshot::channel();
        let _place = self.line_up(units(bytes), priority, grant);
        self.serve();
        // It is not dropped before its room is granted.
        granted.await.unwrap_or_else(|_| Room { flight: Arc::clone(self), units: 0 })
    }

    fn line_up(
        self: &Arc<Self>,
        units: usize,
        priority: Priority,
        grant: oneshot::Sender<Room>,
    ) -> Place<'_> {
        let mut size = self.size();
        size.last += 1;
        let name = size.last;
        size.waiting[level(priority)].push_back(Waiting { name, units, grant });
        Place { flight: self, priority, name }
    }

    fn serve(self: &Arc<Self>) {
        loop {
            // Without the lock: whoever does not wait any more gives it back at once.
            let next = self.size().serve();
            let Some((units, grant)) = next else { return };
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

/// A place among those who wait, until this is dropped.
struct Place<'a> {
    flight: &'a Arc<Flight>,
    priority: Priority,
    name: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut size = self.flight.size();
        let waiting = &mut size.waiting[level(self.priority)];
        let Some(at) = waiting.iter().position(|w| w.name == self.name) else { return };
        waiting.remove(at);
        drop(size);
        // There may be room for the one behind it.
        self.flight.serve();
    }
}

/// Room that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    flight: Arc<Flight>,
    units: usize,
}

impl Room {
    /// For how many bytes it is.
    pub(super) fn bytes(&self) -> usize {
        self.units.saturating_mul(UNIT)
    }

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

    const KIB: usize = 1 << 10;

    /// As much room as there is, `bytes` at a time.
    fn all(flight: &Arc<Flight>, bytes: usize) -> Vec<Room> {
        std::iter::from_fn(|| flight.room(bytes, NEXT).now_or_never()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_congestion_window() {
        let flight = Arc::new(Flight::new(16 << 20));
        let now = Instant::now();
        assert_eq!(flight.look(now, || 1 << 20), 384 * KIB);
        let mut taken = all(&flight, 384 * KIB);
        assert_eq!(taken.len(), 4);
        // A smaller window: what comes back pays first.
        flight.look(now, || unreachable!("just looked"));
        assert_eq!(flight.look(now + LOOK, || 512 << 10), 192 * KIB);
        taken.truncate(2);
        assert!(flight.room(1, NEXT).now_or_never().is_none());
        let mut first = taken.remove(0);
        first.keep(1);
        let some = all(&flight, 192 * KIB);
        assert_eq!(some.len(), 1);
        assert!(flight.room(191 * KIB, NEXT).now_or_never().is_some());
        let mark = first.mark(Bytes::from_static(&[1, 2]));
        assert_eq!(mark[..], [1, 2]);
        assert!(flight.room(192 * KIB, NEXT).now_or_never().is_none());
        drop(mark);
        assert!(flight.room(192 * KIB, NEXT).now_or_never().is_some());
        drop((some, taken));
        assert_eq!(all(&flight, 192 * KIB).len(), 4);
        let batch = flight.look(now + LOOK * 2, || 1 << 40);
        assert_eq!(batch, *BATCHES.end());
        let taken = all(&flight, batch);
        assert_eq!(taken.len(), (16 << 20) / batch);
    }

    #[tokio::test(start_paused = true)]
    async fn the_urgent_wait_less_and_nobody_for_ever() {
        let flight = Arc::new(Flight::new(16 << 20));
        let batch = flight.look(Instant::now(), || 64 << 10);
        let mut whole = all(&flight, batch);
        let told = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for (priority, who) in [(Priority::Low, 'l'), (NEXT, 'n'), (Priority::Now, 'u')] {
            for _ in 0..32 {
                let (flight, told) = (Arc::clone(&flight), Arc::clone(&told));
                tasks.spawn(async move {
                    let room = flight.room(batch, priority).await;
                    told.lock().unwrap().push(who);
                    drop(room);
                });
            }
            tokio::task::yield_now().await;
        }
        // One that has gone holds up nobody.
        let gone = flight.room(batch, Priority::Now);
        assert!(gone.now_or_never().is_none());
        // Room for one at a time.
        whole.truncate(whole.len() - 1);
        tasks.join_all().await;
        let told: String = told.lock().unwrap().iter().collect();
        let at = |who| told.chars().take(34).filter(|c| *c == who).count();
        assert_eq!((at('u'), at('n'), at('l')), (30, 2, 2), "{told}");
        assert!(flight.room(batch, NEXT).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asked_in_better_times_gets_what_there_is() {
        let flight = Arc::new(Flight::new(16 << 20));
        let now = Instant::now();
        let batch = flight.look(now, || 8 << 20);
        let taken = all(&flight, batch);
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(flight.room(batch, NEXT))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().now_or_never().is_none());
        }
        let less = flight.look(now + LOOK, || 0);
        assert!(less < batch);
        drop(taken);
        for one in waiting {
            let room = one.now_or_never().expect("all that was under way has come back");
            assert_eq!(room.bytes(), less);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_no_more_makes_way() {
        let flight = Arc::new(Flight::new(16 << 20));
        flight.look(Instant::now(), || 0);
        let _held = flight.room(64 << 10, NEXT).await;
        let _more = [flight.room(64 << 10, NEXT).await, flight.room(64 << 10, NEXT).await];
        let mut large = Box::pin(flight.room(64 << 10, NEXT));
        let last = large.as_mut().now_or_never().expect("there is room for a fourth");
        drop(last);
        let _rest = flight.room(40 << 10, NEXT).await;
        let mut large = Box::pin(flight.room(64 << 10, NEXT));
        assert!(large.as_mut().now_or_never().is_none());
        let mut small = Box::pin(flight.room(20 << 10, NEXT));
        assert!(small.as_mut().now_or_never().is_none(), "in turn");
        drop(large);
        assert!(small.as_mut().now_or_never().is_some());
        assert_eq!(flight.size().waiting.iter().map(VecDeque::len).sum::<usize>(), 0);
    }
}
