//! RFC 5769's vectors, RFC 8489's (appendix B.1, as erratum 6268 has it), and what else must hold of
//! reading and writing.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::auth::{Algorithm, key_in_realm};

const REQUEST: &str = include_str!("../../vectors/rfc5769-request.hex");
const RESPONSE_V4: &str = include_str!("../../vectors/rfc5769-response-v4.hex");
const RESPONSE_V6: &str = include_str!("../../vectors/rfc5769-response-v6.hex");
const LONG_TERM: &str = include_str!("../../vectors/rfc5769-long-term.hex");
const SHA256: &str = include_str!("../../vectors/rfc8489-sha256.hex");

const SHORT_TERM: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const USER: &str = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex.replace('\n', "")).unwrap()
}

#[test]
fn rfc5769_request() {
    let bytes = bytes(REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::Binding));
    assert_eq!(message.attribute(attr::USERNAME), Some(&b"evtj:h6vY"[..]));
    assert_eq!(message.attributes().count(), 4);
    assert!(message.has_fingerprint() && message.verify(SHORT_TERM));
    assert!(!message.verify(b"VOkJxbRl1RmTxUk/WvJxBT"));
}

#[test]
fn rfc5769_responses() {
    for (hex, addr) in [
        (RESPONSE_V4, "192.0.2.1:32853"),
        (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
        let bytes = bytes(hex);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, Method::Binding));
        let value = message.attribute(attr::XOR_MAPPED_ADDRESS).unwrap();
        let expected: SocketAddr = addr.parse().unwrap();
        assert_eq!(decode_xor(value, message.transaction()), Some(expected));
        assert!(message.has_fingerprint() && message.verify(SHORT_TERM));
        let mut again = Vec::new();
        encode_xor(&mut again, expected, message.transaction());
        assert_eq!(again, value);
    }
}

#[test]
fn rfc5769_long_term_is_written_byte_by_byte() {
    let bytes = bytes(LONG_TERM);
    let message = Message::parse(&bytes).unwrap();
    let key = key_in_realm(Algorithm::Md5, USER, "example.org", "TheMatrIX");
    assert_eq!(message.attribute(attr::USERNAME), Some(USER.as_bytes()));
    assert_eq!(message.integrity(), Some(Integrity::Sha1));
    assert!(message.verify(&key));
    let again = Builder::new(Class::Request, Method::Binding, message.transaction())
        .attribute(attr::USERNAME, USER.as_bytes())
        .attribute(attr::NONCE, b"f//499k954d6OL34oL9FSTvy64sA")
        .attribute(attr::REALM, b"example.org")
        .integrity(Integrity::Sha1, &key)
        .finish();
    assert_eq!(again, bytes);
}

#[test]
fn rfc8489_sha256_is_written_byte_by_byte() {
    let bytes = bytes(SHA256);
    let message = Message::parse(&bytes).unwrap();
    let key = key_in_realm(Algorithm::Sha256, USER, "example.org", "TheMatrIX");
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    assert!(message.verify(&key));
    let mut again = Builder::new(Class::Request, Method::Binding, message.transaction());
    for attribute in message.attributes() {
        again = again.attribute(attribute.kind, attribute.value);
    }
    assert_eq!(again.integrity(Integrity::Sha256, &key).finish(), bytes);
}

#[test]
fn what_is_not_exactly_one_message_is_refused() {
    let whole = bytes(REQUEST);
    for length in 0..whole.len() {
        assert!(Message::parse(&whole[..length]).is_err(), "cut to {length}");
    }
    let with = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        f(&mut bytes);
        Message::parse(&bytes).err()
    };
    assert_eq!(with(&|b| b.extend([0; 4])), Some(ParseError::Length));
    assert_eq!(with(&|b| b[4] = 0), Some(ParseError::NotStun));
    assert_eq!(with(&|b| b[0] = 0x40), Some(ParseError::NotStun));
    assert_eq!(with(&|b| b[23] = 0xff), Some(ParseError::Attribute));
    assert_eq!(with(&|b| b[30] ^= 1), Some(ParseError::Fingerprint));
}

