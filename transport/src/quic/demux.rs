//! What one datagram is. QUIC, STUN and TURN share a port (RFC 7983, RFC 9443).
//!
//! | first byte | is |
//! |---|---|
//! | 0–3 | STUN, if the magic cookie (RFC 8489 section 5) follows |
//! | 64–79 | TURN ChannelData (RFC 8656 section 12.4) if a TURN server sent it, else QUIC |
//! | 64–255 | QUIC: with `grease_quic_bit` off, its fixed bit is always set |
//!
//! In a batch that the kernel put together (GRO) each datagram is for itself: a STUN message that is
//! shorter than the packets before it may be the last one of a batch of QUIC.

/// Bytes of a STUN header.
pub const STUN_HEADER: usize = 20;

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A STUN message, TURN's among them. Only its header has been looked at.
    Stun,
    /// ChannelData of a TURN server.
    Channel,
    /// A QUIC packet, as far as the first byte says.
    Quic,
    /// Nothing of ours.
    Other,
}

/// Says what a datagram is; `from_turn`: it comes from the address of a TURN server of ours.
#[must_use]
pub fn classify(datagram: &[u8], from_turn: bool) -> Kind {
    match datagram {
        [0..=3, _, _, _, cookie @ ..]
            if cookie.starts_with(&COOKIE) && datagram.len() >= STUN_HEADER =>
        {
            Kind::Stun
        }
        [64..=79, _, _, _, ..] if from_turn => Kind::Channel,
        [64..=255, ..] => Kind::Quic,
        _ => Kind::Other,
    }
}

/// A STUN message's 12-byte transaction id.
#[must_use]
pub fn transaction(stun: &[u8]) -> Option<[u8; 12]> {
    stun.get(8..STUN_HEADER)?.try_into().ok()
}

/// Whether a STUN message asks something (class request; RFC 8489 section 5).
#[must_use]
pub fn is_request(stun: &[u8]) -> bool {
    matches!(stun, [high, low, ..] if high & 0x01 == 0 && low & 0x10 == 0)
}

/// Whether a STUN message answers something (class success or error response).
#[must_use]
pub fn is_response(stun: &[u8]) -> bool {
    matches!(stun, [high, ..] if high & 0xc1 == 0x01)
}

/// The part of a STUN request's USERNAME before the colon: whose agent it is for (RFC 8445 section
/// 7.2.2). The message is otherwise unchecked.
#[must_use]
pub fn ufrag(stun: &[u8]) -> Option<&[u8]> {
    const USERNAME: [u8; 2] = [0, 6];
    let mut rest = stun.get(STUN_HEADER..)?;
    loop {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if head[..2] == USERNAME {
            let name = tail.get(..length)?;
            return name.split(|b| *b == b':').next();
        }
        rest = tail.get(length.next_multiple_of(4)..)?;
    }
}

/// The connection id that a QUIC packet is addressed to; `own` is how long ours are (RFC 8999, RFC 9000
/// section 17).
#[must_use]
pub fn destination_id(quic: &[u8], own: usize) -> Option<&[u8]> {
    match quic {
        [first, rest @ ..] if first & 0x80 == 0 => rest.get(..own),
        [_, _, _, _, _, length, rest @ ..] => rest.get(..usize::from(*length)),
        _ => None,
    }
}

/// The connection id that a QUIC packet of the handshake wants to be answered to.
#[must_use]
pub fn source_id(quic: &[u8]) -> Option<&[u8]> {
    match quic {
        [first, _, _, _, _, length, rest @ ..] if first & 0x80 != 0 => {
            let (length, rest) = rest.get(usize::from(*length)..)?.split_first()?;
            rest.get(..usize::from(*length))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stun(first: u8, length: usize) -> Vec<u8> {
        let mut message = vec![0; length];
        message[0] = first;
        message[4..8].copy_from_slice(&COOKIE);
        message
    }

    #[test]
    fn every_first_byte_has_its_place() {
        for first in 0..=255 {
            let datagram = stun(first, 20);
            let expected = |from_turn| match first {
                0..=3 => Kind::Stun,
                64..=79 if from_turn => Kind::Channel,
                64.. => Kind::Quic,
                _ => Kind::Other,
            };
            for from_turn in [false, true] {
                assert_eq!(classify(&datagram, from_turn), expected(from_turn), "{first}");
            }
        }
    }

    #[test]
    fn a_stun_message_has_its_cookie_and_a_whole_header() {
        assert_eq!(classify(&stun(0, 19), false), Kind::Other);
        assert_eq!(classify(&[0; 20], false), Kind::Other);
        assert_eq!(classify(&[], true), Kind::Other);
        assert_eq!(classify(&[64, 0, 0], true), Kind::Quic);
        assert_eq!(classify(&[64, 0, 0, 0], true), Kind::Channel);
    }

    #[test]
    fn the_user_of_a_request_is_found_behind_other_attributes() {
        let mut message = stun(0, 20);
        message.extend_from_slice(&[0x80, 0x22, 0, 3, b'x', b'y', b'z', 0]);
        message.extend_from_slice(&[0, 6, 0, 7]);
        message.extend_from_slice(b"here:yo\0");
        assert_eq!(ufrag(&message), Some(&b"here"[..]));
        assert!(is_request(&message));
        assert_eq!(ufrag(&message[..message.len() - 2]), None, "cut off");
        assert_eq!(ufrag(&message[..20]), None, "none");
    }

    #[test]
    fn responses_and_indications_are_no_requests() {
        for (kind, request) in
            [(0x0001_u16, true), (0x0011, false), (0x0101, false), (0x0111, false)]
        {
            assert_eq!(is_request(&kind.to_be_bytes()), request, "{kind:#06x}");
        }
    }

    #[test]
    fn connection_ids_of_both_header_forms() {
        let long = [0xc0, 0, 0, 0, 1, 2, 7, 8, 3, 4, 5, 6, 0];
        assert_eq!(destination_id(&long, 8), Some(&[7, 8][..]));
        assert_eq!(source_id(&long), Some(&[4, 5, 6][..]));
        let short = [0x40, 1, 2, 3, 4];
        assert_eq!(destination_id(&short, 3), Some(&[1, 2, 3][..]));
        assert_eq!(destination_id(&short, 8), None);
        assert_eq!(source_id(&short), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), turn: bool) {
            let kind = classify(&bytes, turn);
            prop_assert!(turn || kind != Kind::Channel);
            let _ = (transaction(&bytes), is_request(&bytes), ufrag(&bytes));
            let _ = (destination_id(&bytes, 8), source_id(&bytes));
        }
    }
}
