//! STUN and TURN messages, one by one and on a stream.

use meshwire_turn::stun::{Builder, Frame, Message, channel_data, next_frame};

pub(crate) fn run(data: &[u8]) {
    one(data);
    let mut rest = data;
    while let Frame::Whole { length, total } = next_frame(rest) {
        assert!(length <= total && total > 0, "{length} of {total}");
        let Some(frame) = rest.get(..length) else { break };
        one(frame);
        rest = rest.get(total..).unwrap_or_default();
    }
}

fn one(data: &[u8]) {
    if let Some((_, payload)) = channel_data(data) {
        assert!(payload.len() + 4 <= data.len());
    }
    let Ok(message) = Message::parse(data) else { return };
    let _ = (message.integrity(), message.has_fingerprint(), message.verify(b"key"));
    let mut again = Builder::new(message.class(), message.method(), message.transaction());
    for attribute in message.attributes() {
        again = again.attribute(attribute.kind, attribute.value);
    }
    let again = again.finish();
    assert!(again.len() <= data.len(), "written longer than read");
    let again = Message::parse(&again).expect("what was written is read");
    assert_eq!((again.class(), again.method()), (message.class(), message.method()));
    assert!(
        again
            .attributes()
            .map(|a| (a.kind, a.value))
            .eq(message.attributes().map(|a| (a.kind, a.value)))
    );
}
