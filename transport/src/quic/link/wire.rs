//! The frames of a message link, on one bidirectional QUIC stream.
//!
//! ```text
//! stream = kind (1 byte, 1) frame*          the opener's half; the other half has no kind
//! frame  = length (u32 BE, of the rest) type (1 byte) body (MessagePack, named fields)
//! ```
//!
//! | type | body | means |
//! |---|---|---|
//! | 1 | `{mesh, from, to}` | first frame of both halves: whose messages these are |
//! | 2 | an envelope | |
//! | 3 | `{n}` | so many envelopes have been taken over, since the beginning |
//! | 4 | `{from, id, receipt}` | what became of an envelope |
//! | 5 | `{reason}` | last frame: the link is closed for good |
//!
//! Other types are skipped. A malformed frame ends the link: its stream is reliable, so the peer is at
//! fault.

use meshwire_signaling::codec::{from_msgpack, to_msgpack};
use meshwire_signaling::limits::MAX_FRAME;
use meshwire_signaling::receipt::Receipt;
use meshwire_signaling::{Envelope, EnvelopeId, MeshId, PublicKey};
use quinn::RecvStream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A stream's first byte: messages.
pub(crate) const MESSAGES: u8 = 1;

/// How much is read at once: a batch of small frames, or one of the largest.
const READ: usize = 64 << 10;
/// Room that an idle link keeps: a node has thousands.
const KEPT: usize = 1 << 10;

pub(super) mod kind {
    pub(in super::super) const HELLO: u8 = 1;
    pub(in super::super) const ENVELOPE: u8 = 2;
    pub(in super::super) const TAKEN: u8 = 3;
    pub(in super::super) const RECEIPT: u8 = 4;
    pub(in super::super) const BYE: u8 = 5;
}

/// See the table above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) mesh: MeshId,
    pub(super) from: PublicKey,
    pub(super) to: PublicKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    pub(super) n: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReceiptFrame {
    pub(super) from: PublicKey,
    pub(super) id: EnvelopeId,
    pub(super) receipt: Receipt,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bye {
    pub(super) reason: String,
}

/// A frame that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Hello(Hello),
    Envelope(Box<Envelope>),
    Taken(u64),
    Receipt(ReceiptFrame),
    Bye(String),
    Unknown,
}

/// Why nothing more comes in, in words.
pub(super) type Broken = String;

/// Appends a frame to `out`.
pub(super) fn put<T: Serialize>(out: &mut Vec<u8>, kind: u8, body: &T) {
    let body = to_msgpack(body);
    // Bodies are built from bounded parts; MAX_FRAME is far below the length's limit.
    let length = u32::try_from(body.len() + 1).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(&body);
}

/// The first frame in `bytes` and how long it is; none if there is more to come.
pub(super) fn take(bytes: &[u8]) -> Result<Option<(Frame, usize)>, Broken> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length == 0 || length > MAX_FRAME {
        return Err(format!("a frame of {length} bytes; 1 to {MAX_FRAME} are allowed"));
    }
    let Some((kind, body)) = rest.get(..length).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    let frame = match *kind {
        kind::HELLO => Frame::Hello(body_of(body)?),
        kind::ENVELOPE => Frame::Envelope(Box::new(body_of(body)?)),
        kind::TAKEN => Frame::Taken(body_of::<Taken>(body)?.n),
        kind::RECEIPT => Frame::Receipt(body_of(body)?),
        kind::BYE => Frame::Bye(body_of::<Bye>(body)?.reason),
        _ => Frame::Unknown,
    };
    Ok(Some((frame, 4 + length)))
}

/// For fuzzers: every frame in `bytes`, which is written as it was read.
pub(in super::super) fn fuzz(mut bytes: &[u8]) {
    while let Ok(Some((frame, length))) = take(bytes) {
        assert!((5..=4 + MAX_FRAME).contains(&length) && length <= bytes.len(), "{length} bytes");
        bytes = bytes.get(length..).unwrap_or_default();
        let mut again = Vec::new();
        match &frame {
            Frame::Hello(hello) => put(&mut again, kind::HELLO, hello),
            Frame::Envelope(envelope) => put(&mut again, kind::ENVELOPE, envelope),
            Frame::Taken(n) => put(&mut again, kind::TAKEN, &Taken { n: *n }),
            Frame::Receipt(receipt) => put(&mut again, kind::RECEIPT, receipt),
            Frame::Bye(reason) => put(&mut again, kind::BYE, &Bye { reason: reason.clone() }),
            Frame::Unknown => continue,
        }
        assert_eq!(take(&again), Ok(Some((frame, again.len()))));
    }
}

fn body_of<T: DeserializeOwned>(body: &[u8]) -> Result<T, Broken> {
    from_msgpack(body).map_err(|e| format!("malformed frame: {e}"))
}

/// Frames out of a stream.
pub(super) struct Reader {
    stream: RecvStream,
    buffer: Vec<u8>,
    start: usize,
}

impl Reader {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, buffer: Vec::new(), start: 0 }
    }

    /// The next frame; none at the stream's end. Not cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Broken> {
        loop {
            let unread = self.buffer.get(self.start..).unwrap_or_default();
            if let Some((frame, length)) = take(unread)? {
                self.start += length;
                return Ok(Some(frame));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
                self.buffer = Vec::new();
            }
            let piece = self.stream.read_chunk(READ, true).await.map_err(|e| e.to_string())?;
            match piece {
                Some(piece) => self.buffer.extend_from_slice(&piece.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err("the stream ends in a frame".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_follow_each_other_and_unknown_ones_are_skipped() {
        let mut bytes = Vec::new();
        put(&mut bytes, kind::TAKEN, &Taken { n: 7 });
        put(&mut bytes, 99, &Bye { reason: "?".into() });
        put(&mut bytes, kind::BYE, &Bye { reason: "enough".into() });
        let mut frames = Vec::new();
        let mut rest = &bytes[..];
        while let Some((frame, length)) = take(rest).unwrap() {
            frames.push(frame);
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        assert_eq!(frames, [Frame::Taken(7), Frame::Unknown, Frame::Bye("enough".into())]);
        for cut in 0..7 {
            assert_eq!(take(&bytes[..cut]), Ok(None), "{cut}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(take(&[0, 0, 0, 0]).is_err());
        assert!(take(&[0, 4, 0, 1, kind::BYE]).is_err());
        assert_eq!(take(&[0, 4, 0, 0, kind::BYE]), Ok(None));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(kind in 0..8_u8, body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = u32::try_from(body.len() + 1).unwrap().to_be_bytes().to_vec();
            bytes.push(kind);
            bytes.extend_from_slice(&body);
            let _ = take(&bytes);
            let _ = take(&body);
        }
    }
}
