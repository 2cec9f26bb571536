//! What may be queued: phase B1 of an accept (inventory A-106), before anything is written.

use meshwire_signaling::envelope::{Durability, EnvelopeError, Suite, Target};
use meshwire_signaling::frame::{ErrorFrame, Send, code};
use meshwire_signaling::{Channel, EnvelopeId, Hash, MeshId, PublicKey, UnixMillis, codec};

/// An envelope that may be queued, in the shape that the store takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The mesh.
    pub mesh: MeshId,
    /// Who signed it.
    pub author: PublicKey,
    /// Its id.
    pub id: EnvelopeId,
    /// Its hash.
    pub hash: Hash,
    /// Its one recipient.
    pub recipient: PublicKey,
    /// What kind of identity the recipient is.
    pub target: TargetKind,
    /// Rank of its priority, 0 for `now`.
    pub priority: u8,
    /// When it stops being worth delivering, Unix milliseconds.
    pub expires_at: UnixMillis,
    /// Whether it waits for a recipient that is away.
    pub queued: bool,
    /// MessagePack of the envelope without proof and wraps.
    pub envelope: Vec<u8>,
}

/// Where a recipient is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// Among the members.
    Member,
    /// Among the bound sessions and services.
    Delegate,
}

/// Who a connection is to an envelope's author key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// The connection's member.
    Member,
    /// A session or service that the connection has proven.
    Delegate,
    /// A key that the connection has not proven.
    Stranger,
}

/// Checks an envelope that a connection sends, and takes its proof off; `author` says what it is to a key.
///
/// # Errors
/// The error frame to answer with, without `req`.
pub fn plan(
    send: &mut Send,
    mesh: &MeshId,
    author: impl Fn(&PublicKey) -> Author,
    now: UnixMillis,
) -> Result<Plan, ErrorFrame> {
    let refuse = |code: &str, text: String| Err(ErrorFrame::permanent(code, text));
    let envelope = &mut send.envelope;
    // Ownership first: it is cheap, and nobody makes the broker verify for others.
    let header = envelope.header().map_err(|e| explain(&e))?;
    match author(&header.from.key) {
        Author::Member => {}
        Author::Delegate => {
            // Its recipients would need the attestation as it was then, which is not kept yet.
            let text = "this broker does not carry mail by sessions and services";
            return refuse(code::UNSUPPORTED, text.into());
        }
        Author::Stranger => {
            let text = "the envelope's author is none of this connection's identities";
            return refuse(code::NOT_YOURS, text.into());
        }
    }
    let hash = envelope.verify(mesh, &header).map_err(|e| explain(&e))?;
    header.check(now).map_err(|e| explain(&e))?;
    let (target, recipient) = match (&header.target, header.channel) {
        (Target::Member { key }, Channel::Dm) => (TargetKind::Member, *key),
        (Target::Session { key } | Target::Service { key }, Channel::Dm) => {
            (TargetKind::Delegate, *key)
        }
        (_, channel) => {
            let text = format!("this broker does not carry {channel:?} envelopes to that target");
            return refuse(code::UNSUPPORTED, text);
        }
    };
    if header.suite == Suite::Wrap || !envelope.wraps.is_empty() || send.batch.is_some() {
        return refuse(code::UNSUPPORTED, "an envelope for one recipient has no wraps".into());
    }
    if envelope.body.is_empty() {
        return refuse(code::BAD_ENVELOPE, "the body is empty".into());
    }
    // The broker shows its own copy of the author's chain.
    envelope.proof = None;
    Ok(Plan {
        mesh: *mesh,
        author: header.from.key,
        id: header.id,
        hash,
        recipient,
        target,
        priority: header.priority as u8,
        expires_at: header.expires_at,
        queued: header.durability == Durability::Queued,
        envelope: codec::to_msgpack(envelope),
    })
}

fn explain(e: &EnvelopeError) -> ErrorFrame {
    let code = match e {
        EnvelopeError::TooLarge { .. } => code::TOO_LARGE,
        EnvelopeError::Expired => code::EXPIRED,
        EnvelopeError::Signature(_) => code::BAD_SIGNATURE,
        _ => code::BAD_ENVELOPE,
    };
    ErrorFrame::permanent(code, e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::envelope::{Author as By, box_key_id};
    use meshwire_signaling::{Envelope, Header, InstanceId, Priority, SecretKey};

    const NOW: u64 = 1_700_000_000_000;
    const MESH: MeshId = MeshId([1; 32]);

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    fn send(twist: impl Fn(&mut Header), body: usize) -> Send {
        let mut header = Header {
            channel: Channel::Dm,
            from: By { key: key(1).public(), instance: InstanceId([0; 16]) },
            target: Target::Member { key: key(2).public() },
            id: EnvelopeId::new(NOW, 1),
            priority: Priority::Next,
            durability: Durability::Queued,
            sent_at: NOW,
            expires_at: NOW + 1000,
            suite: Suite::Box,
            key_id: box_key_id(&key(2).public()).unwrap(),
            ephemeral: None,
        };
        twist(&mut header);
        Send {
            req: 1,
            envelope: Envelope::sign(&MESH, &key(1), &header, vec![7; body]),
            batch: None,
        }
    }

    fn try_plan(mut s: Send) -> Result<Plan, String> {
        let author = |k: &PublicKey| match *k {
            k if k == key(1).public() => Author::Member,
            k if k == key(4).public() => Author::Delegate,
            _ => Author::Stranger,
        };
        plan(&mut s, &MESH, author, NOW).map_err(|e| e.code)
    }

    #[test]
    fn a_direct_message_is_planned_without_its_proof() {
        let plan = try_plan(send(|_| {}, 65_536)).unwrap();
        assert_eq!((plan.recipient, plan.priority, plan.queued), (key(2).public(), 1, true));
        let stored: Envelope = codec::from_msgpack(&plan.envelope).unwrap();
        assert_eq!(stored.hash(&MESH), plan.hash);
    }

    #[test]
    fn each_fault_has_its_code() {
        let code_of = |s| try_plan(s).unwrap_err();
        assert_eq!(code_of(send(|h| h.from.key = key(3).public(), 9)), code::NOT_YOURS);
        assert_eq!(code_of(send(|h| h.from.key = key(4).public(), 9)), code::UNSUPPORTED);
        assert_eq!(code_of(send(|_| {}, 65_537)), code::TOO_LARGE);
        assert_eq!(code_of(send(|h| h.expires_at = h.sent_at, 9)), code::BAD_ENVELOPE);
        assert_eq!(code_of(send(|h| h.sent_at = NOW - 10, 0)), code::BAD_ENVELOPE);
        let past = |h: &mut Header| (h.sent_at, h.expires_at) = (NOW - 10, NOW);
        assert_eq!(code_of(send(past, 9)), code::EXPIRED);
        let topic = |h: &mut Header| {
            h.channel = Channel::Topic;
            h.target = Target::Topic { id: Hash([0; 32]) };
        };
        assert_eq!(code_of(send(topic, 9)), code::UNSUPPORTED);
        let mut flipped = send(|_| {}, 9);
        flipped.envelope.body.0[0] ^= 1;
        assert_eq!(code_of(flipped), code::BAD_SIGNATURE);
    }
}
