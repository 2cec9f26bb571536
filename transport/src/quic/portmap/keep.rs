//! A [`PortMapper`] with socket and clock.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::igd::{self, Grant};
use super::{LEAST_REST, Mapping, NoMapping, PORT, PortMapper};
use crate::net::{Datagram, Net, random};
use crate::quic::gather::{Gathered, Reflexive, Wanted};
use crate::quic::interfaces::{Interfaces, Router};

/// Rest after a socket's error, which could come again at once.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest answer, and one byte more, so that what is cut off shows.
const BUFFER: usize = super::MAX_ANSWER + 1;

/// Between two attempts by UPnP that fail.
const UPNP_REST: Duration = Duration::from_secs(600);
/// Longest attempt: a router that answers needs one or two seconds.
const UPNP_PATIENCE: Duration = Duration::from_secs(20);

/// The way to a router.
#[derive(Debug)]
pub(crate) struct Line {
    net: Arc<dyn Net>,
    socket: Box<dyn Datagram>,
    router: Router,
    internal: u16,
    mapper: PortMapper,
    upnp: Result<Grant, NoMapping>,
    /// When UPnP was tried last.
    upnp_asked: Instant,
    /// When it is tried (again), if the other protocols do not do.
    upnp_due: Instant,
}

impl Line {
    /// Begins to ask `router` for `internal`; without one, for the port of the very socket that asks.
    pub(crate) async fn open(
        net: Arc<dyn Net>,
        router: Router,
        internal: Option<u16>,
    ) -> io::Result<Self> {
        let socket = net.udp_bind(SocketAddr::new(router.own.into(), 0)).await?;
        let internal =
            internal.map_or_else(|| Ok(socket.local_addr()?.port()), Ok::<_, io::Error>)?;
        let now = net.now();
        let mapper = PortMapper::new(now, router.own, internal, random(&*net));
        let upnp = Err(NoMapping::Silent);
        Ok(Self { net, socket, router, internal, mapper, upnp, upnp_asked: now, upnp_due: now })
    }

    /// Sends what is due, and waits for an answer or the next deadline. May be dropped at any time.
    pub(crate) async fn step(&mut self) {
        self.send().await;
        self.wait().await;
    }

    async fn send(&mut self) {
        while let Some(request) = self.mapper.poll_transmit(self.net.now()) {
            // What is not sent is not answered.
            let _ = self.socket.send_to(&request, self.port()).await;
        }
    }

    async fn wait(&mut self) {
        let deadline = match self.needs_upnp() {
            true => self.mapper.deadline().min(self.upnp_due),
            false => self.mapper.deadline(),
        };
        let mut buf = [0; BUFFER];
        match timeout_at(deadline, self.socket.recv_from(&mut buf)).await {
            Ok(Ok((length, from))) if from == self.port() => {
                self.mapper.handle(self.net.now(), buf.get(..length).unwrap_or_default());
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(_)) => sleep(PAUSE).await,
        }
    }

    /// Where the router listens.
    fn port(&self) -> SocketAddr {
        SocketAddr::new(self.router.gateway.into(), PORT)
    }

    /// Whether the other protocols were tried and did not do.
    fn needs_upnp(&self) -> bool {
        !self.mapper.is_asking() && self.mapper.mapping(self.net.now()).is_err()
    }

    /// Asks again as soon as that is allowed, see [`PortMapper::refresh`].
    fn refresh(&mut self) {
        self.mapper.refresh();
        self.upnp_due = self.upnp_due.min(self.upnp_asked + LEAST_REST);
    }

