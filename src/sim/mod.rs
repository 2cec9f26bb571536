//! meshwire in the simulated Internet of `meshwire-netsim`.
//!
//! ```text
//! scenario (netsim) ──► run ── timeline, looks ──► facts ──► judge ──► report
//!                        └── driver: virtual_world in this process | programs in the lab
//! ```

pub mod matrix;
pub mod virtual_world;

mod books;
mod capture;
#[cfg(target_os = "linux")]
mod command;
mod driver;
mod facts;
#[cfg(target_os = "linux")]
mod in_lab;
mod in_virtual;
mod judge;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod program;
mod report;
mod run;

pub use facts::{Exit, Facts, LinkFact, PathFact, Sent};
#[cfg(target_os = "linux")]
pub use in_lab::in_lab;
pub use in_virtual::in_virtual;
pub use judge::{Judged, Verdict, judge};
pub use report::{DriverKind, MAX_LAB_NODES, PathChange, Report, Row, SimError};
pub use run::{Options, Teller};
