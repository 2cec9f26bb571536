//! The engine with real programs: network namespaces as hosts, TUN devices as their interfaces.
//!
//! [`Lab::start`] turns every host of a [`Builder`] into a network namespace that has `lo` and, for each
//! of the host's interfaces, a TUN device `eth0`, `eth1`… with its addresses. What a program inside
//! sends goes through the engine in real time, with the engine's NATs, firewalls and links; the kernel
//! impairs nothing. [`Lab::command`] runs any program as a host.
//!
//! It needs Linux, root and `ip`; [`check()`] says what is missing. Names of namespaces tell which
//! process made them: the next start, or [`sweep()`], removes what a killed lab left. Labs of several
//! processes do not disturb each other.
//!
//! ```no_run
//! use std::time::Duration;
//! use meshwire_netsim::lab::{Lab, LabError, Options};
//! use meshwire_netsim::{Builder, LinkConfig, Wire};
//!
//! # fn main() -> Result<(), LabError> {
//! let mut world = Builder::new(7);
//! let core = world.core("internet")?;
//! let far = Wire::both(LinkConfig::with_latency(Duration::from_millis(20)));
//! let (alice, server) = (world.host("alice")?, world.host("server")?);
//! world.attach(alice, core, &["198.51.100.2".parse().unwrap()], far)?;
//! world.attach(server, core, &["203.0.113.5".parse().unwrap()], Wire::default())?;
//!
//! let lab = Lab::start(world, Options::default())?;
//! lab.verify(alice, server, &lab.expected(alice, server)?)?; // 40 ms there and back
//! let mut iperf = lab.command(server, "iperf3")?.arg("-s").spawn().unwrap();
//! lab.command(alice, "iperf3")?.args(["-c", "server"]).status().unwrap();
//! # iperf.kill().unwrap();
//! lab.shutdown()
//! # }
//! ```

pub mod bench;
mod bulk;
pub mod check;
mod clock;
mod coalesce;
mod error;
mod expect;
mod instance;
mod measure;
pub mod namespace;
mod plan;
mod probe;
mod pump;
mod sweep;
pub mod tun;

use std::ffi::OsStr;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

pub use check::{Missing, Need, check};
pub use error::LabError;
pub use expect::{Expected, Fault, Mismatch, Way};
pub use probe::{Flow, Measured};
pub use pump::Strain;
pub use sweep::sweep;
pub use tun::Tun;

use self::bulk::Bulk;
use self::instance::Instance;
use self::plan::{Plan, Port};
use self::pump::{Interface, Pump};
use crate::change::Change;
use crate::engine::{Engine, Traffic};
use crate::error::ConfigError;
use crate::nat::MappingInfo;
use crate::pcap::Capture;
use crate::simnet::Recording;
use crate::time::Time;
use crate::topology::{Builder, HostId, IfaceId, RouterId};

/// How a lab is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What names resolve to on every host, as long as the lab runs. Hosts in a core network have
    /// theirs anyway, which follow changes of their addresses.
    pub names: Vec<(String, Vec<IpAddr>)>,
    /// A directory for capture files, one per host's interface: `alice-eth0.pcap`. It must exist.
    pub pcap: Option<PathBuf>,
}

/// A running lab. When it is dropped, everything that it made is gone, programs inside included.
pub struct Lab {
    hosts: Vec<Host>,
    /// Names that the caller gave.
    names: Arc<[(String, Vec<IpAddr>)]>,
    /// What the hosts' files of names hold.
    known: Mutex<String>,
    // Dropped in this order: devices, then what is left of the rest.
    pump: Pump,
    remains: Remains,
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab").field("name", &self.remains.0.to_string()).finish_non_exhaustive()
    }
}

struct Host {
    id: HostId,
    name: String,
    namespace: String,
}

/// What must be removed in the end.
struct Remains(Instance);

impl Remains {
    fn remove(&self) -> Result<(), LabError> {
        sweep::remove(|lab| *lab == self.0)
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        // Nobody is left to tell; the next start tries again.
        let _ = self.remove();
    }
}

