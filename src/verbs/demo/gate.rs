//! What has direct paths come late, as on a slow way to the broker: a stream begins on the relay then, in every run.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use meshwire_signaling::PublicKey;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::Frame;
use meshwire_signaling::stream::carry::{Carry, FRONT, is_carry};
use meshwire_signaling::stream::{Kind, OVERHEAD};

/// Keeps what direct paths are negotiated with from its node until so many bytes of streams have come to it over the
/// relay. A node that lacks the other side's word knows neither its secret for ICE nor its key: there is no direct path.
#[derive(Debug, Default)]
pub(super) struct Gate {
    until: AtomicU64,
    relayed: AtomicU64,
}

/// What is kept from a node, in its order.
pub(super) type Held = Vec<Bytes>;

impl Gate {
    /// Shuts it until `bytes` of streams have come from now on.
    pub(super) fn shut(&self, bytes: u64) {
        self.relayed.store(0, Ordering::Relaxed);
        self.until.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of streams that have come over the relay since it was shut.
    pub(super) fn relayed(&self) -> u64 {
        self.relayed.load(Ordering::Relaxed)
    }

    /// What goes on to the node, in its order, now that `message` has come.
    pub(super) fn pass(&self, held: &mut Held, message: Bytes) -> Vec<Bytes> {
        self.relayed.fetch_add(streamed(&message), Ordering::Relaxed);
        let shut = self.relayed() < self.until.load(Ordering::Relaxed);
        if shut && is_negotiation(&message) {
            held.push(message);
            return Vec::new();
        }
        let mut all = if shut { Vec::new() } else { timely(held) };
        all.push(message);
        all
    }
}

/// Bytes of a stream that a message brings.
fn streamed(message: &[u8]) -> u64 {
    if !is_carry(message) {
        return 0;
    }
    match Carry::parse(message) {
        Ok(Carry::Record { header, .. }) if matches!(header.kind, Kind::Chunk { .. }) => {
            message.len().saturating_sub(FRONT + OVERHEAD) as u64
        }
        _ => 0,
    }
}

fn is_negotiation(message: &[u8]) -> bool {
    use Frame::{P2pAnswer, P2pBye, P2pCandidate, P2pOffer};
    let frame = Frame::decode(Encoding::MsgPack, message);
    matches!(frame, Ok(P2pOffer(_) | P2pAnswer(_) | P2pCandidate(_) | P2pBye(_)))
}

/// Who has sent a step, and whether it is an answer.
fn author(message: &[u8]) -> Option<(PublicKey, bool)> {
    match Frame::decode(Encoding::MsgPack, message).ok()? {
        Frame::P2pAnswer(step) => Some((step.from, true)),
        Frame::P2pOffer(step) => Some((step.from, false)),
        Frame::P2pCandidate(step) => Some((step.from, false)),
        Frame::P2pBye(step) => Some((step.from, false)),
        _ => None,
    }
}

/// Takes out what is held. Who has answered has given up its own offer, which would pass for a new one by now.
fn timely(held: &mut Held) -> Held {
    let mut answered = HashSet::new();
    let mut all = std::mem::take(held);
    // From the last to the first: what comes before its author's last answer is dropped.
    all.reverse();
    all.retain(|message| match author(message) {
        Some((from, true)) => answered.insert(from),
        Some((from, false)) => !answered.contains(&from),
        None => true,
    });
    all.reverse();
    all
}

#[cfg(test)]
mod tests {
    use meshwire_signaling::StreamId;
    use meshwire_signaling::frame::{Drained, P2pFrame, P2pKind};
    use meshwire_signaling::id::{AttemptId, Blob};
    use meshwire_signaling::stream::carry::{Way, front};
    use meshwire_signaling::stream::{Header, Suite, TAG};

    use super::*;

    fn step(kind: P2pKind) -> Bytes {
        step_of(2, kind)
    }

    fn step_of(author: u8, kind: P2pKind) -> Bytes {
        let [to, from] = [1, author].map(|n| PublicKey([n; 32]));
        let (attempt, payload) = (AttemptId([3; 16]), Blob(vec![4; 100]));
        let adapter = "quic".to_owned();
        let step = P2pFrame { kind, to, from, adapter, attempt, payload, loopback: true };
        step.into_frame(None).encode(Encoding::MsgPack).into()
    }

    /// A record with so many bytes of a stream.
    fn record(kind: Kind, len: usize) -> Bytes {
        let [to, from] = [1, 2].map(|n| PublicKey([n; 32]));
        let header = Header { kind, suite: Suite::Aes256Gcm, stream: StreamId([5; 16]), number: 7 };
        [&front(&Way { from, to })[..], &header.encode(), &vec![6; len + TAG]].concat().into()
    }

    #[test]
    fn paths_are_negotiated_once_the_relay_has_carried_enough() {
        let (gate, mut held) = (Gate::default(), Held::new());
        let [offer, answer] = [P2pKind::Offer, P2pKind::Answer].map(step);
        assert_eq!(gate.pass(&mut held, offer.clone()), vec![offer.clone()], "it is open at first");
        gate.shut(1_000);
        let frame: Bytes = Frame::from(Drained {}).encode(Encoding::MsgPack).into();
        let chunk = record(Kind::Chunk { last: false }, 999);
        let control = record(Kind::Control, 999);
        for other in [&frame, &chunk, &control] {
            assert!(gate.pass(&mut held, offer.clone()).is_empty());
            assert_eq!(gate.pass(&mut held, other.clone()), vec![other.clone()]);
        }
        assert_eq!(gate.relayed(), 999);
        let last = record(Kind::Chunk { last: true }, 1);
        let all = [offer.clone(), offer.clone(), offer.clone(), last.clone()];
        assert_eq!(gate.pass(&mut held, last.clone()), all);
        assert_eq!(gate.pass(&mut held, answer.clone()), vec![answer.clone()]);
        // An offer that its author gave up before it answered is not heard.
        gate.shut(1);
        let other = step_of(9, P2pKind::Offer);
        for step in [&offer, &other, &answer, &step(P2pKind::Candidate)] {
            assert!(gate.pass(&mut held, step.clone()).is_empty());
        }
        let all = [other, answer, step(P2pKind::Candidate), last.clone()];
        assert_eq!(gate.pass(&mut held, last.clone()), all);
        assert_eq!(gate.pass(&mut held, last.clone()), [last]);
        assert_eq!(gate.relayed(), 2);
    }
}
