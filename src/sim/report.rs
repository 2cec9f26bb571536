//! How a run ended.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// Nodes that a lab runs, each a process: with more, a small machine is busy with them rather than with
/// their packets.
pub const MAX_LAB_NODES: usize = 50;

/// What runs a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverKind {
    /// In this process, in virtual time.
    Virtual,
    /// Programs in network namespaces.
    Lab,
}

impl DriverKind {
    /// Its word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Virtual => "virtual",
            Self::Lab => "lab",
        }
    }
}

/// An assertion, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Where it is written.
    pub line: usize,
    /// What it is about.
    pub name: String,
    /// What must be true.
    pub wanted: String,
    /// What is.
    pub got: String,
    /// Whether it is what was wanted.
    pub passed: bool,
}

/// How a run of one cell of a scenario ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The cell of its matrix: `preset=hotel`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cell: String,
    /// What ran it.
    pub driver: DriverKind,
    /// Everything random came from it.
    pub seed: u64,
    /// Whether everything that must be true is.
    pub passed: bool,
    /// What ended the timeline before its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// How long it took in its own time, in milliseconds, from the timeline's begin.
    pub took_ms: u64,
    /// Messages that were sent.
    pub sent: usize,
    /// Of those, the ones whose text arrived and whose receipt came back.
    pub delivered: usize,
    /// Packets that hosts sent, from the timeline's begin.
    pub packets: u64,
    /// Packets that went nowhere.
    pub dropped: u64,
    /// From the first message's sending to its arrival, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<u64>,
    /// Which way messages went between the nodes that the scenario asks about, each change.
    pub paths: Vec<PathChange>,
    /// The assertions.
    pub asserts: Vec<Row>,
}

/// Messages began to go another way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathChange {
    /// Who sends.
    pub from: String,
    /// Whom to.
    pub to: String,
    /// When, in milliseconds since the first message was sent.
    pub ms: u64,
    /// `direct`, `turn`, `relay`, or `none` while they wait.
    pub kind: &'static str,
}

/// Why a scenario could not be run. That an assertion does not hold is no error but a [`Report`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// A file that a run writes.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The driver cannot do what the scenario asks for.
    #[error("{0}")]
    Unable(String),
    /// Broker or nodes did not get as far as the timeline's begin.
    #[error("before the timeline began: {0}")]
    SetUp(String),
    /// The run broke off; a fault of meshwire or netsim.
    #[error("the run broke off: {0}")]
    Broken(String),
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a simulation that panicked said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the simulation panicked and says nothing").to_owned()
}
