//! What may be queued: phase B1 of an accept (inventory A-106), before anything is written.

use meshwire_signaling::attest::{Attestation, AttestationError, capability};
use meshwire_signaling::envelope::{Durability, EnvelopeError, Suite, Target};
use meshwire_signaling::frame::{ErrorFrame, Send, code};
use meshwire_signaling::group::check_group_name;
use meshwire_signaling::limits::MAX_RECIPIENTS;
use meshwire_signaling::seal::{WRAP, Wrap};
use meshwire_signaling::sign::Signed;
use meshwire_signaling::stream::Open;
use meshwire_signaling::{Channel, EnvelopeId, Hash, Header, MeshId, PublicKey, UnixMillis, codec};

use super::batch::{too_many, wrap_length};
use super::hello::attestation_code;

/// An envelope that may be queued, in the shape that the store takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The mesh.
    pub mesh: MeshId,
    /// Who signed it.
    pub author: PublicKey,
    /// The author's member; the author itself, unless that is a session or service.
    pub member: PublicKey,
    /// Its id.
    pub id: EnvelopeId,
    /// Its hash.
    pub hash: Hash,
    /// Whom it is for.
    pub to: Recipients,
    /// Rank of its priority, 0 for `now`.
    pub priority: u8,
    /// When it stops being worth delivering, Unix milliseconds.
    pub expires_at: UnixMillis,
    /// Whether it waits for a recipient that is away.
    pub queued: bool,
    /// MessagePack of the envelope without proof and wraps.
    pub envelope: Vec<u8>,
    /// MessagePack of the author's attestation, for mail by sessions and services.
    pub attestation: Option<Vec<u8>>,
}

/// Whom a plan is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// One identity.
    One {
        /// Its key.
        key: PublicKey,
        /// What kind of identity it is.
        kind: TargetKind,
    },
    /// A group's members. The store compares the wraps with who is in the group.
    Group {
        /// The group's name without `@`.
        name: String,
        /// One per recipient, in key order.
        wraps: Vec<Wrap>,
    },
}

impl Recipients {
    /// Their keys.
    #[must_use]
    pub fn keys(&self) -> Vec<PublicKey> {
        match self {
            Self::One { key, .. } => vec![*key],
            Self::Group { wraps, .. } => wraps.iter().map(|w| w.to).collect(),
        }
    }
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    /// The connection's member.
    Member,
    /// A session or service that the connection has proven.
    Delegate {
        /// The attestation that it is bound with: what counts where the envelope brings none.
        attestation: Option<Signed>,
    },
    /// A key that the connection has not proven.
    Stranger,
}

/// Checks a whole envelope ([`super::batch::Batches`]) that a connection of `member` sends, and takes
/// its proof and wraps off; `author` says what the connection is to a key.
///
/// # Errors
/// The error frame to answer with, without `req`.
pub fn plan(
    send: &mut Send,
    mesh: &MeshId,
    member: &PublicKey,
    author: impl Fn(&PublicKey) -> Author,
    now: UnixMillis,
) -> Result<Plan, ErrorFrame> {
    let envelope = &mut send.envelope;
    // Off first: a batch of them is bounded, joined they are more. The broker shows its own copy of
    // the author's chain.
    let wraps = std::mem::take(&mut envelope.wraps);
    let proof = envelope.proof.take();
    // Ownership first: it is cheap, and nobody makes the broker verify for others.
    let header = envelope.header().map_err(|e| explain(&e))?;
    let attestation = match author(&header.from.key) {
        Author::Member => None,
        Author::Delegate { attestation } => {
            let shown = proof.and_then(|p| p.attestation).or(attestation);
            Some(shown.ok_or_else(|| {
                let text = "the envelope lacks the attestation of its author";
                ErrorFrame::permanent(code::ATTESTATION_MALFORMED, text)
            })?)
        }
        Author::Stranger => {
            let text = "the envelope's author is none of this connection's identities";
            return Err(ErrorFrame::permanent(code::NOT_YOURS, text));
        }
    };
    let hash = envelope.verify(mesh, &header).map_err(|e| explain(&e))?;
    header.check(now).map_err(|e| explain(&e))?;
    if envelope.body.is_empty() {
        return Err(ErrorFrame::permanent(code::BAD_ENVELOPE, "the body is empty"));
    }
    let to = recipients(&header, wraps, member)?;
    if let Some(signed) = &attestation {
        attested(signed, mesh, member, &header)?;
    }
    Ok(Plan {
        mesh: *mesh,
        author: header.from.key,
        member: *member,
        id: header.id,
        hash,
        to,
        priority: header.priority as u8,
        expires_at: header.expires_at,
        queued: header.durability == Durability::Queued,
        envelope: codec::to_msgpack(envelope),
        attestation: attestation.map(|a| codec::to_msgpack(&a)),
    })
}