impl Lab {
    /// Starts a world. Removes what killed labs left before.
    ///
    /// # Errors
    /// [`LabError::Missing`] where there can be no lab; [`LabError::Ip`] and [`LabError::System`] when
    /// the kernel refuses something. Nothing is left behind then.
    pub fn start(builder: Builder, options: Options) -> Result<Self, LabError> {
        check()?;
        sweep()?;
        let engine = builder.build();
        let instance = Instance::next().map_err(LabError::system("read /proc"))?;
        let remains = Remains(instance);
        let known = plan::hosts_file(&engine, &options.names);
        let (mut hosts, mut interfaces) = (Vec::new(), Vec::new());
        for (index, plan) in plan::plans(&engine).iter().enumerate() {
            let namespace = remains.0.namespace(index, &plan.name);
            namespace::add(&namespace, &known)?;
            interfaces.extend(settle(&namespace, plan, options.pcap.as_deref())?);
            hosts.push(Host { id: plan.host, name: plan.name.clone(), namespace });
        }
        let pump = Pump::start(engine, interfaces)
            .map_err(LabError::system("start the thread that moves packets"))?;
        let (names, known) = (options.names.into(), Mutex::new(known));
        Ok(Self { hosts, names, known, pump, remains })
    }

    fn host(&self, id: HostId) -> Result<&Host, LabError> {
        let found = self.hosts.iter().find(|h| h.id == id);
        found.ok_or_else(|| ConfigError::Unknown("this host").into())
    }

    /// A command that runs as this host, with its network, its /etc/hosts and nothing else of its own.
    /// It is a `std` one; tokio's is made `from` it. Programs that still run when the lab ends are
    /// ended by SIGKILL.
    ///
    /// # Errors
    /// [`LabError::Config`] for a handle of another engine.
    pub fn command(&self, host: HostId, program: impl AsRef<OsStr>) -> Result<Command, LabError> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.namespace(host)?]).arg(program);
        Ok(command)
    }

    /// The name of a host's network namespace, as `ip netns` knows it.
    ///
    /// # Errors
    /// [`LabError::Config`] for a handle of another engine.
    pub fn namespace(&self, host: HostId) -> Result<&str, LabError> {
        Ok(&self.host(host)?.namespace)
    }

    /// Runs `work` on a thread inside the host's namespace: sockets that it makes belong to the host,
    /// wherever they are used later.
    ///
    /// # Errors
    /// [`LabError::Config`] for a handle of another engine, [`LabError::System`].
    pub fn enter<T: Send>(
        &self,
        host: HostId,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        let name = self.namespace(host)?;
        namespace::inside(name, work).map_err(LabError::system(format!("enter namespace {name}")))
    }

    /// Changes the world. What a change means for the kernel follows: a host's addresses, what its name
    /// resolves to, its MTU, and that a link that goes down both ways takes the carrier away. Returns
    /// when the kernel acts accordingly, which may take a second for a carrier.
    ///
    /// # Errors
    /// As [`Engine::control`], then nothing has changed; [`LabError::Ip`].
    pub fn control(&self, change: Change) -> Result<(), LabError> {
        let iface = match &change {
            Change::Link { iface, .. }
            | Change::State { iface, .. }
            | Change::Address { iface, .. } => Some(*iface),
            _ => None,
        };
        let port = move |engine: &Engine| iface.and_then(|id| Port::of(engine, id));
        let (before, after) = self.pump.with(move |core| {
            let before = port(&core.engine);
            let now = core.now();
            core.engine.control(now, change).map(|()| (before, port(&core.engine)))
        })??;
        if let (Some(old), Some(new)) = (before, after) {
            old.become_new(&new, self.namespace(new.host)?)?;
            self.rename()?;
        }
        Ok(())
    }

    /// Lets names resolve to the addresses that hosts have now.
    fn rename(&self) -> Result<(), LabError> {
        let names = Arc::clone(&self.names);
        let text = self.inspect(move |engine| plan::hosts_file(engine, &names))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != text {
            self.hosts.iter().try_for_each(|host| namespace::rename(&host.namespace, &text))?;
            *known = text;
        }
        Ok(())
    }

    /// Looks into the engine: its books, mappings, its trace. Packets are the hosts' business.
    ///
    /// # Errors
    /// [`LabError::Ended`].
    pub fn inspect<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Engine) -> R + Send + 'static,
    ) -> Result<R, LabError> {
        self.pump.with(|core| f(&mut core.engine))
    }

    /// Keeps the trace from now on. There is one trace: this ends the one before.
    ///
    /// # Errors
    /// [`LabError::Ended`].
    pub fn record(&self) -> Result<Recording, LabError> {
        let recording = Recording::default();
        let hook = recording.hook();
        self.inspect(|engine| engine.set_trace(hook))?;
        Ok(recording)
    }

    /// What an interface carried; None for a handle of another engine.
    ///
    /// # Errors
    /// [`LabError::Ended`].
    pub fn traffic(&self, iface: IfaceId) -> Result<Option<Traffic>, LabError> {
        self.inspect(move |engine| engine.traffic(iface))
    }

    /// The live mappings of a router's NAT.
    ///
    /// # Errors
    /// [`LabError::Ended`].
    pub fn mappings(&self, router: RouterId) -> Result<Vec<MappingInfo>, LabError> {
        self.inspect(move |engine| engine.mappings(router))
    }

    /// The engine's time.
    ///
    /// # Errors
    /// [`LabError::Ended`].
    pub fn now(&self) -> Result<Time, LabError> {
        self.pump.with(|core| core.now())
    }

    /// What the machine did to packets beside the engine, since the start.
    ///
    /// # Errors
    /// [`LabError::Ended`], [`LabError::System`].
    pub fn strain(&self) -> Result<Strain, LabError> {
        let mut strain = self.pump.with(|core| core.strain)?;
        for host in &self.hosts {
            let table =
                self.enter(host.id, || std::fs::read_to_string("/proc/thread-self/net/dev"))?;
            let table = table.map_err(LabError::system("read /proc/thread-self/net/dev"))?;
            strain.overrun = strain.overrun.saturating_add(unsent(&table));
        }
        Ok(strain)
    }

    /// Writes what was captured so far to its files. It happens every second anyway, and at the end.
    ///
    /// # Errors
    /// [`LabError::Ended`].
    pub fn flush(&self) -> Result<(), LabError> {
        self.pump.with(|core| core.flush())
    }

    /// Ends programs inside the hosts and removes everything that the lab made, as dropping does, and
    /// says what could not be removed.
    ///
    /// # Errors
    /// [`LabError::Stubborn`] processes, [`LabError::System`].
    pub fn shutdown(mut self) -> Result<(), LabError> {
        self.pump.stop();
        self.remains.remove()
    }
}

