//! TCP resets that a middlebox answers with.

use std::net::SocketAddr;

use super::{ACK, Build, RST, SYN, Transport, View, array, build};

/// The RST that answers a segment as a closed port would (RFC 9293 section 3.10.7.1); None for
/// anything but TCP, and for RSTs.
#[must_use]
pub fn tcp_reset(about: &[u8], view: &View) -> Option<Vec<u8>> {
    let Transport::Tcp { source, destination, flags } = view.transport else { return None };
    if flags & RST != 0 {
        return None;
    }
    let header: [u8; 16] = array(about, view.ip.transport).ok()?;
    let word =
        |i: usize| u32::from_be_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let data = view.ip.end.saturating_sub(view.ip.transport + usize::from(header[12] >> 4) * 4);
    let consumed = u32::try_from(data).unwrap_or(0) + u32::from(flags & SYN != 0);
    let (flags, sequence, acknowledge) = if flags & ACK != 0 {
        (RST, word(8), 0)
    } else {
        (RST | ACK, 0, word(4).wrapping_add(consumed))
    };
    Some(build(
        SocketAddr::new(view.ip.destination, destination),
        SocketAddr::new(view.ip.source, source),
        Build::Tcp { flags, sequence, acknowledge, window: 0, payload: &[] },
    ))
}
