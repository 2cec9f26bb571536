//! Which addresses the machine has, behind a trait, so that tests and simulated hosts have theirs.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use n0_watcher::Watcher as _;
use netwatch::interfaces::{HomeRouter, IpNet, State};
use netwatch::netmon::Monitor;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::candidates::{Interface, InterfaceAddr};

/// The router that may forward ports to this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Router {
    /// Its address.
    pub gateway: Ipv4Addr,
    /// Ours in its network.
    pub own: Ipv4Addr,
}

/// Tells of the machine's interfaces.
#[async_trait]
pub trait Interfaces: fmt::Debug + Send + Sync + 'static {
    /// All of them, now.
    async fn list(&self) -> Vec<Interface>;

    /// Resolves when something about them may have changed since the last [`Self::list`].
    async fn changed(&self);

    /// The router of the default route, if it has a private address: others forward nothing.
    async fn router(&self) -> Option<Router> {
        None
    }
}

/// An address that IPv6 has yet to make sure of (RFC 4862 section 5.4) is looked at again so often: the
/// monitor tells of it once, before it is of any use.
const SETTLE: Duration = Duration::from_millis(500);
/// How many times after a change: two seconds are usual. It takes longer where a cable is missing, and
/// that is a change of its own.
const SETTLES: u32 = 10;

/// The machine's own, by `netwatch`.
#[derive(Debug)]
pub struct OsInterfaces {
    monitor: Monitor,
    seen: Mutex<Seen>,
}

/// What was known when the list was last asked for.
#[derive(Debug)]
struct Seen {
    /// What the monitor said.
    state: State,
    /// How many more times the list is worth a look by itself.
    looks: u32,
}

impl OsInterfaces {
    /// Begins to watch.
    ///
    /// # Errors
    /// The system tells nobody of its routes.
    pub async fn watch() -> io::Result<Self> {
        let monitor = Monitor::new().await.map_err(io::Error::other)?;
        let seen = Mutex::new(Seen { state: monitor.interface_state().get(), looks: SETTLES });
        Ok(Self { monitor, seen })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Interfaces for OsInterfaces {
    async fn list(&self) -> Vec<Interface> {
        let said = self.monitor.interface_state().get();
        let state = State::new().await;
        let settling = state.interfaces.values().any(|i| i.addrs().any(|a| is_tentative(&a)));
        {
            let mut seen = self.seen();
            let looks = match seen.state == said {
                _ if !settling => 0,
                true => seen.looks.saturating_sub(1),
                false => SETTLES,
            };
            *seen = Seen { state: said, looks };
        }
        let mut all: Vec<&netwatch::interfaces::Interface> = state.interfaces.values().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        let all = all.into_iter().zip(1..).map(|(interface, index)| Interface {
            name: interface.name().to_owned(),
            index,
            up: interface.is_up(),
            loopback: interface.addrs().any(|a| a.addr().is_loopback()),
            // The library does not say; tunnels are known by their names.
            point_to_point: false,
            addrs: interface.addrs().filter_map(|addr| address(&addr)).collect(),
        });
        all.collect()
    }

    async fn changed(&self) {
        let mut state = self.monitor.interface_state();
        let mut now = state.get();
        loop {
            let again = {
                let seen = self.seen();
                if now != seen.state {
                    return;
                }
                seen.looks > 0
            };
            tokio::select! {
                updated = state.updated() => match updated {
                    Ok(updated) => now = updated,
                    Err(_) => break,
                },
                () = sleep(SETTLE), if again => return,
            }
        }
        // Nobody will say anything any more.
        std::future::pending().await
    }

    async fn router(&self) -> Option<Router> {
        default_router().await
    }
}

/// The router of this machine's default route, see [`Interfaces::router`].
pub async fn default_router() -> Option<Router> {
    // It reads files and asks the kernel.
    let found = tokio::task::spawn_blocking(HomeRouter::new).await.ok()??;
    match (found.gateway, found.my_ip?) {
        (IpAddr::V4(gateway), IpAddr::V4(own)) if gateway.is_private() => {
            Some(Router { gateway, own })
        }
        _ => None,
    }
}

/// Whether IPv6 has yet to make sure that nobody else has an address.
fn is_tentative(addr: &IpNet) -> bool {
    matches!(addr, IpNet::V6 { flags, .. } if flags.tentative && !flags.duplicated)
}

/// None for addresses that are not usable yet.
fn address(addr: &IpNet) -> Option<InterfaceAddr> {
    match addr {
        IpNet::V4(net) => Some(InterfaceAddr::stable(net.addr().into(), net.prefix_len())),
        IpNet::V6 { net, flags, .. } if !flags.tentative && !flags.duplicated => {
            Some(InterfaceAddr {
                ip: net.addr().into(),
                prefix: net.prefix_len(),
                deprecated: flags.deprecated,
                temporary: flags.temporary,
            })
        }
        IpNet::V6 { .. } => None,
    }
}

/// Given addresses, which change when they are told to.
#[derive(Debug, Default)]
pub struct FixedInterfaces {
    all: Mutex<Vec<Interface>>,
    router: Mutex<Option<Router>>,
    changed: Notify,
}

impl FixedInterfaces {
    /// One interface named `eth0` with these addresses, and loopback.
    #[must_use]
    pub fn new(addrs: impl IntoIterator<Item = IpAddr>) -> Self {
        let fixed = Self::default();
        fixed.set(addrs);
        fixed
    }

    /// Another router from now on, or none.
    pub fn set_router(&self, router: Option<Router>) {
        *self.router.lock().unwrap_or_else(PoisonError::into_inner) = router;
        self.changed.notify_one();
    }

    /// Other addresses from now on.
    pub fn set(&self, addrs: impl IntoIterator<Item = IpAddr>) {
        let whole = |ip: IpAddr| if ip.is_ipv4() { 24 } else { 64 };
        let interface = |name: &str, index, addrs: Vec<InterfaceAddr>| Interface {
            name: name.to_owned(),
            index,
            up: true,
            loopback: name == "lo",
            point_to_point: false,
            addrs,
        };
        let addrs = addrs.into_iter().map(|ip| InterfaceAddr::stable(ip, whole(ip)));
        let loopback = [IpAddr::from([127, 0, 0, 1])].map(|ip| InterfaceAddr::stable(ip, 8));
        let all =
            vec![interface("lo", 1, loopback.to_vec()), interface("eth0", 2, addrs.collect())];
        *self.all.lock().unwrap_or_else(PoisonError::into_inner) = all;
        self.changed.notify_one();
    }
}

#[async_trait]
impl Interfaces for FixedInterfaces {
    async fn list(&self) -> Vec<Interface> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn router(&self) -> Option<Router> {
        *self.router.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Machines differ; on none is it a public address, or our own.
    #[tokio::test]
    async fn the_default_router_is_in_a_private_network_or_not_known() {
        if let Some(Router { gateway, own }) = default_router().await {
            assert!(gateway.is_private() && gateway != own, "{gateway} {own}");
        }
    }
}
