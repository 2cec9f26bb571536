//! A stream that runs: the core behind a lock, a timer, the tasks that wait for it, and its links.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use meshwire_signaling::{Priority, StreamId};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::error::{Rejected, StreamError};
use super::halves::{ReadHalf, WriteHalf};
use super::links::{LinkId, Pulse};
use super::look::Counters;
use super::machine::Stream;
use crate::link::PathKind;

/// Tells a link's driver that there may be something to send.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A [`Stream`] that runs. Clones are the same stream. A task of its own, which ends with the stream, keeps its
/// time; links and the two halves are driven by whoever has them.
///
/// A link's driver: [`Self::link_up`]; whenever it is woken, [`Self::poll_transmit`] while there is room, and what
/// comes in to [`Self::receive`]; [`Self::link_down`] when the link is lost; nothing more once
/// [`Self::is_over`], of which it is woken, too.
#[derive(Clone)]
pub struct Live(pub(super) Arc<Shared>);

pub(super) struct Shared {
    id: StreamId,
    inner: Mutex<Inner>,
    /// The stream has been accepted, has ended, or one of its halves has.
    turned: Notify,
    /// The timer is to go off earlier than it would.
    earlier: Notify,
}

pub(super) struct Inner {
    pub(super) stream: Stream,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    links: Vec<Driven>,
    /// When the timer goes off; none: it has not begun, or will not any more.
    alarm: Option<Instant>,
    /// Everybody knows that it is over.
    over: bool,
    /// The halves have been handed out.
    split: bool,
    /// What kind of link new chunks went over at the last look.
    path: Option<PathKind>,
    priority: Priority,
}

struct Driven {
    id: LinkId,
    wake: Wake,
    /// It was woken, and has not found nothing since.
    awake: bool,
    /// It was woken for what does not wait for the stream's turn, and has not asked since.
    pressed: bool,
}

/// Whom to tell what has changed, once the lock is free.
#[derive(Default)]
struct News {
    tasks: [Option<Waker>; 2],
    links: Vec<Wake>,
    turned: bool,
    earlier: bool,
}

impl Inner {
    fn news(&mut self) -> News {
        let changes = self.stream.changes();
        let path = self.stream.path();
        let moved = std::mem::replace(&mut self.path, path) != path;
        let turned = changes.ended || changes.accepted || moved;
        let mut news = News { turned, ..News::default() };
        if changes.readable || changes.ended {
            news.tasks[0] = self.reader.take();
        }
        if changes.writable || changes.ended {
            news.tasks[1] = self.writer.take();
        }
        if self.stream.is_over() {
            if !self.over {
                (self.over, self.alarm) = (true, None);
                (news.turned, news.earlier) = (true, true);
                news.links.extend(self.links.drain(..).map(|l| l.wake));
            }
            return news;
        }
        for link in &mut self.links {
            let wakes = if link.awake {
                !link.pressed && self.stream.is_pressing(link.id)
            } else {
                self.stream.transmit_len(link.id).is_some()
            };
            if wakes {
                (link.awake, link.pressed) = (true, self.stream.is_pressing(link.id));
                news.links.push(Arc::clone(&link.wake));
            }
        }
        let due = self.stream.poll_timeout();
        if let (Some(due), Some(alarm)) = (due, self.alarm)
            && due < alarm
        {
            self.alarm = Some(due);
            news.earlier = true;
        }
        news
    }

    fn asleep(&mut self, link: LinkId) {
        if let Some(link) = self.links.iter_mut().find(|l| l.id == link) {
            link.awake = false;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the stream, then tells whoever it concerns.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Inner, Instant) -> T) -> T {
        let mut inner = self.lock();
        let done = work(&mut inner, Instant::now());
        let news = inner.news();
        drop(inner);
        self.tell(news);
        done
    }

    fn tell(&self, news: News) {
        for task in news.tasks.into_iter().flatten() {
            task.wake();
        }
        for wake in news.links {
            wake();
        }
        if news.turned {
            self.turned.notify_waiters();
        }
        if news.earlier {
            self.earlier.notify_one();
        }
    }

