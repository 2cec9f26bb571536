//! A bounded queue between tasks that takes almost no room while nothing waits in it.
//!
//! tokio's `mpsc` allocates 32 places in advance and a second lot once they were used: with some seven
//! queues per direct path, and thousands of paths that say nothing, that is most of what an idle path
//! would take. This one allocates with the first item, and gives the room back when the last one has
//! been taken. Many may send, one receives.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Bytes that an empty queue may keep.
const KEPT: usize = 256;

/// A new queue, in which at most `most` items wait (at least one).
#[must_use]
pub fn channel<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    let items = Items { waiting: VecDeque::new(), senders: 1, taking: true, dropped: false };
    let shared = Arc::new(Shared {
        items: Mutex::new(items),
        most: most.max(1),
        filled: Notify::new(),
        freed: Notify::new(),
        gone: Notify::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

/// Why an item was not taken; it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// As many wait as may.
    Full(T),
    /// Nobody receives any more.
    Closed(T),
}

impl<T> Refused<T> {
    /// The item.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(item) | Self::Closed(item) => item,
        }
    }
}

struct Items<T> {
    waiting: VecDeque<T>,
    senders: usize,
    /// New items are taken.
    taking: bool,
    /// The receiver is gone.
    dropped: bool,
}

struct Shared<T> {
    items: Mutex<Items<T>>,
    most: usize,
    /// An item came, or the last sender went.
    filled: Notify,
    /// There is room, or none is needed any more.
    freed: Notify,
    /// The receiver is gone.
    gone: Notify,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Items<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends; clones send to the same queue.
pub struct Sender<T>(Arc<Shared<T>>);

/// Receives.
pub struct Receiver<T>(Arc<Shared<T>>);

/// Does not keep a queue open.
pub struct WeakSender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Sends, if there is room.
    ///
    /// # Errors
    /// [`Refused`], with the item.
    pub fn try_send(&self, item: T) -> Result<(), Refused<T>> {
        let mut items = self.0.lock();
        if !items.taking {
            return Err(Refused::Closed(item));
        }
        if items.waiting.len() >= self.0.most {
            return Err(Refused::Full(item));
        }
        items.waiting.push_back(item);
        drop(items);
        self.0.filled.notify_one();
        Ok(())
    }

    /// Sends, and waits for room before that.
    ///
    /// # Errors
    /// The item: nobody receives any more.
    pub async fn send(&self, item: T) -> Result<(), T> {
        let mut item = item;
        loop {
            item = match self.try_send(item) {
                Ok(()) => return Ok(()),
                Err(Refused::Closed(item)) => return Err(item),
                Err(Refused::Full(item)) => item,
            };
            let mut freed = pin!(self.0.freed.notified());
            // In line first, then a second look: what is freed in between counts.
            freed.as_mut().enable();
            item = match self.try_send(item) {
                Ok(()) => return Ok(()),
                Err(Refused::Closed(item)) => return Err(item),
                Err(Refused::Full(item)) => item,
            };
            freed.await;
        }
    }

    /// Resolves when the receiver is gone.
    pub async fn closed(&self) {
        let mut gone = pin!(self.0.gone.notified());
        gone.as_mut().enable();
        if !self.0.lock().dropped {
            gone.await;
        }
    }

    /// One that does not keep the queue open.
    #[must_use]
    pub fn downgrade(&self) -> WeakSender<T> {
        WeakSender(Arc::clone(&self.0))
    }
}

impl<T> WeakSender<T> {
    /// A sender, if there is still another one.
    #[must_use]
    pub fn upgrade(&self) -> Option<Sender<T>> {
        let mut items = self.0.lock();
        if items.senders == 0 {
            return None;
        }
        items.senders += 1;
        Some(Sender(Arc::clone(&self.0)))
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut items = self.0.lock();
        items.senders -= 1;
        if items.senders == 0 {
            drop(items);
            self.0.filled.notify_one();
        }
    }
}

impl<T> Receiver<T> {
    /// The next item, if one waits.
    pub fn try_recv(&mut self) -> Option<T> {
        let mut items = self.0.lock();
        let item = items.waiting.pop_front()?;
        if items.waiting.is_empty() && items.waiting.capacity() * size_of::<T>() > KEPT {
            items.waiting = VecDeque::new();
        }
        drop(items);
        self.0.freed.notify_one();
        Some(item)
    }

    /// The next item; none when there will be none. Cancel-safe.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            if let Some(item) = self.try_recv() {
                return Some(item);
            }
            let over = {
                let items = self.0.lock();
                // One may have come since.
                items.waiting.is_empty() && (items.senders == 0 || !items.taking)
            };
            if over {
                return None;
            }
            // Whoever sends in between leaves a permit.
            self.0.filled.notified().await;
        }
    }

    /// Takes no more; what waits can still be received.
    pub fn close(&mut self) {
        self.0.lock().taking = false;
        self.0.freed.notify_waiters();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let unread = {
            let mut items = self.0.lock();
            (items.taking, items.dropped) = (false, true);
            std::mem::take(&mut items.waiting)
        };
        // Whatever dropping them does, it is not done under the lock.
        drop(unread);
        self.0.freed.notify_waiters();
        self.0.gone.notify_waiters();
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for WeakSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakSender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn items_come_in_order_and_the_end_after_them() {
        let (sender, mut receiver) = channel(4);
        let other = sender.clone();
        sender.try_send(1).unwrap();
        other.try_send(2).unwrap();
        drop((sender, other));
        assert_eq!(receiver.recv().await, Some(1));
        assert_eq!(receiver.recv().await, Some(2));
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn a_full_queue_makes_its_senders_wait() {
        let (sender, mut receiver) = channel(2);
        let all = tokio::spawn(async move {
            let sends = (0..50).map(|n| {
                let sender = sender.clone();
                async move { sender.send(n).await }
            });
            futures_util::future::join_all(sends).await
        });
        let mut got = Vec::new();
        while got.len() < 50 {
            got.push(receiver.recv().await.unwrap());
        }
        assert!(all.await.unwrap().iter().all(Result::is_ok));
        got.sort_unstable();
        assert_eq!(got, (0..50).collect::<Vec<_>>());
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn who_waits_hears_that_the_receiver_is_gone() {
        let (sender, receiver) = channel(1);
        sender.try_send(1).unwrap();
        assert_eq!(sender.try_send(2), Err(Refused::Full(2)));
        let weak = sender.downgrade();
        let waiting = tokio::spawn(async move {
            let refused = sender.send(2).await;
            sender.closed().await;
            refused
        });
        tokio::task::yield_now().await;
        drop(receiver);
        assert_eq!(waiting.await.unwrap(), Err(2));
        assert!(weak.upgrade().is_none());
    }

    #[tokio::test]
    async fn a_closed_one_still_gives_what_it_has() {
        let (sender, mut receiver) = channel(2);
        sender.try_send("one").unwrap();
        receiver.close();
        assert_eq!(sender.try_send("two"), Err(Refused::Closed("two")));
        assert_eq!(receiver.recv().await, Some("one"));
        assert_eq!(receiver.recv().await, None);
    }

    #[test]
    fn an_empty_queue_keeps_little() {
        let (sender, mut receiver) = channel(64);
        for n in 0..64_u64 {
            sender.try_send(n).unwrap();
        }
        while receiver.try_recv().is_some() {}
        assert_eq!(receiver.0.lock().waiting.capacity(), 0);
    }
}
