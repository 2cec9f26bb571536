//! The server with sockets and clock.

mod burst;
mod open;
mod places;
mod shared;
mod socket;
mod stream;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshwire_transport::net::{Listener, Net};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::addr_policy::AddressPolicy;
use crate::auth::{Credentials, Member, Secret};
use crate::config::{TurnConfig, TurnError};
use crate::core::{Behaviour, Server, Setup, Transport};
use crate::metrics::Counters;
use shared::Shared;
use socket::Udp;

/// Longest sleep between looks at the deadlines. Shorter than the shortest lifetime, so that a
/// deadline which comes up meanwhile is never late.
const LOOK: Duration = Duration::from_secs(60);

/// How often this host's addresses are asked for: so long an address that it gets meanwhile is taken for
/// another's.
const HOST: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listening {
    /// Datagrams.
    pub udp: Vec<SocketAddr>,
    /// Streams.
    pub tcp: Vec<SocketAddr>,
    /// Streams within TLS.
    pub tls: Vec<SocketAddr>,
    /// The second socket of behaviour discovery.
    pub behaviour: Option<SocketAddr>,
}

/// What a server is doing and has done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Allocations now.
    pub allocations: usize,
    /// Streams now.
    pub streams: usize,
    /// Since the start.
    pub counters: Counters,
}

impl Snapshot {
    /// As OpenMetrics text: families named `turn_…`, without the `# EOF` at the end of a whole text.
    #[must_use]
    pub fn openmetrics(&self) -> String {
        crate::metrics::text::render(self)
    }
}

/// A running server. It stops when this is dropped; [`Self::shutdown`] waits for it.
#[derive(Debug)]
pub struct TurnServer {
    shared: Arc<Shared>,
    secret: Secret,
    listening: Listening,
    /// Ends when the last task has.
    ended: mpsc::Receiver<()>,
}

impl TurnServer {
    /// Binds everything and serves until it is told otherwise.
    ///
    /// # Errors
    /// [`TurnError`]: a configuration that contradicts itself, or an address that cannot be bound.
    pub async fn start(net: Arc<dyn Net>, config: TurnConfig) -> Result<Self, TurnError> {
        config.check()?;
        let mut listening = Listening::default();
        let mut udp = Vec::new();
        for addr in config.udp.iter().chain(&config.behaviour) {
            let socket = Udp::bind(&*net, *addr).await;
            let socket = socket.map_err(|error| TurnError::Bind { addr: *addr, error })?;
            listening.udp.push(socket.local_addr());
            udp.push(Arc::new(socket));
        }
        if config.behaviour.is_some() {
            listening.behaviour = listening.udp.pop();
        }
        let (tcp, at) = listen(&*net, &config.tcp).await?;
        listening.tcp = at;
        let (tls, at) = listen(&*net, &config.tls).await?;
        listening.tls = at;

        let other = udp.len().saturating_sub(1);
        let behaviour =
            listening.behaviour.zip(listening.udp.first()).map(|(other_at, main)| Behaviour {
                main: (0, config.public(*main)),
                other: (u64::try_from(other).unwrap_or(u64::MAX), config.public(other_at)),
            });
        let own = config.all_own(&host(&config).await.unwrap_or_default());
        let core = Server::new(Setup {
            secret: config.secret.clone(),
            policy: AddressPolicy { allow: config.allow.clone(), own },
            limits: config.limits,
            v4: config.relay.iter().any(|r| r.public.is_ipv4()),
            v6: config.relay.iter().any(|r| r.public.is_ipv6()),
            behaviour,
        });
        let secret = config.secret.clone();
        let acceptor = config.identity.clone().map(TlsAcceptor::from);
        let (alive, ended) = mpsc::channel(1);
        let shared = Arc::new(Shared::new(net, config, core, udp, alive));

        for index in 0..shared.udp.len() {
            shared.spawn(|shared| udp::serve(shared, index));
        }
        for listener in tcp {
            shared.spawn(|shared| stream::accept(shared, listener, Transport::Tcp, None));
        }
        for listener in tls {
            let acceptor = acceptor.clone();
            shared.spawn(|shared| stream::accept(shared, listener, Transport::Tls, acceptor));
        }
        shared.spawn(expire);
        if shared.config.host.is_some() {
            shared.spawn(follow_host);
        }
        Ok(Self { shared, secret, listening, ended })
    }

    /// Where it listens, with the ports that were chosen.
    #[must_use]
    pub fn listening(&self) -> &Listening {
        &self.listening
    }

    /// Credentials for a member, valid for `ttl` (at most [`MAX_TTL`](crate::auth::MAX_TTL)).
    #[must_use]
    pub fn credentials(&self, member: &Member, ttl: Duration) -> Credentials {
        self.secret.issue(member, ttl.as_secs(), self.shared.net.unix_ms())
    }

    /// Ends all allocations of a member (by id, whatever its kind) at once and voids all credentials
    /// that it has. Those made afterwards are good.
    pub fn delete_member(&self, id: &str) {
        self.shared.with_core(|core, now| core.delete_member(id, now));
    }

    /// Ends what was allocated with one credential, and voids it.
    pub fn revoke(&self, username: &str) {
        self.shared.with_core(|core, now| core.revoke(username, now));
    }

    /// What it is doing and has done.
    #[must_use]
    pub fn metrics(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Ends all allocations, closes all sockets and waits until that is done.
    pub async fn shutdown(mut self) {
        self.shared.stop();
        while self.ended.recv().await.is_some() {}
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

type Listeners = (Vec<Box<dyn Listener>>, Vec<SocketAddr>);

async fn listen(net: &dyn Net, addrs: &[SocketAddr]) -> Result<Listeners, TurnError> {
    let (mut listeners, mut at) = (Vec::new(), Vec::new());
    for addr in addrs {
        let bound = net.tcp_bind(*addr).await;
        let listener = bound.map_err(|error| TurnError::Bind { addr: *addr, error })?;
        at.push(listener.local_addr().unwrap_or(*addr));
        listeners.push(listener);
    }
    Ok((listeners, at))
}

/// This host's addresses of the moment, where the configuration has somebody to ask.
async fn host(config: &TurnConfig) -> Option<Vec<IpAddr>> {
    let host = config.host.clone()?;
    tokio::task::spawn_blocking(move || host.list()).await.ok()?
}

/// Keeps addresses out of reach that this host gets while the server runs.
async fn follow_host(shared: Arc<Shared>) {
    let mut stopping = shared.stopping();
    loop {
        tokio::select! {
            () = tokio::time::sleep(HOST) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        if let Some(host) = host(&shared.config).await {
            let own = shared.config.all_own(&host);
            shared.with_core(|core, _| core.set_own(own));
        }
    }
}

async fn expire(shared: Arc<Shared>) {
    let mut stopping = shared.stopping();
    loop {
        let next = shared.with_core(|core, now| {
            core.expire(now);
            core.next_deadline().map(|at| at.saturating_sub(now.tick))
        });
        let sleep = next.map_or(LOOK, |ms| Duration::from_millis(ms).min(LOOK));
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}
