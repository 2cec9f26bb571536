//! What the node knows of its own addresses, kept up to date for all attempts.
//!
//! The machine's interfaces come from the provider. The address that the world sees is asked of STUN
//! servers when an attempt begins and the last answer is older than [`FRESH`]; nothing is sent while
//! nobody wants to connect. Both sockets ask every server, so that a NAT that makes a mapping per
//! destination shows.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::candidates::{Interface, MAX_REFLEXIVE, refusal};
use super::interfaces::Interfaces;
use super::mux::Mux;
use super::routes::Stun;
use super::servers::Scope;
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
/// STUN servers, and for which meshes they are asked.
pub(super) type Asked = BTreeMap<SocketAddr, BTreeSet<Scope>>;

/// Answers that wait: one of each server.
const INBOX: usize = 32;

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
    /// What STUN servers saw, by the mesh whose broker named them: others need not believe it.
    pub(super) reflexive: BTreeMap<Scope, BTreeSet<Reflexive>>,
    /// What the router forwards.
    pub(super) mapped: Option<Reflexive>,
    pub(super) relays: Vec<Arc<Relay>>,
}

impl Gathered {
    /// The relays for a mesh's attempts.
    pub(super) fn relays(&self, scope: Scope) -> impl Iterator<Item = &Arc<Relay>> {
        self.relays.iter().filter(move |relay| relay.serves(scope))
    }

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
    /// The network changed: ask all again.
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
    mut servers: watch::Receiver<Asked>,
    wanted: Arc<Wanted>,
    known: Arc<watch::Sender<Gathered>>,
) {
    let mut asked: Option<Instant> = None;
    let mut asking: Option<BoxFuture<'_, ()>> = None;
    loop {
        let round = async {
            match &mut asking {
                Some(asking) => asking.await,
                None => std::future::pending().await,
            }
        };
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
            changed = servers.changed() => {
                if changed.is_err() {
                    return;
                }
                // Answers of servers that stay hold on.
                let named: BTreeSet<Scope> =
                    servers.borrow_and_update().values().flatten().copied().collect();
                known.send_if_modified(|k| {
                    let before = k.reflexive.len();
                    k.reflexive.retain(|scope, _| named.contains(scope));
                    k.reflexive.len() != before
                });
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
            () = round => {
                asking = None;
                continue;
            }
        }
        let Some(mux) = mux.upgrade() else { return };
        let all = servers.borrow().clone();
        asked = Some(Instant::now());
        asking = Some(Box::pin(ask(&*net, mux, all, &known)));
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

/// Waits for answers, and for no more when it is dropped.
struct Expecting {
    mux: Arc<Mux>,
    all: Vec<[u8; 12]>,
}

impl Drop for Expecting {
    fn drop(&mut self) {
        self.mux.routes.forget(&self.all);
    }
}

/// Asks every server, and notes each answer as it comes, for those meshes that ask that server.
async fn ask(net: &dyn Net, mux: Arc<Mux>, servers: Asked, known: &watch::Sender<Gathered>) {
    let mut open: Vec<([u8; 12], SocketAddr)> =
        servers.keys().map(|server| (random(net), *server)).collect();
    let (inbox, mut answers) = queue::channel(INBOX);
    for (transaction, _) in &open {
        mux.routes.expect(*transaction, &inbox);
    }
    let all = open.iter().map(|(t, _)| *t).collect();
    let Expecting { mux, .. } = &Expecting { mux, all };
    let start = Instant::now();
    let mut old = known.borrow().reflexive.clone();
    let mut answered: BTreeSet<Scope> = BTreeSet::new();
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
            let Some((server, found)) = take(&mut open, &answer) else { continue };
            let scopes = servers.get(&server).into_iter().flatten();
            answered.extend(scopes.clone());
            let Some(found) = found else { continue };
            for scope in scopes {
                if let Some(old) = old.get_mut(scope) {
                    old.remove(&found);
                }
                known.send_if_modified(|k| {
                    let seen = k.reflexive.entry(*scope).or_default();
                    // The port may be forwarded differently now; the newest word counts.
                    let room = seen.len() < MAX_REFLEXIVE;
                    room && seen.insert(found)
                });
            }
        }
        break;
    }
    // Somebody answered, and nobody sees us there any more.
    known.send_if_modified(|k| {
        let mut differs = false;
        for (scope, seen) in k.reflexive.iter_mut().filter(|(scope, _)| answered.contains(scope)) {
            let before = seen.len();
            seen.retain(|r| old.get(scope).is_none_or(|old| !old.contains(r)));
            differs |= seen.len() != before;
        }
        differs
    });
}

/// Who answers, of those that were asked, and the address in the answer if it is of any use.
fn take(
    open: &mut Vec<([u8; 12], SocketAddr)>,
    answer: &Stun,
) -> Option<(SocketAddr, Option<Reflexive>)> {
    let transaction = super::demux::transaction(&answer.bytes)?;
    // Whoever guesses a transaction must not move us: the server answers from where it was asked.
    let asked = open.iter().position(|(t, s)| *t == transaction && *s == answer.way.remote)?;
    let (_, server) = open.swap_remove(asked);
    let base = answer.way.local;
    let found = mapped_address(&answer.bytes).filter(|addr| {
        let useful = refusal(*addr, false).is_none() && addr.is_ipv4() == base.is_ipv4();
        useful && !base.ip().is_unspecified()
    });
    Some((server, found.map(|addr| Reflexive { addr, base })))
}
