//! A meshwire node: durable outbox and inbox, path choice, keys and the local API.

pub mod core;
pub mod store;
