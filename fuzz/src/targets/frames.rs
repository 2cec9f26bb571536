//! Frames between node and broker.

use meshwire_signaling::Envelope;
use meshwire_signaling::codec::{self, Encoding};
use meshwire_signaling::frame::Frame;

pub(crate) fn run(data: &[u8]) {
    for encoding in [Encoding::Json, Encoding::MsgPack] {
        let Ok(frame) = Frame::decode(encoding, data) else { continue };
        for encoding in [Encoding::Json, Encoding::MsgPack] {
            let again = Frame::decode(encoding, &frame.encode(encoding));
            assert_eq!(again.as_ref(), Ok(&frame), "{encoding:?}");
        }
    }
    if let Ok(envelope) = codec::from_msgpack::<Envelope>(data) {
        assert_eq!(codec::from_msgpack(&codec::to_msgpack(&envelope)), Ok(envelope));
    }
}
