//! A STUN and TURN server (RFC 8489, 8656, 5780) for the members of a mesh.
//!
//! [`core`] is the server without sockets and clock, [`TurnServer`] runs it.

pub mod addr_policy;
pub mod auth;
mod config;
pub mod core;
#[doc(hidden)]
pub mod fuzz;
mod io;
mod metrics;
mod quota;
pub mod stun;

pub use crate::core::Limits;
pub use addr_policy::{AddressPolicy, Cidr};
pub use auth::{Credentials, Kind, Member, Secret};
pub use config::{
    HostAddresses, PORT, PORTS, RelayAddress, STREAMS, TLS_PORT, TurnConfig, TurnError,
};
pub use io::{Listening, Snapshot, TurnServer};
pub use metrics::{Counters, Refused, Traffic};
