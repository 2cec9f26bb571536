//! Direct paths with a broker, or a member, that means ill, over the virtual driver: real nodes, and
//! between them and the real broker somebody who rewrites, swaps, replays, delays and invents the steps of
//! their negotiations. Nobody gets in the middle, and mail goes on.
//!
//! A failure names the seed, and how to repeat the run.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers panic, which is what they are for

#[path = "sim_hostile/broker.rs"]
mod broker;
#[path = "sim_hostile/meddler.rs"]
mod meddler;
#[path = "sim_hostile/member.rs"]
mod member;
#[path = "sim_hostile/town.rs"]
mod town;
