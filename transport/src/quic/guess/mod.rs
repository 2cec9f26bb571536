//! Guessing ports: a direct path between a router whose port is known and filters by port (the *easy*
//! side) and one with another random port for each destination (the *hard* side).
//!
//! ```text
//!  hard                                                      easy
//!  448 sockets ── a probe each ──▶ known address ┐
//!                 448 ports of the router open   │  filtered, until ...
//!  one of them ◀── a probe every 5 ms, to random ports of the known IPv4 address ── its one socket
//!  the others are closed; ICE checks that pair, nominates it, and QUIC moves there
//! ```
//!
//! As with birthdays: 832 different ports of 64,512, of which 448 are open, all miss with e^−5.8, one in
//! 330.
//! Nobody waits for it: it begins when a connection through a TURN server is up, and the connection
//! moves when it has come true. Probes are ICE checks: who does not know the attempt's passwords can
//! neither make nor answer one.
//!
//! | module | what it holds |
//! |---|---|
//! | this one | who is who: pure functions |
//! | `plan` | which probe is sent when: state machines |
//! | `budget` | how much of it a node does |
//! | `run` | the tasks that send |
//! | `pair` | what one attempt knows and does about it |
//!
//! # What is known of the routers
//! A node sees its own router's mapping in the answers to checks that it sends from its socket to the
//! peer's relayed address: they name the port that the TURN server saw. The same as a STUN server saw:
//! it is known to everybody. Another one at the same IP: one per destination. Nothing else is asked.
//!
//! # Limits
//! - Both sides must say in signed steps that they take part: the easy one that its port is kept, the
//!   hard one that its ports are opened. Nobody else can start it. Nodes that hide their addresses, or
//!   keep to one UDP port (the hard side), do not.
//! - The easy side sends to the IPv4 address that the peer's signed candidates name as seen by a STUN
//!   server, and only if the peer's checks came to our relayed address from that IP: a member that lies about
//!   its address gets no probe sent. The address must be public and pass the
//!   [`super::candidates::Screen`].
//! - The hard side sends to one address: the one that the peer's candidates name, and from which the
//!   peer's checks came to our relayed address.
//! - A run of the easy side: 832 probes of about 100 bytes to as many ports, one per 5 ms. One of the
//!   hard side: 448 sockets, each of which sends three times. No answer is larger than its probe:
//!   nothing is amplified.
//! - One run at a time per node. The same peer again after ten minutes if it came to nothing, after
//!   one if it worked. In all (ports probed, and sockets opened) 960 in five minutes, which is how long
//!   routers remember them, and 9,984 in an hour.
//! - It stops when a direct path is there or the attempt is over.
//!
//! What remains: the broker is the STUN and the TURN server. One that lies as both about a member's address
//! costs whoever is there a run's probes, within these limits.

mod budget;
mod pair;
mod plan;
mod run;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub(super) use budget::Guesses;
pub(super) use pair::{End, Guessing, Travel};
pub(super) use run::{Hit, Probe};

/// What a node says about its ports, signed, once a connection goes through a TURN server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Its router shows one port to everybody: it can guess the peer's.
    Kept,
    /// Its router shows another port to everybody. Many are open now to the peer's address.
    Opened,
}

/// How a router maps a socket to the outside (RFC 4787 section 4.1), as far as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mapping {
    /// The same port for two destinations at least.
    Same,
    /// Another port for another destination.
    PerDestination,
}

/// Who does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    /// Sends from its one socket to many ports.
    Easy,
    /// Opens many ports.
    Hard,
}

/// What a node does, from what it knows of its own router and what the peer says.
pub(super) fn side(own: Option<Mapping>, peer: Option<Ports>) -> Option<Side> {
    match (own?, peer?) {
        (Mapping::Same, Ports::Opened) => Some(Side::Easy),
        (Mapping::PerDestination, Ports::Kept) => Some(Side::Hard),
        // Two known ports need no guessing; with two unknown ones it would take 2^32 tries.
        (Mapping::Same, Ports::Kept) | (Mapping::PerDestination, Ports::Opened) => None,
    }
}

/// What an answer to a check says of our router: `local` sent it, `seen` is where it was seen to come
/// from, `reflexive` is what STUN servers saw.
pub(super) fn mapping(
    local: SocketAddr,
    reflexive: &[SocketAddr],
    seen: SocketAddr,
) -> Option<Mapping> {
    if seen == local || reflexive.contains(&seen) {
        return Some(Mapping::Same);
    }
    // Another IP is another router, or another of its addresses.
    let here = reflexive.iter().any(|r| r.ip() == seen.ip());
    here.then_some(Mapping::PerDestination)
}

/// Whether ports of an address may be guessed at all: one that the internet routes.
pub(super) fn is_public(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V4(ip) = ip else { return None };
    let carrier = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    let inside = ip.is_private() || ip.is_loopback() || ip.is_link_local() || carrier;
    let nobody = ip.is_multicast() || ip.octets()[0] == 0 || ip.octets()[0] >= 240;
    (!inside && !nobody).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_does_what() {
        let rows = [
            (None, None, None),
            (None, Some(Ports::Kept), None),
            (None, Some(Ports::Opened), None),
            (Some(Mapping::Same), None, None),
            (Some(Mapping::Same), Some(Ports::Kept), None),
            (Some(Mapping::Same), Some(Ports::Opened), Some(Side::Easy)),
            (Some(Mapping::PerDestination), None, None),
            (Some(Mapping::PerDestination), Some(Ports::Kept), Some(Side::Hard)),
            (Some(Mapping::PerDestination), Some(Ports::Opened), None),
        ];
        for (own, peer, expected) in rows {
            assert_eq!(side(own, peer), expected, "{own:?} {peer:?}");
        }
    }

    #[test]
    fn what_an_answer_says_of_the_router() {
        let local = at("10.0.1.2:4000");
        let stun = [at("198.51.100.7:4000")];
        let rows = [
            (&stun[..], "198.51.100.7:4000", Some(Mapping::Same)),
            (&stun, "198.51.100.7:4001", Some(Mapping::PerDestination)),
            (&stun, "198.51.100.8:4000", None),
            (&[], "198.51.100.7:4000", None),
            (&[], "10.0.1.2:4000", Some(Mapping::Same)),
        ];
        for (stun, seen, expected) in rows {
            assert_eq!(mapping(local, stun, at(seen)), expected, "{stun:?} {seen}");
        }
    }

    #[test]
    fn only_addresses_that_the_internet_routes_are_guessed_at() {
        let public = ["198.51.100.7", "100.63.0.1", "100.128.0.1", "11.0.0.1", "223.255.255.1"];
        let others = [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.254",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "0.1.2.3",
            "2001:db8::1",
            "::1",
            "::ffff:198.51.100.7",
        ];
        for ip in public {
            assert!(is_public(ip.parse().unwrap()).is_some(), "{ip}");
        }
        for ip in others {
            assert_eq!(is_public(ip.parse().unwrap()), None, "{ip}");
        }
    }
}
