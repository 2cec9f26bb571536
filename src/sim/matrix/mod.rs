//! The NAT matrix: two nodes behind every two kinds of routers, and the path that they get.
//!
//! ```text
//! cell ──► expected (pure: RFC 4787)  ─────────────► must
//!   └────► place ──► play: virtual world, TURN ────► got   ──► outcome
//! ```

mod all;
mod cell;
mod expect;
#[cfg(target_os = "linux")]
mod lab;
mod place;
mod play;
mod report;

pub use all::play_all;
pub use cell::{Cell, CellError, Families, Listener};
pub use expect::{Route, expected};
#[cfg(target_os = "linux")]
pub use lab::play_in_lab;
pub use play::{Outcome, Step, play};
pub use report::html;
