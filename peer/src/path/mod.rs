//! Which path a message takes, and when a direct one is sought, kept or given up (design section 6).
//!
//! | module | what it decides |
//! |---|---|
//! | [`select`] | which path a message takes now, and whether a direct one is wanted |
//! | [`machine`] | the life of one pair's direct path: negotiate, hold, renew, lose, seek again |
//! | [`backoff`] | how long to wait before the next try |
//! | [`hedge`] | which messages go over the relay as well because their ack is late |
//! | [`history`] | what happened to a pair, for those who ask why |
//! | [`tally`] | the same for all pairs, counted |
//!
//! Nothing here does I/O or reads a clock: facts, events and `now` go in, decisions and the next
//! deadline come out. The node's `paths` module drives it.

pub mod backoff;
pub mod hedge;
pub mod history;
pub mod machine;
pub mod select;
pub mod tally;

pub use hedge::Hedger;
pub use history::{Cause, Entry, History, What};
pub use machine::{Action, Event, Machine, Phase};
pub use select::{Choice, Facts, PathMode, Via, Why, select_path};
pub use tally::Tally;
