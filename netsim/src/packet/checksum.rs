//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).

use std::net::IpAddr;

/// Sum of 16-bit words, odd length padded with zero, not folded.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total = 0_u64;
    for word in words {
        // 2^16 ≡ 1 modulo 0xffff, so 32-bit words add up to the same folded sum.
        total += u64::from(u32::from_be_bytes(*word));
    }
    let mut tail = [0; 4];
    for (to, from) in tail.iter_mut().zip(rest) {
        *to = *from;
    }
    total + u64::from(u32::from_be_bytes(tail))
}

/// Adds the carries back in until 16 bits are left.
fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(u16::MAX)
}

/// Checksum of `bytes`; zero when they contain their own, right one.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Checksum of a transport header with its pseudo header (RFC 768, 9293, 8200 section 8.1). Zero when
/// `segment` contains its own, right one.
#[must_use]
pub fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let address = |a: IpAddr| match a {
        IpAddr::V4(a) => sum(&a.octets()),
        IpAddr::V6(a) => sum(&a.octets()),
    };
    let length = u64::try_from(segment.len()).unwrap_or(0);
    !fold(address(from) + address(to) + u64::from(protocol) + length + sum(segment))
}

/// What a checksum becomes when `old` turns into `new` (both of even length): HC' = ~(~HC + ~m + m').
#[must_use]
pub fn adjust(check: u16, old: &[u8], new: &[u8]) -> u16 {
    !fold(u64::from(!check) + u64::from(!fold(sum(old))) + sum(new))
}
