//! QUIC over loopback with the system's sockets.

mod common;
mod conformance;
mod connecting;
mod hostile;
mod keys;
