//! What the node knows of its own addresses, kept up to date for all attempts.
//!
//! The machine's interfaces come from the provider. The address that the world sees is asked of STUN
//! servers when an attempt begins and the last answer is older than [`FRESH`]; nothing is sent while
//! nobody wants to connect. Both sockets ask every server, so that a NAT that makes a mapping per
//! destination shows.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::candidates::{Interface, MAX_REFLEXIVE, refusal};
use super::interfaces::Interfaces;
use super::mux::Mux;
use super::routes::Stun;
use super::stun::{binding_request, mapped_address};
use super::turn::Relay;
use crate::net::{Net, random};
use crate::queue;

/// How long a STUN server's answer is taken for true. Mappings live for at least 30 s almost
/// everywhere, and checks of an attempt refresh them.
const FRESH: Duration = Duration::from_secs(15);
/// When a request is sent, and again without an answer (RFC 8489 section 6.2.1 begins with 500 ms,
/// which is long for a person who waits).
const TRIES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(150),
    Duration::from_millis(450),
    Duration::from_millis(1050),
    Duration::from_millis(2250),
];
/// No answer comes after this.
const PATIENCE: Duration = Duration::from_millis(3500);
/// Most STUN servers that are asked.
pub(super) const MAX_SERVERS: usize = 4;

/// An address of ours in the eyes of a STUN server, and the own one behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reflexive {
    pub(super) addr: SocketAddr,
    pub(super) base: SocketAddr,
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    pub(super) interfaces: Vec<Interface>,
    pub(super) reflexive: BTreeSet<Reflexive>,
    /// What the router forwards.
    pub(super) mapped: Option<Reflexive>,
    pub(super) relays: Vec<Arc<Relay>>,
}

impl Gathered {
    /// The broadcast addresses of our IPv4 networks.
    pub(super) fn broadcasts(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let addrs = self.interfaces.iter().flat_map(|i| &i.addrs);
        addrs.filter_map(|addr| match (addr.ip, addr.prefix) {
            (IpAddr::V4(ip), prefix @ 1..=30) => {
                let hosts = u32::MAX >> prefix;
                Some(Ipv4Addr::from_bits(ip.to_bits() | hosts).into())
            }
            _ => None,
        })
    }
}

/// What the gatherer is asked to do.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// An attempt begins.
    attempt: Notify,
    /// The network changed, or the servers did: ask all again.
    pub(super) afresh: Notify,
    /// A peer is not heard any more: perhaps our router has another address.
    pub(super) silence: Notify,
    /// Counts the moments at which a relay may have lost its allocation unnoticed.
    pub(super) doubts: watch::Sender<u64>,
    /// Counts changes of the interfaces.
    pub(super) changes: watch::Sender<u64>,
    /// There has been an attempt.
    any: watch::Sender<bool>,
    /// There has been one that leaves this machine.
    beyond: watch::Sender<bool>,
    /// The node closes: what others hold for it is given back.
    closes: watch::Sender<bool>,
}

impl Wanted {
    /// An attempt begins; `loopback`: to a peer on this machine, as far as anybody knows.
    pub(super) fn begin(&self, loopback: bool) {
        self.attempt.notify_one();
        self.doubt();
        self.any.send_replace(true);
        if !loopback {
            self.beyond.send_replace(true);
        }
    }

