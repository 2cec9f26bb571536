//! What one datagram is.

use meshwire_transport::quic::demux::{
    Kind, STUN_HEADER, classify, destination_id, is_request, is_response, source_id, transaction,
    ufrag,
};
use meshwire_transport::quic::stun::mapped_address;

pub(crate) fn run(data: &[u8]) {
    for from_turn in [false, true] {
        match classify(data, from_turn) {
            Kind::Stun => {
                assert!(data.len() >= STUN_HEADER && transaction(data).is_some());
                assert!(!(is_request(data) && is_response(data)), "both a request and an answer");
            }
            Kind::Channel => assert!(from_turn, "no TURN server sent it"),
            Kind::Quic => assert!(data[0] >= 64),
            Kind::Other => {}
        }
    }
    assert!(ufrag(data).is_none_or(|name| name.len() <= data.len()));
    for own in [0, 8, 20] {
        assert!(destination_id(data, own).is_none_or(|id| id.len() <= 255));
    }
    assert!(source_id(data).is_none_or(|id| id.len() <= 255));
    let _ = mapped_address(data);
}
