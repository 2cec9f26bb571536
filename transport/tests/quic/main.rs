//! QUIC over loopback with the system's sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod conformance;
mod connecting;
mod hostile;
mod keys;
mod simultaneous;
