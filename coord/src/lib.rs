//! The meshwire broker: signaling, discovery, presence and the offline queue.
//!
//! It coordinates and never reads: bodies are ciphertext to it, and members prove to each other who
//! they are without its word.
//!
//! ```text
//! serve ── http ── claim, preview, create        core/hello     who may come in
//!    └──── ws ──── one driver per connection     core/presence  who is there
//!                      │                         core/accept    what may be queued
//!                  writer (group commit)         core/claim     what is pushed to whom
//!                      │                         core/p2p       who may negotiate with whom
//!                      │                         core/rate      how fast
//!                  store: sqlite | memory
//! ```

pub mod core;
pub mod store;

mod backup;
mod check;
mod config;
mod health;
mod http;
mod metrics;
mod serve;
mod tls;
mod turn;
mod writer;
mod ws;

pub use backup::{Backup, backup};
pub use check::{Check, Outcome, check};
pub use config::{BrokerConfig, BrokerError, Database, Policy, Tls};
pub use serve::Broker;
pub use turn::{TurnDesk, TurnOffer};
