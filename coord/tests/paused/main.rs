//! The broker under paused time, with in-memory pipes for sockets: what depends on minutes takes
//! milliseconds here.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod claims;
mod fair;
mod presence;
mod slow;
mod streams;
mod world;
