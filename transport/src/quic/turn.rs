//! Relayed addresses of TURN servers (RFC 8656), over the node's own sockets.
//!
//! `turn-client-proto` does the protocol: allocation, refresh, permissions, channels. It runs in a task
//! of its own, to which the socket hands what servers say; so whatever a server, or somebody who
//! pretends to be it, makes of that crate, only the relay is lost. Data of peers that have a channel
//! does not pass the task: its four bytes of framing are written and read here.
//!
//! A server allocates when the first attempt begins, and for as long as the node wants it. An
//! allocation that is gone does not say so: the server was restarted, or our router shows us to it by
//! another port. So when in doubt (new credentials, a new attempt, a peer that has fallen silent) we ask
//! for another one. The server refuses while the first one is there (437, RFC 8656 section 7.2); if it
//! does not, the new one takes its place.

mod permissions;
mod session;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use self::permissions::{Admission, Permissions};
use self::session::{Over, Published, Session, client};
use super::gather::{Gathered, Wanted};
use super::mux::Mux;
use super::routes::Id;
use super::servers::{Credentials, Scope};

/// Datagrams that wait for a relay's task.
const QUEUE: usize = 128;
/// Peers that have a channel.
const CHANNELS: usize = 256;
/// First and longest pause before a server that failed is asked again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// RFC 8656 section 12: channel numbers.
const NUMBERS: std::ops::RangeInclusive<u16> = 0x4000..=0x4fff;

/// A TURN server, and what lets us use it.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnServer {
    /// Its address, for UDP.
    pub addr: SocketAddr,
    /// User name, as the broker gave it.
    pub username: String,
    /// Password, as the broker gave it.
    pub password: String,
}

impl std::fmt::Debug for TurnServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TurnServer({}, {})", self.addr, self.username)
    }
}

/// What a relay's task is told.
#[derive(Debug)]
enum Told {
    /// The server says something.
    Server(Vec<u8>),
    /// A datagram for a peer that has no channel.
    Peer(SocketAddr, Vec<u8>),
}

#[derive(Debug, Default)]
struct Channels {
    numbers: HashMap<SocketAddr, u16>,
    peers: HashMap<u16, SocketAddr>,
}

/// A server with an allocation, or one in the making.
#[derive(Debug)]
pub(super) struct Relay {
    server: SocketAddr,
    local: SocketAddr,
    relayed: OnceLock<SocketAddr>,
    channels: RwLock<Channels>,
    permissions: Mutex<Permissions>,
    /// Of all meshes whose brokers name the server.
    credentials: watch::Receiver<Credentials>,
    task: mpsc::Sender<Told>,
}

impl Relay {
    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Our end of the way to the server; the system chooses the IP.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// The allocated address.
    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        self.relayed.get().copied()
    }

    /// Whether a mesh's broker names the server: nobody else's peers are its business.
    pub(super) fn serves(&self, scope: Scope) -> bool {
        self.credentials.borrow().contains_key(&scope)
    }

    fn permissions(&self) -> MutexGuard<'_, Permissions> {
        self.permissions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt is over: what was permitted for it alone is not kept.
    pub(super) fn release(&self, id: Id) {
        self.permissions().release(id);
    }

    /// What to send to the server for an attempt to reach a peer. None: it goes by the task, if at all.
    pub(super) fn wrap(&self, id: Id, peer: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        let admission = self.permissions().admit(id, peer.ip(), Instant::now());
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let length = u16::try_from(data.len()).ok()?;
        // A channel outlives its permission.
        let number = channels.numbers.get(&peer).filter(|_| admission != Admission::New);
        let Some(number) = number else {
            if admission != Admission::No {
                let _ = self.task.try_send(Told::Peer(peer, data.to_vec()));
            }
            return None;
        };
        let mut framed = Vec::with_capacity(data.len() + 4);
        framed.extend_from_slice(&number.to_be_bytes());
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(data);
        Some(framed)
    }

    /// A peer's datagram in what the server sent. None: it is for the task.
    pub(super) fn unwrap(&self, datagram: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        if let Some(([a, b, c, d], rest)) = datagram.split_first_chunk::<4>()
            && let number = u16::from_be_bytes([*a, *b])
            && NUMBERS.contains(&number)
        {
            let length = usize::from(u16::from_be_bytes([*c, *d]));
            let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(peer) = channels.peers.get(&number) {
                return Some((*peer, rest.get(..length)?.to_vec()));
            }
            // The task may not have told of it yet.
        }
        let _ = self.task.try_send(Told::Server(datagram.to_vec()));
        None
    }

    fn bound(&self, peer: SocketAddr, number: u16) {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        if channels.peers.len() < CHANNELS {
            channels.numbers.insert(peer, number);
            channels.peers.insert(number, peer);
        }
    }

    fn unbound(&self, peer: SocketAddr) {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = channels.numbers.remove(&peer) {
            channels.peers.remove(&number);
        }
    }
}

