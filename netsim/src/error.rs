//! Configurations that cannot be.

use std::net::IpAddr;

/// A configuration was refused. Each text says what would be valid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not a probability.
    #[error("{0} is not a probability; give a number from 0 to 1")]
    Chance(f64),
    /// Not a prefix.
    #[error("{0:?} is not a prefix; write it like 10.0.0.0/8, with no bits set behind the length")]
    Prefix(String),
    /// No preset of this name.
    #[error("there is no preset {0:?}; nearest is {1:?}, and all are: {2}")]
    Preset(String, &'static str, String),
    /// A link's rate of zero.
    #[error("a rate of 0 bit/s passes nothing; give a positive rate, or use LinkState::BlackHole")]
    Rate,
    /// A queue that holds not even one packet.
    #[error(
        "a queue of {queue} bytes holds no packet of the link's MTU of {mtu}; give at least that"
    )]
    Queue {
        /// The queue, in bytes.
        queue: u64,
        /// The link's MTU, in bytes.
        mtu: u32,
    },
    /// An MTU below what IP demands.
    #[error("an MTU of {0} is below IPv4's least of 68 bytes (RFC 791)")]
    Mtu(u32),
    /// A Gilbert–Elliott channel that never leaves its bad state or never enters it.
    #[error("a bursty link must be able to enter and to leave its bad state; give chances above 0")]
    Burst,
    /// A NAT without an outside address.
    #[error("a NAT needs at least one IPv4 address outside; give the router's uplink one")]
    NoExternalAddress,
    /// An empty range of ports.
    #[error("the port range {0}-{1} is empty; write the lower port first, from 1 on")]
    PortRange(u16, u16),
    /// Parity in a range of one port.
    #[error("port parity needs a range of at least two ports (RFC 4787, REQ-4)")]
    Parity,
    /// Overloading where inbound packets could not be told apart.
    #[error(
        "ports can be shared between destinations only where mapping and filtering are both \
         address-and-port-dependent: nothing else says to whom an inbound packet belongs"
    )]
    Overload,
    /// A limit of zero.
    #[error("a limit of 0 {0} lets nothing through; give at least 1")]
    ZeroLimit(&'static str),
    /// A subscriber's limit above what there is.
    #[error("a limit of {limit} ports per subscriber can never bind: there are {ports} ports")]
    LimitAboveRange {
        /// The limit that was given.
        limit: u32,
        /// Ports that there are for one subscriber.
        ports: u32,
    },
    /// A subscriber's limit with preserved ports.
    #[error(
        "port preservation with a limit of {0} ports per subscriber contradicts itself below 1024: \
         equipment that rations ports hands them out itself; use random or sequential ports"
    )]
    PreserveLimit(u32),
    /// A timeout of zero.
    #[error("a {0} timeout of 0 forgets every mapping at once; give a positive duration")]
    ZeroTimeout(&'static str),
    /// Two forwards of one outside port.
    #[error("port {0} is forwarded twice")]
    ForwardTwice(u16),
    /// A forward from an address that the NAT does not have.
    #[error("the forward of port {port} names outside address number {index}; there are {have}")]
    ForwardAddress {
        /// The outside port.
        port: u16,
        /// Which outside address, from 0.
        index: usize,
        /// How many there are.
        have: usize,
    },
    /// A 1:1 pair whose outside address the router does not have, or that occurs twice.
    #[error("1:1 translation: {0} must be one of the router's outside addresses, and occur once")]
    Pair(IpAddr),
    /// Two owners of an address in one network.
    #[error("{address} is taken in network {network:?}; each address has one owner per network")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The network's name.
        network: String,
    },
    /// A name that is used twice.
    #[error("the name {0:?} is used twice; traces and seeds go by name")]
    NameTaken(String),
    /// A handle that is none of this topology's.
    #[error("{0} is not part of this topology")]
    Unknown(&'static str),
    /// An interface without an address.
    #[error("{0:?} has an interface without an address; give it at least one")]
    NoAddress(String),
    /// A network behind a router that does not say which addresses are in it.
    #[error("network {0:?} is behind a router and needs a subnet; name it in Builder::segment")]
    NoSubnet(String),
    /// A network with two gateways.
    #[error("network {0:?} has two gateways; one router's inside is the way out of a network")]
    TwoGateways(String),
    /// A cycle of routers.
    #[error("router {0:?} has the same network inside and outside")]
    SameNetwork(String),
}
