//! What the handle and the task of a relay link share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwire_signaling::Hash;
use meshwire_signaling::frame::{ErrorFrame, Frame};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Duration, Instant};

use crate::link::{Handed, LinkError};
use crate::text::clean;

/// Envelopes that the broker has not answered yet: at 100 ms round trip still 10,000 a second, ten
/// times the broker's rate limit.
const SENDS: usize = 1_024;
/// Requests that the broker has not answered yet.
const ASKS: usize = 32;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding one of these locks; if it did, the data would still be whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, as the handle sees it. The task keeps none of it but `pending`, so that `frames`
/// ends when the link is closed and the last caller is through.
pub(super) struct Up {
    /// To the writer.
    pub(super) frames: mpsc::Sender<Frame>,
    /// Who waits for which answer.
    pub(super) pending: Arc<Pending>,
    /// Room for unanswered sends.
    pub(super) sends: Arc<Semaphore>,
    /// Room for unanswered requests.
    pub(super) asks: Arc<Semaphore>,
    /// Makes concurrent sends leave in the order of their calls.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Hash of this connection's hello.
    pub(super) hello: Hash,
    /// Most bytes of a body.
    pub(super) max_body: usize,
    /// Most wraps of one frame.
    pub(super) max_wraps: usize,
}

impl Up {
    pub(super) fn new(
        frames: mpsc::Sender<Frame>,
        pending: Arc<Pending>,
        hello: Hash,
        max_body: usize,
        max_wraps: usize,
    ) -> Self {
        Self {
            frames,
            pending,
            sends: Arc::new(Semaphore::new(SENDS)),
            asks: Arc::new(Semaphore::new(ASKS)),
            turn: tokio::sync::Mutex::default(),
            hello,
            max_body,
            max_wraps: max_wraps.max(1),
        }
    }

    /// Turns away whoever waits for room.
    fn end(&self) {
        self.sends.close();
        self.asks.close();
    }
}

#[derive(Default)]
enum Phase {
    #[default]
    Down,
    Up(Arc<Up>),
    Closed,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Shared(Mutex<Phase>);

impl Shared {
    /// The current connection.
    pub(super) fn up(&self) -> Result<Arc<Up>, LinkError> {
        match &*lock(&self.0) {
            Phase::Up(up) => Ok(up.clone()),
            Phase::Down => Err(LinkError::Down),
            Phase::Closed => Err(LinkError::Closed),
        }
    }

    /// The error of whoever held on to a connection that is no more.
    pub(super) fn lost(&self) -> LinkError {
        match &*lock(&self.0) {
            Phase::Closed => LinkError::Closed,
            Phase::Up(_) | Phase::Down => LinkError::Down,
        }
    }

    /// There is a connection. False if the link was closed meanwhile.
    pub(super) fn set_up(&self, up: Up) -> bool {
        let mut phase = lock(&self.0);
        if matches!(*phase, Phase::Closed) {
            return false;
        }
        *phase = Phase::Up(Arc::new(up));
        true
    }

    /// There is none any more.
    pub(super) fn set_down(&self) {
        let mut phase = lock(&self.0);
        if let Phase::Up(up) = &*phase {
            up.end();
            *phase = Phase::Down;
        }
    }

    /// There will be none any more.
    pub(super) fn close(&self) {
        let mut phase = lock(&self.0);
        if let Phase::Up(up) = &*phase {
            up.end();
        }
        *phase = Phase::Closed;
    }
}

/// Longest time that a frame may stand in line while answers to others come: 16 MiB of envelopes
/// on a line of 0.5 Mbit/s.
const SLOW_LINE: Duration = Duration::from_secs(270);

enum Waiter {
    Send { done: oneshot::Sender<Result<Handed, LinkError>>, _room: OwnedSemaphorePermit },
    Ask { done: oneshot::Sender<Result<Frame, LinkError>> },
}

#[derive(Default)]
struct Waiting {
    last_req: u64,
    /// When the last answer came.
    answered: Option<Instant>,
    waiters: BTreeMap<u64, (Instant, Waiter)>,
}

/// Who waits for which answer on one connection; bounded by [`SENDS`] and [`ASKS`].
#[derive(Default)]
pub(super) struct Pending(Mutex<Waiting>, Notify);

/// A request whose waiter is forgotten when this is dropped: the caller may have given up.
pub(super) struct Asked {
    pending: Arc<Pending>,
    req: u64,
}

impl Asked {
    pub(super) fn req(&self) -> u64 {
        self.req
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        lock(&self.pending.0).waiters.remove(&self.req);
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({})", lock(&self.0).waiters.len())
    }
}

impl Pending {
    /// The connection may be dead: it is to show that it is not.
    pub(super) fn doubt(&self) {
        self.1.notify_one();
    }

