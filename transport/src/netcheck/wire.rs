//! STUN as the tests need it (RFC 8489, and RFC 5780 sections 7.1 to 7.4).

use std::net::SocketAddr;

use crate::quic::demux::STUN_HEADER;
use crate::quic::stun::{self, binding_request, mapped_address};

const CHANGE_REQUEST: u16 = 0x0003;
const OTHER_ADDRESS: u16 = 0x802c;
/// No attribute that anybody knows. Servers must ignore such numbers from 0x8000 up (RFC 8489 section
/// 14). RFC 5780's PADDING would make some of them answer with as much, so that the way back would be
/// measured, too, and fragments would be taken for one packet.
const FILLER: u16 = 0xfffe;

/// Bytes of a request that carries nothing but filler.
pub(super) const LEAST_FILLED: usize = STUN_HEADER + 4;

const CHANGE_IP: u8 = 4;
const CHANGE_PORT: u8 = 2;

/// A Binding request.
pub(super) fn binding(transaction: [u8; 12]) -> Vec<u8> {
    binding_request(transaction).to_vec()
}

/// A Binding request that wants its answer from elsewhere.
pub(super) fn change(transaction: [u8; 12], address: bool, port: bool) -> Vec<u8> {
    let flags = if address { CHANGE_IP } else { 0 } | if port { CHANGE_PORT } else { 0 };
    with(transaction, CHANGE_REQUEST, &[0, 0, 0, flags])
}

/// A Binding request of so many bytes, at least [`LEAST_FILLED`]; a multiple of four.
pub(super) fn filled(transaction: [u8; 12], bytes: usize) -> Vec<u8> {
    with(transaction, FILLER, &vec![0; bytes.saturating_sub(LEAST_FILLED)])
}

/// `value` is a multiple of four bytes.
fn with(transaction: [u8; 12], kind: u16, value: &[u8]) -> Vec<u8> {
    let mut request = binding(transaction);
    let length = u16::try_from(value.len()).unwrap_or(0);
    request[2..4].copy_from_slice(&length.saturating_add(4).to_be_bytes());
    request.extend(kind.to_be_bytes());
    request.extend(length.to_be_bytes());
    request.extend(value.get(..usize::from(length)).unwrap_or_default());
    request
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A Binding request: one of ours, that went round by the router.
    Request,
    /// Where the server sees us, and where else it listens.
    Seen { mapped: SocketAddr, other: Option<SocketAddr> },
    /// The server refuses.
    Refused,
}

/// Reads a datagram: its transaction and what it says; none if it is no Binding message.
pub(super) fn read(datagram: &[u8]) -> Option<([u8; 12], Said)> {
    let header = datagram.first_chunk::<STUN_HEADER>()?;
    let [high, low, _, _, cookie @ ..] = header;
    if !cookie.starts_with(&stun::COOKIE.to_be_bytes()) {
        return None;
    }
    let transaction = crate::quic::demux::transaction(datagram)?;
    let said = match (high, low) {
        (0x00, 0x01) => Said::Request,
        (0x01, 0x11) => Said::Refused,
        (0x01, 0x01) => {
            let other = stun::attribute(datagram, OTHER_ADDRESS);
            let other = other.and_then(|value| stun::address(value, &[0; 16]));
            Said::Seen { mapped: mapped_address(datagram)?, other }
        }
        _ => return None,
    };
    Some((transaction, said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_have_the_right_lengths() {
        let change = change([7; 12], true, false);
        assert_eq!(change[2..4], [0, 8]);
        assert_eq!(change[20..], [0, 3, 0, 4, 0, 0, 0, 4]);
        for bytes in [LEAST_FILLED, 1200, 1472] {
            let filled = filled([7; 12], bytes);
            assert_eq!(filled.len(), bytes);
            let length = usize::from(u16::from_be_bytes([filled[2], filled[3]]));
            assert_eq!(length + STUN_HEADER, bytes);
        }
        assert_eq!(read(&change), Some(([7; 12], Said::Request)));
    }

    #[test]
    fn answers_tell_both_addresses() {
        let mut answer = binding([7; 12]);
        answer[..2].copy_from_slice(&[1, 1]);
        assert_eq!(read(&answer), None, "without an address");
        answer.extend([0x80, 0x2c, 0, 8, 0, 1, 0x0d, 0x97, 192, 0, 2, 9]);
        answer.extend([0, 1, 0, 8, 0, 1, 0x10, 0, 198, 51, 100, 7]);
        let (mapped, other) = ("198.51.100.7:4096".parse(), "192.0.2.9:3479".parse());
        let said = Said::Seen { mapped: mapped.unwrap(), other: Some(other.unwrap()) };
        assert_eq!(read(&answer), Some(([7; 12], said)));
        answer[1] = 0x11;
        assert_eq!(read(&answer), Some(([7; 12], Said::Refused)));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut answer = binding([7; 12]);
            answer[..2].copy_from_slice(&[1, 1]);
            answer.extend_from_slice(&bytes);
            let _ = (read(&answer), read(&bytes));
        }
    }
}