    /// Waits until `look` finds something.
    pub(super) async fn until<T>(&self, look: impl Fn(&Stream) -> Option<T>) -> T {
        loop {
            let mut turned = pin!(self.turned.notified());
            // In line first, then a look: what turns in between counts.
            turned.as_mut().enable();
            if let Some(found) = look(&self.lock().stream) {
                return found;
            }
            turned.await;
        }
    }

    async fn keep_time(self: Arc<Self>) {
        loop {
            let due = self.with(|inner, now| {
                if inner.stream.poll_timeout().is_some_and(|at| at <= now) {
                    inner.stream.handle_timeout(now);
                }
                inner.alarm = inner.stream.poll_timeout();
                inner.alarm
            });
            let Some(due) = due else { return };
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.earlier.notified() => {}
            }
        }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Live({:?})", self.0.id)
    }
}

impl Live {
    /// Runs `stream`. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(stream: Stream) -> Self {
        let id = stream.id();
        let inner = Inner {
            stream,
            reader: None,
            writer: None,
            links: Vec::new(),
            alarm: None,
            over: false,
            split: false,
            path: None,
            priority: Priority::default(),
        };
        let (turned, earlier) = (Notify::new(), Notify::new());
        let shared = Arc::new(Shared { id, inner: Mutex::new(inner), turned, earlier });
        tokio::spawn(Arc::clone(&shared).keep_time());
        Self(shared)
    }

    /// Which stream it is: bytes 4 to 20 of its records.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.0.id
    }

    // ---- links ----

    /// A link carries this stream from now on; `rtt` is its round-trip time, where the carrier knows it. `wake` is
    /// called, without any lock held, when there is something to send on it: once, and again after
    /// [`Self::poll_transmit`] or [`Self::transmit_len`] has found nothing; when something else than before comes of
    /// [`Self::turn`]; and when the stream is over. It is to be short, and may be called inside any other call.
    pub fn link_up(&self, link: LinkId, kind: PathKind, rtt: Option<Duration>, wake: Wake) {
        self.0.with(|inner, now| {
            let known = inner.links.iter().any(|l| l.id == link);
            if !known && !inner.over {
                inner.links.push(Driven { id: link, wake, awake: false, pressed: false });
                inner.stream.link_up(link, kind, rtt, now);
            }
        });
    }

    /// A link shares its connection with others: something new that came over any of them shows that it lives.
    pub fn link_pulse(&self, link: LinkId, pulse: Pulse) {
        self.0.with(|inner, _| inner.stream.link_pulse(link, pulse));
    }

    /// The link is lost: what was sent on it and is not acknowledged goes over another.
    pub fn link_down(&self, link: LinkId) {
        self.0.with(|inner, now| {
            inner.links.retain(|l| l.id != link);
            inner.stream.link_down(link, now);
        });
    }

    /// The carrier's word on a link's round-trip time.
    pub fn link_rtt(&self, link: LinkId, rtt: Duration) {
        self.0.with(|inner, now| inner.stream.link_rtt(link, rtt, now));
    }

    /// Which link to use while it lives; none for the best.
    pub fn prefer(&self, link: Option<LinkId>) {
        self.0.with(|inner, now| inner.stream.prefer(link, now));
    }

    /// The link that new chunks go over.
    #[must_use]
    pub fn best_link(&self) -> Option<LinkId> {
        self.0.lock().stream.best_link()
    }

    /// What kind of link new chunks go over; none while there is no link.
    #[must_use]
    pub fn path(&self) -> Option<PathKind> {
        self.0.lock().stream.path()
    }

    /// Resolves when [`Self::path`] is not `known` any more, or the stream is over. Cancel-safe.
    pub async fn path_other_than(&self, known: Option<PathKind>) -> Option<PathKind> {
        let look = |stream: &Stream| {
            let now = stream.path();
            (now != known || stream.is_over()).then_some(now)
        };
        self.0.until(look).await
    }

    /// How urgent what this side sends is beside other streams on each link, from now on; the other side does not hear
    /// of it.
    pub fn set_priority(&self, priority: Priority) {
        self.0.with(|inner, _| {
            if std::mem::replace(&mut inner.priority, priority) != priority {
                // Drivers are woken once more, and ask.
                inner.links.iter_mut().for_each(|l| (l.awake, l.pressed) = (false, false));
            }
        });
    }

    /// What [`Self::set_priority`] was told last; else the usual one.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.0.lock().priority
    }

    /// For a link's driver that was woken: how urgent the stream is, and whether its next record does not wait for the
    /// stream's turn, since it says how far this side is, or that it lives.
    #[must_use]
    pub fn turn(&self, link: LinkId) -> (Priority, bool) {
        let mut inner = self.0.lock();
        if let Some(link) = inner.links.iter_mut().find(|l| l.id == link) {
            link.pressed = false;
        }
        (inner.priority, inner.stream.is_pressing(link))
    }

    /// How long the next record for `link` is; none if there is none.
    #[must_use]
    pub fn transmit_len(&self, link: LinkId) -> Option<usize> {
        let mut inner = self.0.lock();
        let len = inner.stream.transmit_len(link);
        if len.is_none() {
            inner.asleep(link);
        }
        len
    }

    /// How many bytes of records wait for `link`, if these are less than `most`; else `most`.
    #[must_use]
    pub fn ready(&self, link: LinkId, most: usize) -> usize {
        self.0.lock().stream.ready(link, most)
    }

    /// The next record for `link`, which keeps their order.
    #[must_use]
    pub fn poll_transmit(&self, link: LinkId) -> Option<Bytes> {
        self.0.with(|inner, now| {
            let record = inner.stream.poll_transmit(link, now);
            if record.is_none() {
                inner.asleep(link);
            }
            record
        })
    }

    /// Appends the next records for `link` to `records`, each with its length in front (two bytes, big-endian), until
    /// they have `max` bytes or more, or there are no more. How many bytes these are.
    pub fn poll_framed_many(&self, link: LinkId, max: usize, records: &mut Vec<Bytes>) -> usize {
        self.0.with(|inner, now| {
            let mut bytes = 0;
            while bytes < max {
                let Some(record) = inner.stream.poll_framed(link, now) else {
                    inner.asleep(link);
                    break;
                };
                bytes += record.len();
                records.push(record);
            }
            bytes
        })
    }

    /// Takes a record that came over `link`; [`super::buffer`] has buffers for them.
    ///
    /// # Errors
    /// [`Rejected`]: it was dropped and has changed nothing. The link goes on.
    pub fn receive(&self, link: LinkId, record: BytesMut) -> Result<(), Rejected> {
        self.0.with(|inner, now| inner.stream.receive(link, record, now))
    }

    /// Somebody who cannot prove it says that the other side is gone or does not know the stream.
    pub fn hint_gone(&self) {
        self.0.with(|inner, now| inner.stream.hint_gone(now));
    }

    // ---- the application ----

    /// What the application reads and writes; at the first call alone.
    #[must_use]
    pub fn halves(&self) -> Option<(ReadHalf, WriteHalf)> {
        let first = !std::mem::replace(&mut self.0.lock().split, true);
        first.then(|| (ReadHalf::new(self.clone()), WriteHalf::new(self.clone())))
    }

    /// Ends the stream in both directions, as [`WriteHalf::reset`].
    pub fn reset(&self, code: u32, reason: &str) {
        self.0.with(|inner, now| inner.stream.reset(code, reason, now));
    }

    /// Resolves once the other side has accepted the stream; at once for the side that has.
    ///
    /// # Errors
    /// What ended the stream instead.
    pub async fn accepted(&self) -> Result<(), StreamError> {
        self.0
            .until(|stream| match stream.error() {
                _ if stream.is_accepted() => Some(Ok(())),
                Some(error) => Some(Err(error.clone())),
                None => None,
            })
            .await
    }

    /// Whether the other side has accepted the stream, or this side is it.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.0.lock().stream.is_accepted()
    }

    /// Resolves when nothing more is to be sent or expected. What came may still wait to be read.
    pub async fn over(&self) {
        self.0.until(|stream| stream.is_over().then_some(())).await;
    }

    /// As [`Stream::is_done`]: all has been sent and confirmed, and has come. The other side may not know it yet.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.lock().stream.is_done()
    }

    /// Whether nothing more is to be sent or expected.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.lock().stream.is_over()
    }

    /// What ended the stream early, if something did.
    #[must_use]
    pub fn error(&self) -> Option<StreamError> {
        self.0.lock().stream.error().cloned()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.lock().stream.counters()
    }
}