    /// Waits for [`Self::doubt`].
    pub(super) async fn doubted(&self) {
        self.1.notified().await;
    }

    fn insert(&self, waiter: Waiter) -> u64 {
        let mut waiting = lock(&self.0);
        waiting.last_req += 1;
        let req = waiting.last_req;
        waiting.waiters.insert(req, (Instant::now(), waiter));
        req
    }

    /// A number for a frame whose answer nobody waits for.
    pub(super) fn next_req(&self) -> u64 {
        let mut waiting = lock(&self.0);
        waiting.last_req += 1;
        waiting.last_req
    }

    /// A send's number.
    pub(super) fn send(
        &self,
        done: oneshot::Sender<Result<Handed, LinkError>>,
        room: OwnedSemaphorePermit,
    ) -> u64 {
        self.insert(Waiter::Send { done, _room: room })
    }

    /// A request's number, and where its answer comes.
    pub(super) fn ask(self: &Arc<Self>) -> (Asked, oneshot::Receiver<Result<Frame, LinkError>>) {
        let (done, answer) = oneshot::channel();
        (Asked { req: self.insert(Waiter::Ask { done }), pending: self.clone() }, answer)
    }

    /// Since when nothing has been answered that somebody waits for. Counted from the last answer:
    /// on a slow line the last in a long queue waits long, while answers keep coming; but not for
    /// ever, for one of them may be lost.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let state = lock(&self.0);
        let oldest = state.waiters.first_key_value().map(|(_, (since, _))| *since)?;
        Some(state.answered.map_or(oldest, |at| at.max(oldest).min(oldest + SLOW_LINE)))
    }

    /// Brings an answer to who waits for it. False if nobody does.
    pub(super) fn answer(&self, req: u64, frame: Frame) -> bool {
        let removed = {
            let mut waiting = lock(&self.0);
            waiting.answered = Some(Instant::now());
            waiting.waiters.remove(&req)
        };
        let Some((_, waiter)) = removed else { return false };
        // Whoever dropped its end does not want to know.
        match (waiter, frame) {
            (Waiter::Send { done, .. }, Frame::Accepted(a)) => {
                let handed = Handed { state: a.state, duplicate: a.duplicate, full: a.full };
                let _ = done.send(Ok(handed));
            }
            (Waiter::Send { done, .. }, Frame::RecipientsChanged(c)) => {
                let error = LinkError::RecipientsChanged { missing: c.missing, gone: c.gone };
                let _ = done.send(Err(error));
            }
            (Waiter::Send { done, .. }, other) => {
                let _ = done.send(Err(refusal(other)));
            }
            (Waiter::Ask { done }, e @ Frame::Error(_)) => {
                let _ = done.send(Err(refusal(e)));
            }
            (Waiter::Ask { done }, frame) => {
                let _ = done.send(Ok(frame));
            }
        }
        true
    }

    /// Refuses a send that cannot go out.
    pub(super) fn refuse(&self, req: u64, error: LinkError) {
        if let Some((_, Waiter::Send { done, .. })) = lock(&self.0).waiters.remove(&req) {
            let _ = done.send(Err(error));
        }
    }

    /// Tells everybody that no answer will come.
    pub(super) fn fail(&self, error: &LinkError) {
        let waiters = std::mem::take(&mut lock(&self.0).waiters);
        for (_, waiter) in waiters.into_values() {
            match waiter {
                Waiter::Send { done, .. } => drop(done.send(Err(error.clone()))),
                Waiter::Ask { done } => drop(done.send(Err(error.clone()))),
            }
        }
    }
}

fn refusal(frame: Frame) -> LinkError {
    match frame {
        Frame::Error(e) => {
            LinkError::Refused(Box::new(ErrorFrame { message: clean(&e.message), ..e }))
        }
        other => LinkError::Unexpected(other.kind().to_owned()),
    }
}
