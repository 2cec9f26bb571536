//! An Internet of NATs, firewalls and links in one process.
//!
//! The engine has no I/O and no clock: packets and times in, packets and times out, one seed for
//! everything random. Packets are raw IPv4 and IPv6, so that a TUN device can feed it as well as a
//! program under test. [`simnet`] runs tokio programs on it in virtual time.
//!
//! | module | what |
//! |---|---|
//! | [`topology`] | hosts, networks, routers and how they hang together: [`Builder`] |
//! | [`engine`], [`change`] | running it, and changing it while it runs: [`Engine`], [`Change`] |
//! | [`nat`] | translation: RFC 4787, 5382, 5508, 6888 |
//! | [`firewall`] | filtering: RFC 6092 |
//! | [`link`] | latency, jitter, loss, rate, reordering, duplication, corruption, MTU |
//! | [`preset`] | equipment that people have |
//! | [`packet`] | views, builders and checksums of raw packets |
//! | [`simnet`] | tokio programs as hosts, in one process and in virtual time |
//! | `lab` | any programs as hosts, in real time: namespaces and TUN devices (Linux) |
//! | [`mod@bench`] | how fast it is |
//! | [`trace`] | what happened to which packet, and the books |
//!
//! ```
//! use meshwire_netsim::packet::{Build, build};
//! use meshwire_netsim::{Builder, ConfigError, Preset, Time, Uplink, Wire};
//!
//! # fn main() -> Result<(), ConfigError> {
//! let ip = |text: &str| text.parse().expect("an address");
//! let mut world = Builder::new(7);
//! let core = world.core("internet")?;
//! let lan = world.segment("lan", &["192.168.1.0/24".parse()?])?;
//! let uplink =
//!     Uplink { net: core, addresses: &[ip("198.51.100.1")], routed: &[], wire: Wire::default() };
//! let router = world.router("home", Preset::PortRestricted.router(), &uplink)?;
//! world.inside(router, lan, &[ip("192.168.1.1")], &[], Wire::default())?;
//! let (alice, server) = (world.host("alice")?, world.host("server")?);
//! world.attach(alice, lan, &[ip("192.168.1.2")], Wire::default())?;
//! world.attach(server, core, &[ip("203.0.113.5")], Wire::default())?;
//!
//! let mut engine = world.build();
//! let from = "192.168.1.2:4000".parse().expect("an endpoint");
//! let to = "203.0.113.5:53".parse().expect("an endpoint");
//! engine.send(Time::ZERO, alice, build(from, to, Build::Udp(b"hello")));
//! let got = engine.poll(Time::ZERO).expect("a delivery");
//! assert_eq!(got.host, server);
//! # Ok(())
//! # }
//! ```

pub mod bench;
pub mod change;
pub mod dice;
pub mod engine;
pub mod error;
pub mod firewall;
mod hash;
#[cfg(target_os = "linux")]
pub mod lab;
pub mod link;
pub mod nat;
pub mod packet;
mod passage;
pub mod pcap;
pub mod prefix;
pub mod preset;
pub mod reason;
mod router;
pub mod scenario;
pub mod session;
pub mod simnet;
pub mod svg;
pub mod time;
pub mod topology;
pub mod trace;

pub use change::{Change, Direction};
pub use dice::Chance;
pub use engine::{Delivery, Engine, Traffic};
pub use error::ConfigError;
pub use firewall::FirewallConfig;
pub use link::{LinkConfig, LinkState};
pub use nat::{Napt, Nat, NatConfig};
pub use prefix::Prefix;
pub use preset::Preset;
pub use reason::Reason;
pub use router::RouterConfig;
pub use session::{Dependence, Lifetimes};
pub use time::Time;
pub use topology::{Builder, HostId, IfaceId, NetId, RouterId, Uplink, Wire};
pub use trace::{Event, Ledger, Trace};