/// Keeps an allocation at one server, until it is aborted or the node closes; then it is given back.
/// There is one for all meshes: it is made with the first credentials that the server takes.
pub(super) async fn keep(
    mux: Weak<Mux>,
    server: watch::Receiver<Credentials>,
    wanted: Arc<Wanted>,
    known: Arc<watch::Sender<Gathered>>,
) {
    let mut pause = BACK_OFF.0;
    let started = Instant::now();
    let mut server = server;
    let mut doubts = wanted.doubts.subscribe();
    let mut ready = None;
    // Whose credentials are used, and how many have been refused in a row.
    let (mut scope, mut refused): (Scope, usize) = (None, 0);
    loop {
        tokio::select! {
            biased;
            () = wanted.closing() => return,
            () = wanted.relay() => {}
        }
        let all = server.borrow_and_update().clone();
        let Some((of, with)) = all.get_key_value(&scope).or_else(|| all.first_key_value()) else {
            return;
        };
        let (of, with) = (*of, with.clone());
        let Some(mux) = mux.upgrade() else { return };
        let Some(port) = mux.port(with.addr.ip()) else { return };
        let (task, told) = mpsc::channel(QUEUE);
        let local = SocketAddr::new(super::unspecified(with.addr.ip()), port);
        let relay = Arc::new(Relay {
            server: with.addr,
            local,
            relayed: OnceLock::new(),
            channels: RwLock::default(),
            permissions: Mutex::default(),
            credentials: server.clone(),
            task,
        });
        mux.routes.add_relay(&relay);
        let published = Published { relay, mux, known: Arc::clone(&known) };
        let session = match ready.take() {
            Some((client, relayed)) => {
                let session = Session::new(published, client, started, (of, with));
                session.allocated(relayed);
                session
            }
            None => {
                let client = client(&with, local);
                Session::new(published, client, started, (of, with))
            }
        };
        // A task, so that a panic stays in it. Whoever aborts us aborts it, too.
        let mut running = tokio::task::JoinSet::new();
        running.spawn(session.run(told, server.clone(), doubts.clone()));
        let over = tokio::select! {
            biased;
            over = running.join_next() => over.and_then(Result::ok).unwrap_or(Over::Failed),
            () = wanted.closing() => {
                running.shutdown().await;
                return;
            }
        };
        pause = match over {
            Over::Replaced(client, relayed, with) => {
                ready = Some((*client, relayed));
                scope = with;
                refused = 0;
                continue;
            }
            Over::Ended => {
                (scope, refused) = (of, 0);
                BACK_OFF.0
            }
            Over::Failed => {
                // Whoever gave false credentials for it does not keep the others from using it.
                let others = all.range((Bound::Excluded(of), Bound::Unbounded)).next();
                scope = others.or_else(|| all.first_key_value()).map_or(of, |(next, _)| *next);
                refused += 1;
                if refused < all.len() {
                    continue;
                }
                refused = 0;
                (pause * 2).min(BACK_OFF.1)
            }
        };
        // Who wants a relay now does not wait longer than the shortest pause.
        tokio::select! {
            biased;
            () = wanted.closing() => return,
            () = sleep(BACK_OFF.0) => {}
        }
        doubts.mark_unchanged();
        tokio::select! {
            biased;
            () = wanted.closing() => return,
            Ok(()) = server.changed() => {}
            Ok(()) = doubts.changed() => {}
            () = sleep(pause - BACK_OFF.0) => {}
        }
    }
}
