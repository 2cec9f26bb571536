//! Direct paths through bad times, over the virtual driver: 500 messages a second go on while the path is
//! lost, comes back, moves and dies. Nothing is lost, doubled or reordered, nobody waits long, and
//! messages are direct again soon.
//!
//! A failure names the seed, and how to repeat the run.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers panic, which is what they are for

#[path = "sim_direct/broker.rs"]
mod broker;
#[path = "sim_direct/bulk.rs"]
mod bulk;
#[path = "sim_direct/losses.rs"]
mod losses;
#[path = "sim_direct/moves.rs"]
mod moves;
#[path = "sim_direct/streams.rs"]
mod streams;
#[path = "sim_direct/town.rs"]
mod town;
