//! The kernel's NAT and the engine's, given the same packets: the same mappings, the same drops.
//!
//! Each script runs twice, once through a network namespace that routes between two TUN devices with
//! nftables, once through the engine. What comes out, or does not, is written down line by line, and
//! the lines must be equal. Where the engine differs on purpose, the test says what each of them does.
//!
//! Needs root, `ip` and `nft`. Without them the tests say why they do nothing, and fail if
//! `MESHWIRE_REQUIRE_LAB` is set.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test that cannot run says why")]

mod cones;
mod fragments;
mod icmp;
mod masquerade;
mod random;
mod rules;
mod script;
mod tcp;
mod timers;
mod wire;
mod world;
