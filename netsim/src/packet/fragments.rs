//! IPv4 fragmentation (RFC 791 section 3.2).

use super::build::put16;
use super::{View, checksum};

/// Splits a packet for a link that takes `mtu` bytes. A fragment can be split again. Empty when it
/// must not or cannot be split: IPv6, DF set, or not a packet.
#[must_use]
pub fn fragment(bytes: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let Ok(view) = View::parse(bytes) else { return Vec::new() };
    let header_len = view.ip.transport;
    let room = mtu.saturating_sub(header_len) / 8 * 8;
    let (Some(header), Some(payload)) =
        (bytes.get(..header_len), bytes.get(header_len..view.ip.end))
    else {
        return Vec::new();
    };
    if view.ip.dont_fragment || !view.ip.source.is_ipv4() || room == 0 {
        return Vec::new();
    }
    // IPv4 options are copied to every fragment; a receiver ignores those it needs not.
    let first = view.ip.fragment.map_or(0, |f| f.offset);
    let last_has_more = view.ip.fragment.is_some_and(|f| f.more);
    let count = payload.chunks(room).len();
    let mut offset = first / 8;
    let mut pieces = Vec::with_capacity(count);
    for (index, chunk) in payload.chunks(room).enumerate() {
        let more = last_has_more || index + 1 < count;
        let mut piece = Vec::with_capacity(header_len + chunk.len());
        piece.extend(header);
        put16(&mut piece, 2, u16::try_from(header_len + chunk.len()).unwrap_or(u16::MAX));
        let field = u16::try_from(offset).unwrap_or(0x1fff) & 0x1fff;
        put16(&mut piece, 6, field | if more { 0x2000 } else { 0 });
        put16(&mut piece, 10, 0);
        let check = checksum(&piece);
        put16(&mut piece, 10, check);
        piece.extend(chunk);
        pieces.push(piece);
        offset += u32::try_from(chunk.len() / 8).unwrap_or(0);
    }
    pieces
}

/// The packet that fragments were made of: the first one's header and the whole payload. None when it
/// is larger than a packet can be.
pub(crate) fn join(header: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
    let total = u16::try_from(header.len().checked_add(payload.len())?).ok()?;
    let mut packet = Vec::with_capacity(usize::from(total));
    packet.extend(header);
    put16(&mut packet, 2, total);
    put16(&mut packet, 6, 0);
    put16(&mut packet, 10, 0);
    let check = checksum(&packet);
    put16(&mut packet, 10, check);
    packet.extend(payload);
    Some(packet)
}

/// Lets routers fragment an IPv4 packet, under this identification.
pub(crate) fn allow_fragments(packet: &mut [u8], id: u16) {
    put16(packet, 4, id);
    put16(packet, 6, 0);
    put16(packet, 10, 0);
    let check = packet.get(..20).map_or(0, checksum);
    put16(packet, 10, check);
}
