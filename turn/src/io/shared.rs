//! What all tasks share, and what is done with the core's decisions.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwire_transport::net::Net;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::Snapshot;
use super::burst::{Burst, with_burst};
use super::open;
use super::places::Places;
use super::socket::Udp;
use super::stream::Stream;
use crate::config::TurnConfig;
use crate::core::{AllocationId, Delivery, Event, Flow, Now, Outcome, Server, Transport, Via};
use crate::metrics::Refused;

/// A relayed socket and how its task is told to end.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) socket: Arc<Udp>,
    pub(super) stop: Notify,
}

/// The core, with relayed sockets as its handles.
pub(super) type Core = Server<Arc<Relay>>;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) net: Arc<dyn Net>,
    pub(super) config: TurnConfig,
    pub(super) udp: Vec<Arc<Udp>>,
    /// Places for streams.
    pub(super) places: Arc<Places>,
    core: Mutex<Core>,
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    next_stream: AtomicU64,
    started: Instant,
    stop: watch::Sender<bool>,
    /// Each task holds a copy; gone once the server stops.
    alive: Mutex<Option<mpsc::Sender<()>>>,
    congested: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        net: Arc<dyn Net>,
        config: TurnConfig,
        core: Core,
        udp: Vec<Arc<Udp>>,
        alive: mpsc::Sender<()>,
    ) -> Self {
        let started = net.now();
        Self {
            net,
            udp,
            places: Places::new(config.streams),
            config,
            core: Mutex::new(core),
            streams: Mutex::new(HashMap::new()),
            next_stream: AtomicU64::new(0),
            started,
            stop: watch::Sender::new(false),
            alive: Mutex::new(Some(alive)),
            congested: AtomicU64::new(0),
        }
    }

    /// Runs a task that the shutdown waits for; none any more once it has begun.
    pub(super) fn spawn<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(alive) = lock(&self.alive).clone() else { return };
        let task = task(self.clone());
        tokio::spawn(async move {
            task.await;
            drop(alive);
        });
    }

    pub(super) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Tells all tasks to end.
    pub(super) fn stop(&self) {
        lock(&self.alive).take();
        self.stop.send_replace(true);
        self.with_core(|core, _| core.close());
    }

    pub(super) fn now(&self) -> Now {
        let tick = self.net.now().saturating_duration_since(self.started).as_millis();
        let tick = u64::try_from(tick).unwrap_or(u64::MAX);
        Now { tick, unix_ms: self.net.unix_ms() }
    }

    /// Runs `f` on the core and does what it leaves to be done.
    pub(super) fn with_core<T>(&self, f: impl FnOnce(&mut Core, Now) -> T) -> T {
        let now = self.now();
        let mut core = lock(&self.core);
        let result = f(&mut core, now);
        let mut events = Vec::new();
        while let Some(event) = core.poll_event() {
            events.push(event);
        }
        drop(core);
        for event in events {
            match event {
                Event::Closed { relay } => relay.stop.notify_one(),
                Event::Hangup { flow } => {
                    if let Some(stream) = self.stream(flow.id) {
                        stream.hang_up();
                    }
                }
            }
        }
        result
    }

    /// What a client sent. A burst is at hand because answers to many datagrams leave together.
    pub(super) fn client_sent(
        self: &Arc<Self>,
        now: Now,
        flow: &Flow,
        data: &[u8],
        burst: &mut Burst,
    ) {
        let mut core = lock(&self.core);
        let outcome = core.client_sent(now, flow, data);
        let event = core.poll_event();
        drop(core);
        if let Some(Event::Closed { relay }) = event {
            relay.stop.notify_one();
        }
        match outcome {
            Outcome::Nothing => {}
            Outcome::Reply(bytes, via) => self.reply(flow, via, &bytes, burst),
            Outcome::Open(wanted) => self.spawn(|shared| open::open(shared, wanted)),
            Outcome::ToPeer { relay, peer, data } => {
                burst.push(&relay.socket, peer, None, |out| out.extend(data));
            }
            Outcome::ToClient(delivery, data) => self.deliver(&delivery, data, burst),
        }
    }

    fn reply(&self, flow: &Flow, via: Via, bytes: &[u8], burst: &mut Burst) {
        let (index, local) = match via {
            Via::Same => (flow.id, flow.local),
            // The behaviour socket is the last one; the main one is the first.
            Via::Other if flow.id == 0 => (u64::MAX, None),
            Via::Other => (0, None),
        };
        match flow.transport {
            Transport::Udp => {
                let socket = match index {
                    u64::MAX => self.udp.last(),
                    index => usize::try_from(index).ok().and_then(|i| self.udp.get(i)),
                };
                if let Some(socket) = socket {
                    burst.push(socket, flow.client, local, |out| out.extend(bytes));
                }
            }
            Transport::Tcp | Transport::Tls => self.to_stream(flow.id, |out| out.extend(bytes)),
        }
    }

    pub(super) fn deliver(&self, delivery: &Delivery, data: &[u8], burst: &mut Burst) {
        let flow = &delivery.flow;
        match flow.transport {
            Transport::Udp => {
                let socket = usize::try_from(flow.id).ok().and_then(|i| self.udp.get(i));
                if let Some(socket) = socket {
                    burst.push(socket, flow.client, flow.local, |out| delivery.write(data, out));
                }
            }
            Transport::Tcp | Transport::Tls => {
                self.to_stream(flow.id, |out| delivery.write(data, out));
            }
        }
    }

    /// Where a peer's datagram goes.
    pub(super) fn peer_sent(
        &self,
        now: Now,
        id: AllocationId,
        peer: SocketAddr,
        length: usize,
    ) -> Option<Delivery> {
        lock(&self.core).peer_sent(now, id, peer, length)
    }

    /// Answers a client outside of any burst.
    pub(super) fn answer(&self, flow: &Flow, bytes: &[u8]) {
        self.burst(|burst| self.reply(flow, Via::Same, bytes, burst));
    }

    /// Runs `f` with a burst and counts what was lost.
    pub(super) fn burst(&self, f: impl FnOnce(&mut Burst)) {
        let lost = with_burst(f);
        if lost > 0 {
            self.congested.fetch_add(lost, Ordering::Relaxed);
        }
    }

    fn to_stream(&self, id: u64, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.stream(id).is_some_and(|stream| stream.push(write)) {
            self.congested.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn stream(&self, id: u64) -> Option<Arc<Stream>> {
        lock(&self.streams).get(&id).cloned()
    }

    /// Makes a stream known.
    pub(super) fn add_stream(&self) -> (u64, Arc<Stream>) {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(Stream::default());
        lock(&self.streams).insert(id, stream.clone());
        (id, stream)
    }

    /// A stream has ended.
    pub(super) fn remove_stream(&self, flow: &Flow) {
        lock(&self.streams).remove(&flow.id);
        self.with_core(|core, _| core.forget(flow));
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let (allocations, mut counters) =
            self.with_core(|core, _| (core.allocations(), core.counters().clone()));
        let congested = self.congested.load(Ordering::Relaxed);
        if congested > 0 {
            counters.refused.insert(Refused::Congested, congested);
        }
        let streams = lock(&self.streams).len();
        Snapshot { allocations, streams, counters }
    }
}
