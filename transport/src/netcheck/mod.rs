//! What a network lets through: `meshwire netcheck`.
//!
//! | module | what it holds |
//! |---|---|
//! | `discovery` | RFC 5780's tests of one address family, without sockets and clock |
//! | `facts` | what was found out |
//! | `verdict` | what that means for people |
//! | `wire` | the messages |
//! | `driver` | sockets and clock |
//! | `relay` | how far away a broker is |
//! | `mapping` | whether the router forwards ports |
//! | `proxy` | what the environment says of proxies |

mod discovery;
mod driver;
mod facts;
mod mapping;
mod proxy;
mod relay;
mod verdict;
mod wire;

use std::net::SocketAddr;

pub use discovery::{Discovery, MAX_REQUESTS, MAX_SERVERS, Socket, Transmit};
pub use driver::{probe, probe_all};
pub use facts::{Dependence, Family, PathMtu, Possible, Udp};
pub use mapping::{PortMapping, ask_router};
pub use proxy::{PROXY_VARIABLES, ProxyVar, proxies};
pub use relay::{Broker, PINGS, Relay, measure};
use serde::Serialize;
pub use verdict::{Reach, Verdict, judge};

/// STUN's port, where a broker's answers.
pub const STUN_PORT: u16 = 3478;

/// Everything that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The STUN servers that were asked.
    pub servers: Vec<SocketAddr>,
    /// IPv4.
    pub v4: Family,
    /// IPv6.
    pub v6: Family,
    /// Whether the router forwards a port to us; IPv4.
    pub port_mapping: PortMapping,
    /// Brokers.
    pub relays: Vec<Relay>,
    /// Proxies that the environment names.
    pub proxies: Vec<ProxyVar>,
}
