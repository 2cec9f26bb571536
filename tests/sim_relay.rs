//! The relay path over the virtual driver, in every preset: whatever the network does, each message
//! comes once, in order, and its sender learns of it.
//!
//! A failure names the preset and the seed, and how to repeat the run.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers panic, which is what they are for

#[path = "sim_relay/faults.rs"]
mod faults;
#[path = "sim_relay/herd.rs"]
mod herd;
#[path = "sim_relay/links.rs"]
mod links;
#[path = "sim_relay/town.rs"]
mod town;
#[path = "sim_relay/traces.rs"]
mod traces;