    /// Relays are to make sure of their allocations.
    pub(super) fn doubt(&self) {
        self.doubts.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Resolves when a port of the router is of use.
    pub(super) async fn beyond(&self) {
        // Ours is the sender, so there is one.
        let _ = self.beyond.subscribe().wait_for(|beyond| *beyond).await;
    }

    /// What others hold for the node is to be given back.
    pub(super) fn close(&self) {
        self.closes.send_replace(true);
    }

    /// Resolves when the node closes.
    pub(super) async fn closing(&self) {
        // Ours is the sender, so there is one.
        let _ = self.closes.subscribe().wait_for(|closes| *closes).await;
    }

    /// Resolves when relays are of use.
    pub(super) async fn relay(&self) {
        // Ours is the sender, so there is one.
        let _ = self.any.subscribe().wait_for(|any| *any).await;
    }
}

/// Runs until the node is gone.
pub(super) async fn gather(
    net: Arc<dyn Net>,
    mux: Weak<Mux>,
    interfaces: Arc<dyn Interfaces>,
    servers: watch::Receiver<Vec<SocketAddr>>,
    wanted: Arc<Wanted>,
    known: Arc<watch::Sender<Gathered>>,
) {
    let mut asked: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            () = wanted.afresh.notified() => {
                known.send_modify(|k| k.reflexive.clear());
                relist(&*interfaces, &known).await;
            }
            () = interfaces.changed() => {
                if !relist(&*interfaces, &known).await {
                    continue;
                }
                // What the old network's servers said does not hold in the new one.
                known.send_modify(|k| k.reflexive.clear());
                wanted.changes.send_modify(|count| *count += 1);
                if asked.is_none() {
                    continue;
                }
            }
            () = wanted.attempt.notified() => {
                if asked.is_some_and(|at| at.elapsed() < FRESH) {
                    continue;
                }
            }
            () = wanted.silence.notified() => {
                if asked.is_some_and(|at| at.elapsed() < PATIENCE) {
                    continue;
                }
            }
        }
        let Some(mux) = mux.upgrade() else { return };
        let all = servers.borrow().clone();
        asked = Some(Instant::now());
        ask(&*net, &mux, &all, &known).await;
    }
}

async fn relist(interfaces: &dyn Interfaces, known: &watch::Sender<Gathered>) -> bool {
    let now = interfaces.list().await;
    known.send_if_modified(|k| {
        let differs = k.interfaces != now;
        k.interfaces = now;
        differs
    })
}

/// Asks every server over every socket, and notes each answer as it comes.
async fn ask(net: &dyn Net, mux: &Mux, servers: &[SocketAddr], known: &watch::Sender<Gathered>) {
    let reachable = |server: &&SocketAddr| mux.port(server.ip()).is_some();
    let mut open: Vec<([u8; 12], SocketAddr)> = servers
        .iter()
        .filter(reachable)
        .take(MAX_SERVERS)
        .map(|server| (random(net), *server))
        .collect();
    let (inbox, mut answers) = queue::channel(16);
    for (transaction, _) in &open {
        mux.routes.expect(*transaction, &inbox);
    }
    let all: Vec<[u8; 12]> = open.iter().map(|(t, _)| *t).collect();
    let start = Instant::now();
    let mut old: BTreeSet<Reflexive> = known.borrow().reflexive.clone();
    'tries: for (n, after) in TRIES.iter().enumerate() {
        sleep_until(start + *after).await;
        for (transaction, server) in &open {
            mux.send(super::unspecified(server.ip()), *server, &binding_request(*transaction));
        }
        let until = start + TRIES.get(n + 1).copied().unwrap_or(PATIENCE);
        while !open.is_empty() {
            let Ok(Some(answer)) = timeout_at(until, answers.recv()).await else {
                continue 'tries;
            };
            if let Some(found) = take(&mut open, &answer) {
                old.remove(&found);
                known.send_if_modified(|k| {
                    // The port may be forwarded differently now; the newest word counts.
                    let room = k.reflexive.len() < MAX_REFLEXIVE;
                    room && k.reflexive.insert(found)
                });
            }
        }
        break;
    }
    mux.routes.forget(&all);
    if !open.is_empty() && open.len() == all.len() {
        return;
    }
    // Somebody answered, and nobody sees us there any more.
    known.send_if_modified(|k| {
        let before = k.reflexive.len();
        k.reflexive.retain(|r| !old.contains(r));
        k.reflexive.len() != before
    });
}

/// The address in an answer, if it is one that was asked for and is of any use.
fn take(open: &mut Vec<([u8; 12], SocketAddr)>, answer: &Stun) -> Option<Reflexive> {
    let transaction = super::demux::transaction(&answer.bytes)?;
    // Whoever guesses a transaction must not move us: the server answers from where it was asked.
    let asked = open.iter().position(|(t, s)| *t == transaction && *s == answer.way.remote)?;
    open.swap_remove(asked);
    let addr = mapped_address(&answer.bytes)?;
    let base = answer.way.local;
    let useful = refusal(addr, false).is_none() && addr.is_ipv4() == base.is_ipv4();
    (useful && !base.ip().is_unspecified()).then_some(Reflexive { addr, base })
}
