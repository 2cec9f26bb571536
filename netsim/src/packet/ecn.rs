//! Explicit congestion notification: two bits of the IP header (RFC 3168 section 5).

use super::build::put16;
use super::{adjust, be16};

/// The ECN bits of a packet; 0 where there is no header.
#[must_use]
pub fn ecn(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & 3,
        [first, second, ..] if first >> 4 == 6 => second >> 4 & 3,
        _ => 0,
    }
}

/// Sets the ECN bits of a packet.
pub fn mark_ecn(packet: &mut [u8], bits: u8) {
    let Some([first, second]) = packet.first_chunk::<2>().copied() else { return };
    let bits = bits & 3;
    if first >> 4 == 4 {
        let marked = second & !3 | bits;
        if let Ok(check) = be16(packet, 10) {
            put16(packet, 10, adjust(check, &[first, second], &[first, marked]));
            put16(packet, 0, u16::from_be_bytes([first, marked]));
        }
    } else {
        put16(packet, 0, u16::from_be_bytes([first, second & !0x30 | bits << 4]));
    }
}
