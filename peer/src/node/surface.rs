//! Gives accepted messages their place in the order of surfacing, and tells of them.
//!
//! ```text
//! offer ──► order book (holes) ──► gate (the addressee's status) ──► store ──► Event::Message
//!                                    ▲                 pings ──► swallowed, not gated
//!                        set_status ─┘
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use meshwire_signaling::Priority;
use meshwire_signaling::frame::Status;
use meshwire_transport::net::Net;
use tokio::sync::{Mutex, Notify, broadcast};
use tokio::time::{Duration, Instant};

use super::events::Event;
use super::{Services, presence, store_error};
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

#[derive(Debug, Default)]
struct State {
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
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Surfacer {
    net: Arc<dyn Net>,
    store: Arc<dyn PeerStore>,
    events: broadcast::Sender<Event>,
    start: Instant,
    /// Held across the store's call, so that surfacing keeps the order of book and gate.
    state: Mutex<State>,
    changed: Notify,
}

impl Surfacer {
    /// Takes up what the last run of the node left held.
    pub(crate) async fn restore(
        net: Arc<dyn Net>,
        store: Arc<dyn PeerStore>,
        events: broadcast::Sender<Event>,
    ) -> Result<Self, ApiError> {
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
        let start = net.now();
        let surfacer =
            Self { net, store, events, start, state: Mutex::new(state), changed: Notify::new() };
        surfacer.emit(&mut *surfacer.state.lock().await).await;
        Ok(surfacer)
    }

    fn tick(&self) -> u64 {
        let since = self.net.now().saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes accepted rows; those whose turn it is surface before this returns.
    pub(crate) async fn offer(&self, rows: Vec<Arrival>) {
        let mut state = self.state.lock().await;
        let now = self.tick();
        for arrival in rows {
            state.label(&arrival);
            let turn = state.book.on_message(now, arrival.waiting);
            state.in_turn(turn);
        }
        self.emit(&mut state).await;
        drop(state);
        self.changed.notify_one();
    }

    /// Notes what one of our identities is doing; what that lets through surfaces before this
    /// returns.
    pub(crate) async fn set_status(&self, who: Addressee, status: Status) {
        let mut state = self.state.lock().await;
        let freed = state.gate.set_status(who, status);
        state.due.extend(freed);
        self.emit(&mut state).await;
        drop(state);
        self.changed.notify_one();
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

/// Surfaces what was held long enough.
pub(super) async fn run(services: Arc<Services>) {
    let surfacer = &services.surfacer;
    loop {
        let deadline = {
            let mut state = surfacer.state.lock().await;
            let now = surfacer.tick();
            let turn = state.book.poll(now);
            state.in_turn(turn);
            surfacer.emit(&mut state).await;
            let hold = state.book.next_deadline();
            let hold = hold.map(|at| Duration::from_millis(at.saturating_sub(surfacer.tick())));
            let left = !state.due.is_empty() || !state.swallowed.is_empty();
            if left { Some(RETRY) } else { hold }
        };
        let sleep = async {
            match deadline {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = surfacer.changed.notified() => {}
        }
    }
}
