//! Gives accepted messages their place in the order of surfacing, and tells of them.

use std::sync::Arc;

use meshwire_transport::net::Net;
use tokio::sync::{Mutex, Notify, broadcast};
use tokio::time::{Duration, Instant};

use super::events::Event;
use super::{Services, store_error};
use crate::api::ApiError;
use crate::core::order::{Bounds, OrderBook, Waiting};
use crate::store::PeerStore;

/// How long to wait after the store failed.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct State {
    book: OrderBook,
    /// Rows whose turn it is but which the store could not yet surface.
    due: Vec<i64>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Surfacer {
    net: Arc<dyn Net>,
    store: Arc<dyn PeerStore>,
    events: broadcast::Sender<Event>,
    start: Instant,
    /// Held across the store's call, so that surfacing keeps the book's order.
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
        let cursors = store.cursors().await.map_err(store_error)?;
        let held = store.held().await.map_err(store_error)?;
        let (book, due) = OrderBook::restore(Bounds::default(), cursors, held, 0);
        let start = net.now();
        let state = Mutex::new(State { book, due });
        let surfacer = Self { net, store, events, start, state, changed: Notify::new() };
        surfacer.emit(&mut *surfacer.state.lock().await).await;
        Ok(surfacer)
    }

    fn tick(&self) -> u64 {
        let since = self.net.now().saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes accepted rows; those whose turn it is surface before this returns.
    pub(crate) async fn offer(&self, rows: Vec<Waiting>) {
        let mut state = self.state.lock().await;
        let now = self.tick();
        for row in rows {
            let due = state.book.on_message(now, row);
            state.due.extend(due);
        }
        self.emit(&mut state).await;
        drop(state);
        self.changed.notify_one();
    }

    async fn emit(&self, state: &mut State) {
        if state.due.is_empty() {
            return;
        }
        match self.store.surface(&state.due, self.net.unix_ms()).await {
            Ok(rows) => {
                state.due.clear();
                for row in rows {
                    let _ = self.events.send(Event::Message(Box::new(row)));
                }
            }
            Err(e) => tracing::error!(error = %e, "surfacing failed; it will be tried again"),
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
            let due = state.book.poll(now);
            state.due.extend(due);
            surfacer.emit(&mut state).await;
            let hold = state.book.next_deadline();
            let hold = hold.map(|at| Duration::from_millis(at.saturating_sub(surfacer.tick())));
            if state.due.is_empty() { hold } else { Some(RETRY) }
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
