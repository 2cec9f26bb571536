//! Gives accepted messages their place in the order of surfacing, and tells of them.
//!
//! ```text
//! offer ──► order book (holes) ──► gate (the addressee's status) ──► store ──► Event::Message
//!                                    ▲                 pings ──► swallowed, not gated
//!                        set_status ─┤
//!        hand_on (an ended session's) ─┘
//! ```
//!
//! One task, [`run`], does all of it. Callers leave word and wait: one that goes away in between
//! takes nothing along, neither a message's event nor a change of status.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwire_signaling::Priority;
use meshwire_signaling::frame::Status;
use meshwire_transport::net::Net;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Duration, Instant};

use super::events::Event;
use super::{presence, store_error};
use crate::api::ApiError;
use crate::core::gate::{Addressee, Arrival, Gate};
use crate::core::order::{Bounds, OrderBook};
use crate::store::PeerStore;

/// How long to wait after the store failed.
const RETRY: Duration = Duration::from_secs(1);
/// Rows that surface in one transaction: what was held for a day must not block all else for long.
const BATCH: usize = 256;

/// What the order book does not keep of a row.
#[derive(Clone, Copy, Debug)]
struct Label {
    to: Addressee,
    priority: Priority,
    ping: bool,
}

/// What [`run`] works with; nobody else sees it.
#[derive(Debug, Default)]
pub(super) struct State {
    book: OrderBook,
    gate: Gate,
    /// Of the rows in the book.
    labels: HashMap<i64, Label>,
    /// Rows whose turn it is but which the store could not yet surface.
    due: Vec<i64>,
    /// Pings whose turn it is.
    swallowed: Vec<i64>,
}

impl State {
    fn label(&mut self, arrival: &Arrival) {
        let label = Label {
            to: arrival.to,
            priority: arrival.waiting.counter.priority,
            ping: arrival.ping,
        };
        self.labels.insert(arrival.waiting.row, label);
    }

    /// Takes rows that no hole holds back any more.
    fn in_turn(&mut self, rows: Vec<i64>) {
        for row in rows {
            match self.labels.remove(&row) {
                Some(label) if label.ping => self.swallowed.push(row),
                Some(label) => self.due.extend(self.gate.offer(label.to, label.priority, row)),
                None => self.due.push(row),
            }
        }
    }

    /// Lets `to` have what is for `from`: first what has been in its turn before.
    fn hand_on(&mut self, from: &Addressee, to: Addressee, shown: Vec<Arrival>) {
        for arrival in shown {
            let (priority, row) = (arrival.waiting.counter.priority, arrival.waiting.row);
            self.due.extend(self.gate.offer(to, priority, row));
        }
        self.due.extend(self.gate.hand_on(from, to));
        for label in self.labels.values_mut().filter(|label| label.to == *from) {
            label.to = to;
        }
    }
}

/// What callers want.
#[derive(Debug)]
enum Ask {
    Offer(Vec<Arrival>),
    SetStatus(Addressee, Status),
    HandOn { from: Addressee, to: Addressee, shown: Vec<Arrival> },
}

/// What callers want and nobody has looked at yet; each waits, so there is as much as there are
/// callers.
#[derive(Debug, Default)]
struct Asks {
    waiting: Vec<Ask>,
    /// How many there were, ever.
    count: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Surfacer {
    net: Arc<dyn Net>,
    store: Arc<dyn PeerStore>,
    events: broadcast::Sender<Event>,
    start: Instant,
    asks: Mutex<Asks>,
    changed: Notify,
    /// How many asks were seen to.
    done: watch::Sender<u64>,
}

impl Surfacer {
    /// Takes up what the last run of the node left held. The state is for [`run`].
    pub(super) async fn restore(
        net: Arc<dyn Net>,
        store: Arc<dyn PeerStore>,
        events: broadcast::Sender<Event>,
    ) -> Result<(Arc<Self>, State), ApiError> {
        let mut state = State::default();
        for (who, status) in presence::statuses(store.as_ref(), net.unix_ms()).await? {
            // Nothing waits yet that this could free.
            let _ = state.gate.set_status(who, status);
        }
        let cursors = store.cursors().await.map_err(store_error)?;
        let held = store.held().await.map_err(store_error)?;
        for arrival in &held {
            state.label(arrival);
        }
        let waiting = held.into_iter().map(|a| a.waiting);
        let (book, due) = OrderBook::restore(Bounds::default(), cursors, waiting, 0);
        state.book = book;
        state.in_turn(due);
        let surfacer = Self {
            start: net.now(),
            net,
            store,
            events,
            asks: Mutex::default(),
            changed: Notify::new(),
            done: watch::Sender::new(0),
        };
        surfacer.emit(&mut state).await;
        Ok((Arc::new(surfacer), state))
    }

