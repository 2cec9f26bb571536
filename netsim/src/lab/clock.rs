//! The system's clock, sockets and priorities, which the lab needs as they are: it measures what real
//! programs see.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

#[expect(clippy::disallowed_methods, reason = "the lab maps real time to the engine's")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Time since 1970, for capture files.
#[expect(clippy::disallowed_methods, reason = "capture files carry the time of day")]
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "probes go through the kernel's own sockets")]
pub(crate) fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(address)
}

/// How far before others the lab's own threads get the processor (setpriority(2)): what they do late,
/// programs see as latency of a link that nobody asked for. They need little of it.
const NICE: i32 = -15;

/// Lets the calling thread, and those that it starts, run before others. Where that is not allowed they
/// run as all others do.
pub(crate) fn hurry() {
    // On Linux this is the calling thread's alone.
    let _ = rustix::process::setpriority_process(None, NICE);
}
