//! How one pair of meshwire nodes moves bytes: the net seam, links and the broker relay.
//!
//! | module | what it holds |
//! |---|---|
//! | [`net`] | the seam: sockets, clock, randomness |
//! | [`link`] | what every path can do with messages |
//! | [`relay`] | the path through the broker's WebSocket |
//! | [`stream`] | streams of bytes that survive a change of path |
//! | [`direct`] | what a technique for direct paths looks like |
//! | [`memory`] | a path within one process |
//! | [`conformance`] | the suite that every path passes |
//! | [`url`], [`dial`], [`tls`], [`http`] | a broker's address, connecting to it, calling its HTTP endpoints |
//! | [`queue`] | a queue that takes no room while it is empty |
//! | [`netcheck`] | what a network lets through |
//! | [`fault`] | where tests stop a process, to kill it there |

pub mod conformance;
pub mod dial;
pub mod direct;
pub mod fault;
pub mod http;
pub mod link;
pub mod memory;
pub mod net;
pub mod netcheck;
pub mod queue;
pub mod quic;
pub mod relay;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;
mod text;
pub mod tls;
pub mod url;
