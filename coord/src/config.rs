//! How a broker is set up, and why it did not start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshwire_signaling::frame::Limits;
use meshwire_signaling::limits::{DELIVERY_WINDOW, PRESENCE_LEASE};

use crate::store::StoreError;
use crate::turn::TurnDesk;

/// The database's name in the data folder.
pub(crate) const DATABASE_FILE: &str = "broker.db";
/// The broker's key's name in the data folder.
pub(crate) const KEY_FILE: &str = "broker.key";

/// Everything a broker is told.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where to listen; port 0 chooses a free one.
    pub listen: SocketAddr,
    /// How others reach it, if not at `listen`: what people are told to give to `mesh create`.
    pub public_url: Option<String>,
    /// Where key, certificate and database are kept; made if missing, for the owner only.
    pub data: PathBuf,
    /// The store.
    pub database: Database,
    /// How connections are protected.
    pub tls: Tls,
    /// Limits and rates.
    pub policy: Policy,
    /// Replaces the admin token by a new one.
    pub new_admin_token: bool,
    /// Who hands out TURN credentials; without, members are told of no servers.
    pub turn: Option<Arc<dyn TurnDesk>>,
}

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// `broker.db` in the data folder.
    Sqlite,
    /// Nothing survives the process.
    Memory,
}

/// How connections are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// None on loopback; elsewhere a self-signed certificate, pinned in invites and admin token.
    Auto,
    /// A certificate chain and key in PEM, that clients verify by their own roots.
    Files {
        /// The chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// None: a proxy in front ends TLS.
    BehindProxy,
}

/// Limits and rates, with their defaults.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Sends and other requests per second and member, sustained (design section 10).
    pub rate: u64,
    /// Changes that everybody in the mesh is told of, per second and member, sustained: each costs as
    /// much as the mesh has connections. 32 times as many may come at once.
    pub news: u64,
    /// Negotiation frames per second and member, sustained. 5 times as many may come at once.
    pub signals: u64,
    /// Bytes of records of streams per second and member, sustained. Who sends more is told later that they left.
    pub stream_rate: u64,
    /// Bytes of records of streams that wait for their recipients' sockets, altogether; for one sending member at most
    /// an eighth of what is free.
    pub stream_memory: u64,
    /// Envelopes pushed to one connection and not acked yet.
    pub window: usize,
    /// Connections per mesh (design section 10).
    pub sockets_per_mesh: usize,
    /// Connections altogether, handshakes included.
    pub sockets: usize,
    /// Longest wait for connections to end at shutdown (inventory B-175).
    pub drain: Duration,
    /// How long an identity counts as there after it was last heard (inventory B-028).
    pub lease: Duration,
}

/// News at once, as a multiple of [`Policy::news`]: all of a node's sessions, several times over.
pub(crate) const NEWS_BURST: u64 = 32;

impl Default for Policy {
    fn default() -> Self {
        Self {
            rate: 1_000,
            news: 8,
            signals: 20,
            stream_rate: 1_000_000_000,
            stream_memory: 256 << 20,
            window: DELIVERY_WINDOW,
            sockets_per_mesh: 10_000,
            sockets: 20_000,
            drain: Duration::from_secs(10),
            lease: PRESENCE_LEASE,
        }
    }
}

impl Policy {
    /// What the hello ack advertises.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { rate: self.rate, window: self.window as u64, ..Limits::default() }
    }
}

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The socket's error.
        error: std::io::Error,
    },
    /// A file of the data folder cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: std::io::Error,
    },
    /// A key or certificate is not usable.
    #[error("TLS: {0}")]
    Tls(String),
    /// The database is not usable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The setup contradicts itself.
    #[error("{0}")]
    Config(String),
}

/// Faults that a test can switch on to see its checks fail. They exist in debug builds only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(debug_assertions), allow(dead_code))] // never made in release builds
pub(crate) enum Mutant {
    /// Commits do not wait for the disk.
    SyncOff,
    /// Answers go out before the commit.
    AckBeforeCommit,
    /// Every envelope is new.
    NoDedupe,
}

impl Mutant {
    /// The fault that `MESHWIRE_TEST_MUTANT` names.
    #[cfg(debug_assertions)]
    pub(crate) fn from_env() -> Option<Self> {
        match std::env::var("MESHWIRE_TEST_MUTANT").ok()?.as_str() {
            "sync-off" => Some(Self::SyncOff),
            "ack-before-commit" => Some(Self::AckBeforeCommit),
            "no-dedupe" => Some(Self::NoDedupe),
            _ => None,
        }
    }

    /// None: release builds have no faults to switch on.
    #[cfg(not(debug_assertions))]
    pub(crate) fn from_env() -> Option<Self> {
        None
    }
}

/// Features that `MESHWIRE_TEST_WITHOUT` (words with commas in between) holds back, so that a test can
/// play a broker from before them. In debug builds only.
pub(crate) fn withheld() -> Vec<String> {
    let without =
        if cfg!(debug_assertions) { std::env::var("MESHWIRE_TEST_WITHOUT").ok() } else { None };
    without.map(|w| w.split(',').map(str::to_owned).collect()).unwrap_or_default()
}