fn recipients(
    header: &Header,
    wraps: Vec<Wrap>,
    member: &PublicKey,
) -> Result<Recipients, ErrorFrame> {
    let (kind, key) = match (&header.target, header.channel) {
        (Target::Member { key }, Channel::Dm | Channel::Stream) => (TargetKind::Member, *key),
        (Target::Session { key } | Target::Service { key }, Channel::Dm | Channel::Stream) => {
            (TargetKind::Delegate, *key)
        }
        (Target::Group { name }, Channel::Group) => {
            return group(header, name, wraps, member);
        }
        (_, channel) => {
            let text = format!("this broker does not carry {channel:?} envelopes to that target");
            return Err(ErrorFrame::permanent(code::UNSUPPORTED, text));
        }
    };
    if header.suite == Suite::Wrap || !wraps.is_empty() {
        let text = "an envelope for one recipient has no wraps";
        return Err(ErrorFrame::permanent(code::UNSUPPORTED, text));
    }
    if header.channel == Channel::Stream {
        // Whoever is not there has missed the stream: such mail never waits for days.
        Open::check_header(header)
            .map_err(|e| ErrorFrame::permanent(code::UNSUPPORTED, e.to_string()))?;
    }
    Ok(Recipients::One { key, kind })
}

fn group(
    header: &Header,
    name: &str,
    mut wraps: Vec<Wrap>,
    member: &PublicKey,
) -> Result<Recipients, ErrorFrame> {
    let refuse = |text: &str| Err(ErrorFrame::permanent(code::BAD_ENVELOPE, text));
    check_group_name(name).map_err(|e| ErrorFrame::permanent(code::BAD_GROUP, e.to_string()))?;
    if header.durability != Durability::Queued {
        let text = "a group send is queued for who is away: use durability queued";
        return Err(ErrorFrame::permanent(code::UNSUPPORTED, text));
    }
    if header.suite != Suite::Wrap || header.key_id.len() != 32 {
        return refuse("a group send has suite wrap, and the key's commitment as key_id");
    }
    if wraps.len() > MAX_RECIPIENTS {
        return Err(too_many());
    }
    if wraps.iter().any(|w| w.key.len() != WRAP) {
        return Err(wrap_length());
    }
    wraps.sort_unstable_by_key(|w| w.to);
    if wraps.windows(2).any(|pair| pair[0].to == pair[1].to) {
        return refuse("a recipient has two wraps");
    }
    if wraps.binary_search_by_key(member, |w| w.to).is_ok() {
        return refuse("a group send has no wrap for its author's own member");
    }
    Ok(Recipients::Group { name: name.to_owned(), wraps })
}

/// Whether an attestation vouches for the header's author, and lets it write there.
fn attested(
    signed: &Signed,
    mesh: &MeshId,
    member: &PublicKey,
    header: &Header,
) -> Result<(), ErrorFrame> {
    let refuse = |e: &AttestationError| ErrorFrame::permanent(attestation_code(e), e.to_string());
    let a = Attestation::verify(signed, mesh, member, header.sent_at).map_err(|e| refuse(&e))?;
    if a.key != header.from.key {
        return Err(refuse(&AttestationError::Mismatch));
    }
    let word = match header.channel {
        Channel::Group => capability::GROUP,
        _ => capability::DM,
    };
    if !a.capabilities.allow(word) {
        let text = format!("this identity may not do that: its attestation lacks `{word}`");
        return Err(ErrorFrame::permanent(code::FORBIDDEN, text));
    }
    Ok(())
}

pub(super) fn explain(e: &EnvelopeError) -> ErrorFrame {
    let code = match e {
        EnvelopeError::TooLarge { .. } => code::TOO_LARGE,
        EnvelopeError::Expired => code::EXPIRED,
        EnvelopeError::Signature(_) => code::BAD_SIGNATURE,
        _ => code::BAD_ENVELOPE,
    };
    ErrorFrame::permanent(code, e.to_string())
}

#[cfg(test)]
mod tests;
