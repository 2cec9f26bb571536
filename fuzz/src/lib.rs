//! What strangers can send, as functions of any bytes: fuzz targets.
//!
//! | target | what it feeds |
//! |---|---|
//! | `demux` | what one datagram at a node's socket is |
//! | `stun` | STUN and TURN messages, and their framing on streams |
//! | `turn_server` | a whole TURN server with clients that have credentials |
//! | `frames` | frames between node and broker, in both encodings |
//! | `offers` | steps of a negotiation: sealed, signed, and what they hold |
//! | `candidates` | a peer's addresses, and the screen that they pass |
//! | `ice` | two ICE agents with a meddler between them |
//! | `link_frames` | frames of a message link over QUIC |
//! | `netcheck` | answers of STUN servers to `netcheck`'s questions |
//! | `port_mapper` | PCP and NAT-PMP answers of a router |
//! | `upnp` | its UPnP answers |
//! | `stream_wire` | opens, records and controls of streams, and what carries them through a broker |
//! | `streams` | two ends of a stream with a meddler on their links |
//!
//! A target panics where something does not hold: it panics itself, a bound of its state is passed, or
//! what was read is not written as it was. Most take their input apart into steps, so that cut, joined
//! and changed inputs stay meaningful.
//!
//! `tests/smoke.rs` plays each corpus (`corpora/TARGET/`) and a fixed number of seeded mutants of it;
//! `libfuzzer/` has the same targets for cargo-fuzz. CONTRIBUTING.md says how to run them for long.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a fuzz target fails by panicking")]

mod mutate;
mod steps;
mod targets {
    pub(crate) mod candidates;
    pub(crate) mod demux;
    pub(crate) mod frames;
    pub(crate) mod netcheck;
    pub(crate) mod offers;
    pub(crate) mod port_mapper;
    pub(crate) mod streams;
    pub(crate) mod stun;
}

use std::path::PathBuf;

pub use mutate::mutant;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Takes any bytes; panics where something does not hold.
    pub run: fn(&[u8]),
    /// Mutants that the smoke run plays: some seconds in a debug build at most.
    pub mutants: u64,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "demux", run: targets::demux::run, mutants: 50_000 },
    Target { name: "stun", run: targets::stun::run, mutants: 50_000 },
    Target { name: "turn_server", run: turn_server, mutants: 5_000 },
    Target { name: "frames", run: targets::frames::run, mutants: 20_000 },
    Target { name: "offers", run: targets::offers::run, mutants: 1_000 },
    Target { name: "candidates", run: targets::candidates::run, mutants: 20_000 },
    Target { name: "ice", run: ice, mutants: 10_000 },
    Target {
        name: "link_frames",
        run: meshwire_transport::quic::fuzz::link_frames,
        mutants: 50_000,
    },
    Target { name: "netcheck", run: targets::netcheck::run, mutants: 3_000 },
    Target { name: "port_mapper", run: targets::port_mapper::run, mutants: 20_000 },
    Target { name: "stream_wire", run: targets::streams::wire, mutants: 50_000 },
    Target { name: "streams", run: targets::streams::machine, mutants: 2_000 },
    Target { name: "upnp", run: meshwire_transport::quic::portmap::fuzz::upnp, mutants: 20_000 },
];

fn turn_server(data: &[u8]) {
    meshwire_turn::fuzz::run(data);
}

fn ice(data: &[u8]) {
    meshwire_transport::quic::fuzz::ice(data);
}

/// Runs the target of a name.
///
/// # Panics
/// There is none, or something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = Target::named(name).expect("a target of this name");
    (target.run)(data);
}

impl Target {
    /// The target of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Where its corpus is.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpora").join(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(target: &str, file: &str) -> Vec<u8> {
        std::fs::read(Target::named(target).unwrap().folder().join(file)).unwrap()
    }

    /// A corpus that reaches nothing tests nothing.
    #[test]
    fn corpora_reach_what_they_are_for() {
        assert!(
            meshwire_transport::quic::fuzz::ice(&input("ice", "connects")),
            "a pair of addresses"
        );
        for file in ["offer", "answer", "candidate", "bye", "offer-of-a-session"] {
            for how in 0..2 {
                assert!(
                    targets::offers::reach(&input("offers", &format!("{file}-{how}"))),
                    "{file}"
                );
            }
        }
        assert!(targets::port_mapper::reach(&input("port_mapper", "pcp")) >= 2);
        assert!(targets::port_mapper::reach(&input("port_mapper", "pmp")) >= 2);
        let found = targets::netcheck::reach(&input("netcheck", "open"));
        assert!(found.mapped.is_some() && found.two_addresses, "{found:?}");
        let came = targets::streams::play(&input("streams", "both-ways-and-a-lost-link"));
        assert!(came.read > 100_000 && came.ended == 2, "{came:?}");
        let whole = meshwire_turn::fuzz::run(&input("turn_server", "whole"));
        assert!(whole.relayed && whole.channels == 1, "{whole:?}");
        let full = meshwire_turn::fuzz::run(&input("turn_server", "three-clients"));
        assert_eq!(full.allocations, 3);
    }
}