#[test]
fn what_follows_an_integrity_does_not_count() {
    let key = b"key";
    let message = Builder::new(Class::Request, Method::Refresh, &[1; 12])
        .attribute(attr::REALM, b"r")
        .integrity(Integrity::Sha1, key)
        .attribute(attr::LIFETIME, &[0; 4])
        .integrity(Integrity::Sha256, key)
        .fingerprint()
        .finish();
    let message = Message::parse(&message).unwrap();
    assert_eq!(message.attribute(attr::LIFETIME), None);
    assert_eq!(message.attributes().count(), 1);
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    assert!(message.verify(key) && !message.verify(b"other"));
    // A cut integrity is none.
    let cut = Builder::new(Class::Request, Method::Refresh, &[1; 12])
        .attribute(attr::MESSAGE_INTEGRITY_SHA256, &[0; 16])
        .finish();
    assert!(!Message::parse(&cut).unwrap().verify(key));
}

#[test]
fn frames_are_found_on_a_stream() {
    let stun = bytes(REQUEST);
    let mut stream = stun.clone();
    stream.extend(channel_header(0x4000, 5));
    stream.extend(*b"hello\0\0\0");
    assert_eq!(next_frame(&stream), Frame::Whole { length: stun.len(), total: stun.len() });
    let rest = &stream[stun.len()..];
    assert_eq!(next_frame(rest), Frame::Whole { length: 9, total: 12 });
    assert_eq!(channel_data(&rest[..9]), Some((0x4000, &b"hello"[..])));
    assert_eq!(channel_data(&rest[..8]), None);
    assert_eq!(next_frame(&rest[..9]), Frame::Need(12));
    assert_eq!(next_frame(&rest[..3]), Frame::Need(4));
    assert_eq!(next_frame(&[0x7f, 0xff, 0, 0]), Frame::Whole { length: 4, total: 4 });
    assert_eq!(channel_data(&[0x7f, 0xff, 0, 0]), None);
    for bad in [[0x80, 0, 0, 0], [0xff; 4], [0, 1, 0, 3]] {
        assert_eq!(next_frame(&bad), Frame::Invalid);
    }
}

proptest! {
    #[test]
    fn messages_are_read_back(
        attributes in proptest::collection::vec((0x8030_u16..0xffff, 0_usize..40), 0..8),
        method in 0_u16..0x1000,
        transaction: [u8; 12],
        key in "[a-z]{0,80}",
    ) {
        let mut builder = Builder::new(Class::Error, Method::Other(method), &transaction);
        for (kind, length) in &attributes {
            builder = builder.attribute(*kind, &vec![7; *length]);
        }
        let bytes = builder
            .integrity(Integrity::Sha1, key.as_bytes())
            .integrity(Integrity::Sha256, key.as_bytes())
            .fingerprint()
            .finish();
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!(message.class(), Class::Error);
        prop_assert_eq!(message.method().number(), method);
        prop_assert_eq!(message.transaction(), &transaction);
        let read: Vec<_> = message.attributes().map(|a| (a.kind, a.value.len())).collect();
        prop_assert_eq!(read, attributes);
        prop_assert!(message.verify(key.as_bytes()));
        prop_assert_eq!(next_frame(&bytes), Frame::Whole { length: bytes.len(), total: bytes.len() });
    }

    #[test]
    fn addresses_are_read_back(ip: std::net::IpAddr, port: u16, transaction: [u8; 12]) {
        let mut value = Vec::new();
        encode_xor(&mut value, (ip, port).into(), &transaction);
        prop_assert_eq!(decode_xor(&value, &transaction), Some((ip, port).into()));
        for cut in 0..value.len() {
            prop_assert_eq!(decode_xor(&value[..cut], &transaction), None);
        }
    }
}
