//! Records out of the bytes of a QUIC stream: each has its length in front (two bytes, big-endian).

use bytes::{Buf as _, Bytes, BytesMut};
use meshwire_signaling::stream::{MAX_RECORD, OVERHEAD};

use crate::stream::buffer;

/// A length that no record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What has come of the next record.
#[derive(Debug, Default)]
pub(super) struct Framing {
    /// The first byte of a length.
    first: Option<u8>,
    /// The record's length, once that has come whole, and the record so far.
    record: Option<(usize, BytesMut)>,
}

impl Framing {
    /// Takes bytes from the front of `piece` up to the end of the next record; none when that has yet to come, and then
    /// `piece` is empty.
    pub(super) fn next(&mut self, piece: &mut Bytes) -> Result<Option<BytesMut>, Malformed> {
        loop {
            if let Some((length, record)) = &mut self.record {
                let more = length.saturating_sub(record.len()).min(piece.len());
                record.extend_from_slice(&piece[..more]);
                piece.advance(more);
                let whole = record.len() == *length;
                return Ok(whole.then(|| self.record.take().map(|(_, record)| record)).flatten());
            }
            if piece.is_empty() {
                return Ok(None);
            }
            let byte = piece.get_u8();
            let Some(first) = self.first.replace(byte) else { continue };
            self.first = None;
            let length = usize::from(u16::from_be_bytes([first, byte]));
            if !(OVERHEAD..=MAX_RECORD).contains(&length) {
                return Err(Malformed);
            }
            self.record = Some((length, buffer(length)));
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

    use super::*;

    #[test]
    fn however_they_are_cut_they_come_whole() {
        for seed in 0..50 {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            let mut below = |n: u32| (dice.next_u32() % n) as usize;
            let lengths: Vec<usize> = (0..20)
                .map(|n| match n % 4 {
                    0 => MAX_RECORD,
                    1 => OVERHEAD,
                    _ => OVERHEAD + below(5_000),
                })
                .collect();
            let mut bytes = Vec::new();
            for (n, length) in lengths.iter().enumerate() {
                bytes.extend(u16::try_from(*length).unwrap().to_be_bytes());
                bytes.extend(vec![u8::try_from(n).unwrap(); *length]);
            }
            let (mut framing, mut came, mut rest) = (Framing::default(), 0, Bytes::from(bytes));
            while !rest.is_empty() {
                let most = if below(2) == 0 { 3 } else { 40_000 };
                let cut = (1 + below(most)).min(rest.len());
                let mut piece = rest.split_to(cut);
                while let Some(record) = framing.next(&mut piece).unwrap() {
                    assert_eq!(record.len(), lengths[came], "seed {seed}");
                    assert!(record.iter().all(|b| usize::from(*b) == came), "seed {seed}");
                    came += 1;
                }
                assert!(piece.is_empty(), "seed {seed}");
            }
            assert_eq!(came, lengths.len(), "seed {seed}");
        }
    }

    #[test]
    fn a_length_that_no_record_has_is_an_error() {
        for length in [0, 1, OVERHEAD - 1, MAX_RECORD + 1, 65_535] {
            let mut piece = Bytes::copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            assert_eq!(Framing::default().next(&mut piece), Err(Malformed), "{length}");
        }
    }
}