    fn tick(&self) -> u64 {
        let since = self.net.now().saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn asks(&self) -> MutexGuard<'_, Asks> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes accepted rows; those whose turn it is surface before this returns.
    pub(crate) async fn offer(&self, rows: Vec<Arrival>) {
        self.ask(Ask::Offer(rows)).await;
    }

    /// Notes what one of our identities is doing; what that lets through surfaces before this
    /// returns.
    pub(crate) async fn set_status(&self, who: Addressee, status: Status) {
        self.ask(Ask::SetStatus(who, status)).await;
    }

    /// Lets a member have the mail of its session that has ended: what had surfaced and nobody has
    /// listed, and what waits. What the member's status lets through surfaces before this returns.
    pub(crate) async fn hand_on(&self, from: Addressee, to: Addressee, shown: Vec<Arrival>) {
        self.ask(Ask::HandOn { from, to, shown }).await;
    }

    /// Leaves word, before anything is waited for, and waits until it was seen to.
    async fn ask(&self, ask: Ask) {
        let turn = {
            let mut asks = self.asks();
            asks.waiting.push(ask);
            asks.count = asks.count.saturating_add(1);
            asks.count
        };
        self.changed.notify_one();
        // The sender lives as long as we do.
        let _ = self.done.subscribe().wait_for(|done| *done >= turn).await;
    }

    /// Sees to what callers want; how many asks that makes.
    fn take(&self, state: &mut State) -> u64 {
        let (waiting, count) = {
            let mut asks = self.asks();
            (std::mem::take(&mut asks.waiting), asks.count)
        };
        for ask in waiting {
            match ask {
                Ask::Offer(rows) => {
                    let now = self.tick();
                    for arrival in rows {
                        state.label(&arrival);
                        let turn = state.book.on_message(now, arrival.waiting);
                        state.in_turn(turn);
                    }
                }
                Ask::SetStatus(who, status) => {
                    let freed = state.gate.set_status(who, status);
                    state.due.extend(freed);
                }
                Ask::HandOn { from, to, shown } => state.hand_on(&from, to, shown),
            }
        }
        count
    }

    async fn emit(&self, state: &mut State) {
        while !state.due.is_empty() {
            let batch = &state.due[..state.due.len().min(BATCH)];
            match self.store.surface(batch, self.net.unix_ms()).await {
                Ok(rows) => {
                    let done = batch.len();
                    state.due.drain(..done);
                    for row in rows {
                        let _ = self.events.send(Event::Message(Box::new(row)));
                    }
                }
                Err(e) => {
                    tracing::error!(error = %e, "surfacing failed; it will be tried again");
                    return;
                }
            }
        }
        if !state.swallowed.is_empty() {
            match self.store.swallow(&state.swallowed, self.net.unix_ms()).await {
                Ok(()) => state.swallowed.clear(),
                Err(e) => tracing::error!(error = %e, "pings stay; it will be tried again"),
            }
        }
    }
}

/// Nobody waits for a surfacer that does not work any more.
struct Over(Arc<Surfacer>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.done.send_replace(u64::MAX);
    }
}

/// Surfaces what callers bring, and what was held long enough. Runs until it is dropped.
pub(super) async fn run(surfacer: Arc<Surfacer>, mut state: State) {
    let _over = Over(surfacer.clone());
    loop {
        let seen = surfacer.take(&mut state);
        let turn = state.book.poll(surfacer.tick());
        state.in_turn(turn);
        surfacer.emit(&mut state).await;
        surfacer.done.send_replace(seen);
        let hold = state.book.next_deadline();
        let hold = hold.map(|at| Duration::from_millis(at.saturating_sub(surfacer.tick())));
        let left = !state.due.is_empty() || !state.swallowed.is_empty();
        let sleep = async {
            match if left { Some(RETRY) } else { hold } {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = sleep => {}
            () = surfacer.changed.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::super::testing::{World, lab, member, surfaced};
    use super::*;
    use crate::store::SqliteStore;

    /// A store that takes its time, so that its callers can be dropped half-way.
    async fn on_disk(folder: &tempfile::TempDir) -> World {
        let store = SqliteStore::open(&folder.path().join("node.db")).await.unwrap();
        World::on(Arc::new(store)).await
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_takes_no_event_along() {
        let folder = tempfile::tempdir().unwrap();
        let mut world = on_disk(&folder).await;
        let node = world.node().await;
        let surfacer = &node.services().surfacer;
        let who = Addressee { mesh: lab(&node).id(), key: member(&node) };
        surfacer.set_status(who, Status::Dnd).await;
        let mut events = node.events();
        for polls in 1..4 {
            world.receive(&node, (who.key, Priority::Next, "held")).await;
            assert_eq!(world.held().await, 1);
            {
                let mut call = pin!(surfacer.set_status(who, Status::Idle));
                for _ in 0..polls {
                    if call.as_mut().now_or_never().is_some() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            assert_eq!(surfaced(&mut events, 1).await, ["held"], "dropped after {polls}");
            surfacer.set_status(who, Status::Dnd).await;
        }
        node.close().await;
        // Nobody is left to do it, and nobody hangs.
        surfacer.set_status(who, Status::Idle).await;
    }
}