    /// Tries UPnP, if that is due; takes at most [`UPNP_PATIENCE`].
    pub(crate) async fn upnp(&mut self) {
        if !self.needs_upnp() || self.net.now() < self.upnp_due {
            return;
        }
        // Set first: whoever drops this does not find it due at once.
        self.upnp_asked = self.net.now();
        self.upnp_due = self.upnp_asked + UPNP_REST;
        let last = self.upnp.as_ref().ok();
        let asking = igd::ask(&*self.net, self.router, self.internal, last);
        match timeout(UPNP_PATIENCE, asking).await.unwrap_or(Err(NoMapping::Silent)) {
            Ok(grant) => {
                let left = grant.mapping.until.saturating_duration_since(self.net.now());
                self.upnp_due = self.net.now() + left / 2;
                self.upnp = Ok(grant);
            }
            // What was granted holds until it ends.
            Err(_) if self.mapping().is_ok() => {}
            Err(why) => self.upnp = Err(why),
        }
    }

    /// The mapping that holds now, else why there is none.
    pub(crate) fn mapping(&self) -> Result<Mapping, NoMapping> {
        let now = self.net.now();
        let why = match self.mapper.mapping(now) {
            Err(why) => why,
            granted => return granted,
        };
        match &self.upnp {
            Ok(grant) if grant.mapping.until > now => Ok(grant.mapping),
            Err(also) if why == NoMapping::Silent => Err(*also),
            _ => Err(why),
        }
    }

    /// Asks once by each protocol until one does.
    pub(crate) async fn settle(&mut self) {
        loop {
            self.send().await;
            if !self.mapper.is_asking() {
                break;
            }
            self.wait().await;
        }
        self.upnp().await;
    }

    /// Gives the mapping back, without waiting for the router's word where none is needed.
    pub(crate) async fn release(self) {
        if let Some(request) = self.mapper.release() {
            let _ = self.socket.send_to(&request, self.port()).await;
        }
        if let Ok(grant) = &self.upnp {
            igd::release(&*self.net, grant).await;
        }
    }
}

/// Keeps the port of the node's IPv4 socket mapped, from the first attempt on that leaves this machine,
/// until the node is gone; if it is closed, the mapping is given back.
pub(in crate::quic) async fn keep(
    net: Arc<dyn Net>,
    interfaces: Arc<dyn Interfaces>,
    port: u16,
    wanted: Arc<Wanted>,
    known: Arc<watch::Sender<Gathered>>,
) {
    tokio::select! {
        biased;
        () = wanted.closing() => return,
        () = wanted.beyond() => {}
    }
    let mut changes = wanted.changes.subscribe();
    loop {
        changes.mark_unchanged();
        if let Some(router) = interfaces.router().await
            && let Ok(mut line) = Line::open(Arc::clone(&net), router, Some(port)).await
        {
            let base = SocketAddr::new(router.own.into(), port);
            let mut gathered = known.subscribe();
            loop {
                tokio::select! {
                    () = line.step() => {}
                    () = wanted.closing() => {
                        publish(&known, None);
                        return line.release().await;
                    }
                    changed = changes.changed() => {
                        if changed.is_err() { return }
                        break;
                    }
                    Ok(()) = gathered.changed() => {
                        let elsewhere = moved(&gathered.borrow_and_update(), base);
                        if elsewhere { line.refresh() }
                    }
                }
                tokio::select! {
                    () = line.upnp() => {}
                    () = wanted.closing() => {
                        publish(&known, None);
                        return line.release().await;
                    }
                    changed = changes.changed() => {
                        if changed.is_err() { return }
                        break;
                    }
                }
                let mapped = line.mapping().ok().map(|m| Reflexive { addr: m.external, base });
                publish(&known, mapped);
            }
            publish(&known, None);
        } else {
            tokio::select! {
                biased;
                () = wanted.closing() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn publish(known: &watch::Sender<Gathered>, mapped: Option<Reflexive>) {
    known.send_if_modified(|k| std::mem::replace(&mut k.mapped, mapped) != mapped);
}

/// Whether STUN servers see us at another address than the router maps: it has a new one.
fn moved(known: &Gathered, base: SocketAddr) -> bool {
    let outside: Option<IpAddr> = known.mapped.map(|m| m.addr.ip());
    let mut ours = known.reflexive.values().flatten().filter(|r| r.base == base);
    outside.is_some_and(|outside| ours.any(|r| r.addr.ip() != outside))
}
