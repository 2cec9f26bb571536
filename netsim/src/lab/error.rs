//! What can go wrong with a lab.

use std::io;

use super::check::Missing;
use super::expect::Mismatch;
use crate::error::ConfigError;

/// A lab could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The machine or the process cannot have a lab.
    #[error("{0}")]
    Missing(#[from] Missing),
    /// A call to the system failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was to be done.
        what: String,
        /// Why it was not.
        source: io::Error,
    },
    /// `ip` failed.
    #[error("`ip {command}` failed: {message}")]
    Ip {
        /// Its arguments.
        command: String,
        /// What it said.
        message: String,
    },
    /// A change or handle that the engine refuses.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// Processes that do not end.
    #[error("processes {0:?} inside the lab do not end, even by SIGKILL; look at them with `ps`")]
    Stubborn(Vec<u32>),
    /// There is no way between two hosts.
    #[error(
        "there is no way from {from} to any address of {to} but through its NAT; measure from the \
         host behind it, towards one that can be reached, such as one in a core network"
    )]
    NoWay {
        /// Who would measure.
        from: String,
        /// To whom.
        to: String,
    },
    /// Nothing comes through between two hosts.
    #[error(
        "none of {sent} probes from {from} to {to} came back ({arrived} arrived); there is a way, \
         but a link on it is down, a black hole, or loses everything"
    )]
    Unreachable {
        /// Who sent them.
        from: String,
        /// To whom.
        to: String,
        /// How many were sent.
        sent: u32,
        /// How many arrived.
        arrived: u32,
    },
    /// A link is not what was asked.
    #[error("{0}")]
    Mismatch(#[from] Mismatch),
    /// A program that a benchmark needs said something else than expected.
    #[error("{program}: {message}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// The thread that moves packets is gone.
    #[error("the lab has ended: its packet thread stopped; start another one")]
    Ended,
}

impl LabError {
    /// For `map_err`: what was to be done when an [`io::Error`] came.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what: what.into(), source }
    }
}
