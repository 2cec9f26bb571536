//! STUN Binding (RFC 8489) to a server, for the address that the world sees: requests without
//! credentials, written and read by hand, for ICE's messages always have some.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::demux::STUN_HEADER;

pub(crate) const COOKIE: u32 = 0x2112_a442;
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const MAPPED_ADDRESS: u16 = 0x0001;

/// A Binding request.
#[must_use]
pub fn binding_request(transaction: [u8; 12]) -> [u8; STUN_HEADER] {
    let mut request = [0; STUN_HEADER];
    request[1] = 0x01;
    request[4..8].copy_from_slice(&COOKIE.to_be_bytes());
    request[8..].copy_from_slice(&transaction);
    request
}

/// The address in a Binding success response; XOR-MAPPED-ADDRESS, or else MAPPED-ADDRESS, which old
/// servers send.
#[must_use]
pub fn mapped_address(response: &[u8]) -> Option<SocketAddr> {
    let (header, mut rest) = response.split_first_chunk::<STUN_HEADER>()?;
    if header[..2] != BINDING_SUCCESS || header[4..8] != COOKIE.to_be_bytes() {
        return None;
    }
    let mut mask = [0; 16];
    mask.copy_from_slice(&header[4..]);
    let mut plain = None;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = tail.get(..length)?;
        match kind {
            XOR_MAPPED_ADDRESS => return address(value, &mask),
            MAPPED_ADDRESS => plain = address(value, &[0; 16]),
            _ => {}
        }
        rest = tail.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    plain
}

/// The first attribute of a kind in a message, its value without padding; nothing is checked but
/// lengths.
pub(crate) fn attribute(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(STUN_HEADER..)?;
    loop {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        let value = tail.get(..usize::from(u16::from_be_bytes([head[2], head[3]])))?;
        if u16::from_be_bytes([head[0], head[1]]) == wanted {
            return Some(value);
        }
        rest = tail.get(value.len().next_multiple_of(4)..)?;
    }
}

/// An address in an attribute, un-xored by `mask`.
pub(crate) fn address(value: &[u8], mask: &[u8; 16]) -> Option<SocketAddr> {
    let ([_, family, high, low], ip) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([high ^ mask[0], low ^ mask[1]]);
    let bytes: Vec<u8> = ip.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    let ip: IpAddr = match family {
        1 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?).into(),
        2 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 5769 sections 2.2 and 2.3, up to the attribute in question.
    #[test]
    fn rfc_5769_addresses() {
        let head = "010100002112a442b7e7a701bc34d686fa87dfae";
        let v4 = hex(&format!("{head}002000080001a147e112a643"));
        assert_eq!(mapped_address(&v4), Some("192.0.2.1:32853".parse().unwrap()));
        let v6 = hex(&format!("{head}002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"));
        let expected = "[2001:db8:1234:5678:11:2233:4455:6677]:32853";
        assert_eq!(mapped_address(&v6), Some(expected.parse().unwrap()));
    }

    #[test]
    fn a_plain_address_counts_only_without_the_other_one() {
        let head = "010100002112a442b7e7a701bc34d686fa87dfae";
        let plain = hex(&format!("{head}000100080001270ec0000209"));
        assert_eq!(mapped_address(&plain), Some("192.0.2.9:9998".parse().unwrap()));
        let both = hex(&format!("{head}000100080001270ec0000209002000080001a147e112a643"));
        assert_eq!(mapped_address(&both), Some("192.0.2.1:32853".parse().unwrap()));
    }

    fn hex(text: &str) -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2);
        pairs.map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut response = binding_request([7; 12]).to_vec();
            response[..2].copy_from_slice(&BINDING_SUCCESS);
            response.extend_from_slice(&bytes);
            let _ = mapped_address(&response);
            let _ = mapped_address(&bytes);
        }
    }
}
