//! Group sends whose wraps come in several batches.
//!
//! Each batch carries the whole envelope and some of the wraps; indexes count from 0 without gaps,
//! and the send counts once the last one is in. Drive it so: [`Batches::add`] for each `send` of one
//! connection, in order, once the connection is known to speak for the author; plan what it gives
//! back. A batch that does not fit ends its send: start again from 0. What is gathered is bounded
//! by [`MAX_OPEN`] envelopes with [`MAX_RECIPIENTS`] wraps each.

use std::collections::VecDeque;

use meshwire_signaling::frame::{ErrorFrame, Send, code};
use meshwire_signaling::limits::{MAX_RECIPIENTS, MAX_WRAPS};
use meshwire_signaling::seal::WRAP;
use meshwire_signaling::{Envelope, EnvelopeId, PublicKey};

use super::accept::explain;

/// Most sends of one connection that may be incomplete; one more drops the oldest.
pub const MAX_OPEN: usize = 4;

/// An envelope's author and id.
type Name = (PublicKey, EnvelopeId);

#[derive(Debug)]
struct Open {
    name: Name,
    next: u32,
    /// The first batch's, with all wraps so far.
    envelope: Envelope,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Batches(VecDeque<Open>);

impl Batches {
    /// Takes one `send`. Gives back the whole send, without `batch`, once all of it is there.
    ///
    /// # Errors
    /// The error frame to answer with, without `req`: the envelope's shape, `too_large`, `bad_batch`.
    pub fn add(&mut self, mut send: Send) -> Result<Option<Send>, ErrorFrame> {
        let Some(batch) = send.batch.take() else { return Ok(Some(send)) };
        let header = send.envelope.header().map_err(|e| explain(&e))?;
        let name = (header.from.key, header.id);
        // Taken out: a batch that does not fit ends its send.
        let before = self.0.iter().position(|o| o.name == name).and_then(|i| self.0.remove(i));
        if send.envelope.wraps.iter().any(|w| w.key.len() != WRAP) {
            return Err(wrap_length());
        }
        let (send, next) = match (batch.index, before) {
            (0, _) => (send, 1),
            (_, None) => {
                let text = "the batches before this one are not here: start again from index 0";
                return Err(ErrorFrame::permanent(code::BAD_BATCH, text));
            }
            (index, Some(open)) => {
                let Some(next) = index.checked_add(1).filter(|_| index == open.next) else {
                    let text = format!("batch {index} came where {} was due", open.next);
                    return Err(ErrorFrame::permanent(code::BAD_BATCH, text));
                };
                (join(open.envelope, send)?, next)
            }
        };
        if send.envelope.wraps.len() > MAX_RECIPIENTS {
            return Err(too_many());
        }
        if batch.last {
            return Ok(Some(send));
        }
        if self.0.len() >= MAX_OPEN {
            self.0.pop_front();
        }
        self.0.push_back(Open { name, next, envelope: send.envelope });
        Ok(None)
    }
}

/// A further batch with the wraps of those before it in front.
fn join(before: Envelope, mut send: Send) -> Result<Send, ErrorFrame> {
    let now = &mut send.envelope;
    if now.sig != before.sig || now.header != before.header || now.body != before.body {
        let text = "the batches of one send carry the same header, body and signature";
        return Err(ErrorFrame::permanent(code::BAD_BATCH, text));
    }
    let mut wraps = before.wraps;
    wraps.append(&mut now.wraps);
    now.wraps = wraps;
    now.proof = now.proof.take().or(before.proof);
    Ok(send)
}

/// The refusal of a send to too many.
pub(crate) fn too_many() -> ErrorFrame {
    let text = format!("a group send has at most {MAX_RECIPIENTS} recipients, {MAX_WRAPS} a batch");
    ErrorFrame::permanent(code::TOO_LARGE, text)
}

/// The refusal of a wrap that is none.
pub(super) fn wrap_length() -> ErrorFrame {
    ErrorFrame::permanent(code::BAD_ENVELOPE, format!("a wrap's key has {WRAP} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::envelope::{Author, Durability, Suite, Target};
    use meshwire_signaling::frame::Batch;
    use meshwire_signaling::id::Blob;
    use meshwire_signaling::seal::Wrap;
    use meshwire_signaling::{Channel, Header, InstanceId, MeshId, Priority, SecretKey};
    use proptest::prelude::*;

    fn send(id: u64, wraps: std::ops::Range<usize>, batch: Option<(u32, bool)>) -> Send {
        let key = SecretKey::from_seed(&[1; 32]);
        let header = Header {
            channel: Channel::Group,
            from: Author { key: key.public(), instance: InstanceId([0; 16]) },
            target: Target::Group { name: "ops".into() },
            id: EnvelopeId::new(id, 0),
            priority: Priority::Next,
            durability: Durability::Queued,
            sent_at: 1,
            expires_at: 2,
            suite: Suite::Wrap,
            key_id: Blob(vec![0; 32]),
            ephemeral: None,
        };
        let mut envelope = Envelope::sign(&MeshId([1; 32]), &key, &header, vec![7; 9]);
        envelope.wraps = wraps.map(wrap).collect();
        Send { req: 1, envelope, batch: batch.map(|(index, last)| Batch { index, last }) }
    }

    fn wrap(n: usize) -> Wrap {
        let mut to = [0; 32];
        to[..8].copy_from_slice(&(n as u64).to_be_bytes());
        Wrap { to: PublicKey(to), key: Blob(vec![0; WRAP]) }
    }

    fn code_of(result: Result<Option<Send>, ErrorFrame>) -> String {
        result.unwrap_err().code
    }

    #[test]
    fn a_send_without_batch_is_whole() {
        let whole = send(1, 0..3, None);
        assert_eq!(Batches::default().add(whole.clone()), Ok(Some(whole)));
        let single = Batches::default().add(send(1, 0..3, Some((0, true)))).unwrap();
        assert_eq!(single, Some(send(1, 0..3, None)));
    }

    #[test]
    fn batches_that_do_not_fit_end_their_send() {
        let mut b = Batches::default();
        assert_eq!(code_of(b.add(send(1, 0..1, Some((1, true))))), code::BAD_BATCH, "no start");
        for gap in [2, 3, u32::MAX] {
            assert_eq!(b.add(send(1, 0..1, Some((0, false)))), Ok(None));
            assert_eq!(code_of(b.add(send(1, 1..2, Some((gap, true))))), code::BAD_BATCH);
            assert_eq!(code_of(b.add(send(1, 1..2, Some((1, true))))), code::BAD_BATCH, "ended");
        }
        for twist in
            [|s: &mut Send| s.envelope.body.0[0] ^= 1, |s: &mut Send| s.envelope.sig.0[0] ^= 1]
        {
            assert_eq!(b.add(send(1, 0..1, Some((0, false)))), Ok(None));
            let mut other = send(1, 1..2, Some((1, true)));
            twist(&mut other);
            assert_eq!(code_of(b.add(other)), code::BAD_BATCH);
        }
        let mut short = send(1, 0..1, Some((0, false)));
        short.envelope.wraps[0].key.0.pop();
        assert_eq!(code_of(b.add(short)), code::BAD_ENVELOPE);
    }

    #[test]
    fn index_0_starts_over() {
        let mut b = Batches::default();
        assert_eq!(b.add(send(1, 5..9, Some((0, false)))), Ok(None));
        assert_eq!(b.add(send(1, 0..2, Some((0, false)))), Ok(None));
        let whole = b.add(send(1, 2..3, Some((1, true)))).unwrap();
        assert_eq!(whole, Some(send(1, 0..3, None)));
    }

    #[test]
    fn what_is_gathered_is_bounded() {
        let mut b = Batches::default();
        for id in 0..=MAX_OPEN as u64 {
            assert_eq!(b.add(send(id, 0..1, Some((0, false)))), Ok(None));
        }
        assert_eq!(b.0.len(), MAX_OPEN);
        assert_eq!(code_of(b.add(send(0, 1..2, Some((1, true))))), code::BAD_BATCH, "dropped");
        assert!(b.add(send(1, 1..2, Some((1, true)))).unwrap().is_some());
        assert_eq!(code_of(b.add(send(9, 0..501, Some((0, false))))), code::TOO_LARGE);
        for index in 0..20 {
            let wraps = index as usize * 500..(index as usize + 1) * 500;
            assert_eq!(b.add(send(9, wraps, Some((index, false)))), Ok(None));
        }
        assert_eq!(code_of(b.add(send(9, 10_000..10_001, Some((20, true))))), code::TOO_LARGE);
    }

    proptest! {
        /// Up to four sends, cut anywhere and interleaved anyhow, come out whole, each once.
        #[test]
        fn interleaved_sends_come_out_whole(
            cuts in prop::collection::vec(prop::collection::vec(0usize..20, 1..6), 1..=MAX_OPEN),
            order in prop::collection::vec(any::<prop::sample::Index>(), 24),
        ) {
            let mut b = Batches::default();
            let mut done = vec![0; cuts.len()];
            let mut whole = 0;
            let mut picks = order.into_iter();
            loop {
                let open: Vec<usize> = (0..cuts.len()).filter(|i| done[*i] < cuts[*i].len()).collect();
                let (Some(pick), false) = (picks.next(), open.is_empty()) else { break };
                let i = open[pick.index(open.len())];
                let (at, cut) = (done[i], &cuts[i]);
                let from: usize = cut[..at].iter().sum();
                let last = at + 1 == cut.len();
                let batch = Some((u32::try_from(at).unwrap(), last));
                let got = b.add(send(i as u64, from..from + cut[at], batch)).unwrap();
                done[i] += 1;
                prop_assert_eq!(got.is_some(), last);
                if let Some(got) = got {
                    whole += 1;
                    prop_assert_eq!(got, send(i as u64, 0..cut.iter().sum(), None));
                }
            }
            prop_assert_eq!(whole, cuts.len());
            prop_assert!(b.0.is_empty());
        }

        /// Whatever comes, a whole send is a run of batches 0, 1, …, last of one envelope.
        #[test]
        fn any_order_agrees_with_a_model(
            ops in prop::collection::vec((0u64..6, 0u32..4, any::<bool>()), 0..60),
        ) {
            let mut b = Batches::default();
            let mut model: Vec<(u64, u32)> = Vec::new();
            for (id, index, last) in ops {
                let at = model.iter().position(|m| m.0 == id);
                let due = at.map(|at| model.remove(at).1);
                let fits = index == 0 || due == Some(index);
                let from = index as usize;
                let got = b.add(send(id, from..from + 1, Some((index, last))));
                prop_assert_eq!(got.is_ok(), fits);
                if fits && last {
                    let wraps = got.unwrap().unwrap().envelope.wraps;
                    prop_assert_eq!(wraps, (0..=from).map(wrap).collect::<Vec<_>>());
                } else if fits {
                    if model.len() == MAX_OPEN {
                        model.remove(0);
                    }
                    model.push((id, index + 1));
                }
                prop_assert_eq!(b.0.len(), model.len());
            }
        }
    }
}