/// Makes a host's devices and sets them up.
fn settle(namespace: &str, plan: &Plan, pcap: Option<&Path>) -> Result<Vec<Interface>, LabError> {
    let make = || {
        // Programs that are not root may ping, too.
        namespace::set("ipv4/ping_group_range", "0 2147483647")?;
        let open = |port: &Port| {
            let device = port.device();
            let tun = Bulk::open(&device)?;
            // No link-local addresses: the engine has none, and their router solicitations would be
            // traffic that nobody asked for.
            namespace::set(&format!("ipv6/conf/{device}/addr_gen_mode"), "1")?;
            for family in ["ipv4", "ipv6"] {
                let key = format!("{family}/conf/{device}/ignore_routes_with_linkdown");
                namespace::set(&key, "1")?;
            }
            // An address that goes away must not take its successor along.
            namespace::set(&format!("ipv4/conf/{device}/promote_secondaries"), "1")?;
            // Answers leave through the interface of their source, which need not be the first.
            namespace::set(&format!("ipv4/conf/{device}/rp_filter"), "0")?;
            Ok(tun)
        };
        plan.ports.iter().map(open).collect::<std::io::Result<Vec<Bulk>>>()
    };
    let tuns = namespace::inside(namespace, make)
        .and_then(|made| made)
        .map_err(LabError::system(format!("make the devices of host {:?}", plan.name)))?;
    namespace::configure(namespace, "link set lo up")?;
    plan.ports.iter().try_for_each(|port| port.set_up(namespace))?;
    let interface = |(port, tun): (&Port, Bulk)| {
        let capture = pcap.map(|dir| {
            // A host's name may not be fit for a file's.
            let name = format!("{}-{}.pcap", plan.name.replace('/', "_"), port.device());
            let path = dir.join(name);
            Capture::create(&path).map_err(LabError::system(format!("write {}", path.display())))
        });
        let capture = capture.transpose()?;
        Ok(Interface { host: port.host, iface: port.iface, tun, capture })
    };
    plan.ports.iter().zip(tuns).map(interface).collect()
}

/// Packets that the kernel dropped before we took them: the column `tx drop` of /proc/net/dev.
fn unsent(table: &str) -> u64 {
    let of = |line: &str| {
        let (device, numbers) = line.split_once(':')?;
        let drops = numbers.split_whitespace().nth(11)?;
        device.trim().starts_with("eth").then(|| drops.parse::<u64>().ok())?
    };
    table.lines().filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_kernels_table() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    \
                     lo:  1 2 3 4 5 6 7 8 9 10 11 99 13 14 15 16\n  \
                     eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\neth1: 0 0 0 0 0 0 0 0 0 0 0 1 0 0 0 0\n";
        assert_eq!(unsent(table), 13);
    }
}
