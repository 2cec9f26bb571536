//! One step of a negotiation: signed, then sealed.

use serde::{Deserialize, Serialize};

use crate::UnixMillis;
use crate::attest::{Attestation, AttestationError, capability};
use crate::codec::{self, CodecError};
use crate::envelope::StateHead;
use crate::frame::{P2pFrame, P2pKind};
use crate::id::{AttemptId, Blob, Hash, InstanceId, MeshId, PublicKey, SecretKey, Signature};
use crate::limits::{MAX_P2P, SKEW, ms};
use crate::seal::{Nonce, OVERHEAD, Pair, SealError};
use crate::sign::{Signed, domains, layout};

/// The version that this crate makes and reads.
pub const VERSION: u8 = 1;

/// One step, as its sender signs it under [`domains::P2P`] together with the mesh id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiation {
    /// 1.
    pub v: u8,
    /// Which step.
    pub kind: P2pKind,
    /// What negotiates: see [`is_adapter`](super::is_adapter).
    pub adapter: String,
    /// The attempt: 16 random bytes of who offers.
    pub attempt: AttemptId,
    /// From 0, one more with each step of this sender in this attempt.
    pub seq: u64,
    /// Who signs: a member, or a session or service that a member vouches for.
    pub from: PublicKey,
    /// The sender's outbox, as in its hello.
    pub instance: InstanceId,
    /// For whom.
    pub to: PublicKey,
    /// When it was signed, Unix milliseconds.
    pub at: UnixMillis,
    /// The sender's state head.
    pub head: StateHead,
    /// The hash of the offer that this belongs to ([`Sealed::hash`]); in all but offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Hash>,
    /// The adapter's own: for `quic` see [`super::quic`].
    pub content: Blob,
}

/// What is inside the box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedStep {
    /// The [`Negotiation`], encoded once by its sender.
    pub payload: Blob,
    /// By the sender, over `layout(P2P, [mesh id, payload])`.
    pub sig: Signature,
    /// For sessions and services: the member's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Signed>,
}

/// A step that is ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// For [`P2pFrame::payload`].
    pub payload: Blob,
    /// SHA-256 of what was signed: what [`Negotiation::answers`] says of an offer.
    pub hash: Hash,
}

/// What a step must be, as its receiver knows or was told outside the box.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// Our identity that it is for.
    pub me: &'a PublicKey,
    /// Whom the broker names as sender.
    pub from: &'a PublicKey,
    /// The adapter that the frame names.
    pub adapter: &'a str,
    /// The attempt that the frame names.
    pub attempt: AttemptId,
    /// The step that the frame's type names.
    pub kind: P2pKind,
    /// The hash of the attempt's offer, ours or theirs; none for an offer.
    pub offer: Option<&'a Hash>,
    /// Wall clock, Unix milliseconds.
    pub now: UnixMillis,
}

impl<'a> Expected<'a> {
    /// What a frame promises; `offer` is the hash of the offer with its attempt.
    #[must_use]
    pub fn of(
        frame: &'a P2pFrame,
        mesh: &'a MeshId,
        me: &'a PublicKey,
        offer: Option<&'a Hash>,
        now: UnixMillis,
    ) -> Self {
        let P2pFrame { kind, from, adapter, attempt, .. } = frame;
        Self { mesh, me, from, adapter, attempt: *attempt, kind: *kind, offer, now }
    }
}

/// A step that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What was signed.
    pub step: Negotiation,
    /// The member behind the sender: the sender itself, or who vouches for it. The caller checks that it
    /// belongs to the mesh, and that a sender without attestation is a member.
    pub member: PublicKey,
    /// SHA-256 of what was signed: for an offer what its answer must name.
    pub hash: Hash,
}

/// Which part of a step is another than it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// `from`.
    Sender,
    /// `to`.
    Recipient,
    /// `adapter`.
    Adapter,
    /// `attempt`.
    Attempt,
    /// `kind`.
    Kind,
    /// `answers`.
    Offer,
}

impl Part {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Recipient => "recipient",
            Self::Adapter => "adapter",
            Self::Attempt => "attempt",
            Self::Kind => "kind",
            Self::Offer => "offer",
        }
    }
}

/// Why a step cannot be sent, or is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum P2pError {
    /// More than [`MAX_P2P`] bytes.
    #[error("{len} bytes are too many for a negotiation frame, at most {max} are allowed")]
    TooLarge {
        /// How many there are.
        len: usize,
        /// How many there may be.
        max: usize,
    },
    /// Not for us, not by whom the frame names, or changed on the way.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It opens, but is no step.
    #[error("malformed negotiation: {0}")]
    Malformed(#[from] CodecError),
    /// A version that we do not read.
    #[error("negotiation version {0} is not known here, only {VERSION} is")]
    Version(u8),
    /// A part is another than the frame's, or belongs to another offer.
    #[error("the negotiation's {} is another than it must be", .0.as_str())]
    Mismatch(Part),
    /// The signature does not hold for this sender and mesh.
    #[error("the negotiation's signature does not hold")]
    BadSignature,
    /// The attestation of a session or service does not hold, or a member shows one.
    #[error("the sender is not vouched for: {0}")]
    Attestation(#[from] AttestationError),
    /// The member does not let this session or service write to others.
    #[error("the sender lacks the capability \"dm\"")]
    NotAllowed,
    /// Signed too long ago, or too far ahead: held back, replayed, or a wrong clock.
    #[error("the negotiation was signed {off_ms} ms away from this node's time: check both clocks")]
    Skew {
        /// How far, in milliseconds.
        off_ms: u64,
    },
}

impl P2pError {
    /// A word for events and metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Seal(_) => "undecryptable",
            Self::Malformed(_) => "malformed",
            Self::Version(_) => "version",
            Self::Mismatch(part) => part.as_str(),
            Self::BadSignature => "bad_signature",
            Self::Attestation(_) => "attestation",
            Self::NotAllowed => "not_allowed",
            Self::Skew { .. } => "skew",
        }
    }
}

fn said<'a>(mesh: &'a MeshId, payload: &'a [u8]) -> [&'a [u8]; 2] {
    [&mesh.0, payload]
}

fn hash(mesh: &MeshId, payload: &[u8]) -> Hash {
    Hash::of(&layout(domains::P2P, &said(mesh, payload)))
}

impl Negotiation {
    /// Signs with the sender's `key` and seals with its `pair` with the recipient. `attestation` is for
    /// sessions and services. `nonce` must never repeat for the pair: 24 random bytes.
    ///
    /// # Errors
    /// [`P2pError::TooLarge`].
    pub fn seal(
        &self,
        mesh: &MeshId,
        key: &SecretKey,
        attestation: Option<&Signed>,
        pair: &Pair,
        nonce: &Nonce,
    ) -> Result<Sealed, P2pError> {
        let payload = codec::to_msgpack(self);
        let sig = key.sign(domains::P2P, &said(mesh, &payload));
        let hash = hash(mesh, &payload);
        let step = SignedStep { payload: Blob(payload), sig, attestation: attestation.cloned() };
        let plain = codec::to_msgpack(&step);
        let len = plain.len() + OVERHEAD;
        if len > MAX_P2P {
            return Err(P2pError::TooLarge { len, max: MAX_P2P });
        }
        Ok(Sealed { payload: Blob(pair.seal(nonce, &plain)), hash })
    }

    /// The frame that carries it.
    #[must_use]
    pub fn frame(&self, sealed: Sealed) -> P2pFrame {
        let Self { kind, to, from, attempt, .. } = *self;
        let adapter = self.adapter.clone();
        P2pFrame { kind, to, from, adapter, attempt, payload: sealed.payload, loopback: false }
    }
}

/// Opens a frame's payload with our pair with its sender, and checks everything but that the sender's
/// member belongs to the mesh, and that it has not been seen before ([`super::Attempts`]).
///
/// # Errors
/// [`P2pError`]: the first thing wrong. Nothing of the step may be acted on then.
pub fn open(payload: &[u8], pair: &Pair, expected: &Expected<'_>) -> Result<Opened, P2pError> {
    if payload.len() > MAX_P2P {
        return Err(P2pError::TooLarge { len: payload.len(), max: MAX_P2P });
    }
    let outer: SignedStep = codec::from_msgpack(&pair.open(payload)?)?;
    let step: Negotiation = codec::from_msgpack(&outer.payload)?;
    if step.v != VERSION {
        return Err(P2pError::Version(step.v));
    }
    let same = |part, holds: bool| if holds { Ok(()) } else { Err(P2pError::Mismatch(part)) };
    same(Part::Sender, step.from == *expected.from)?;
    same(Part::Recipient, step.to == *expected.me)?;
    step.from
        .verify(domains::P2P, &said(expected.mesh, &outer.payload), &outer.sig)
        .map_err(|_| P2pError::BadSignature)?;
    same(Part::Adapter, step.adapter == expected.adapter)?;
    same(Part::Attempt, step.attempt == expected.attempt)?;
    same(Part::Kind, step.kind == expected.kind)?;
    let answers = match step.kind {
        P2pKind::Offer => step.answers.is_none(),
        _ => step.answers.is_some() && step.answers.as_ref() == expected.offer,
    };
    same(Part::Offer, answers)?;
    let off_ms = step.at.abs_diff(expected.now);
    if off_ms > ms(SKEW) {
        return Err(P2pError::Skew { off_ms });
    }
    let member = match &outer.attestation {
        None => step.from,
        Some(signed) => vouched(signed, &step, expected)?,
    };
    let hash = hash(expected.mesh, &outer.payload);
    Ok(Opened { step, member, hash })
}

/// The member that vouches for a step's sender.
fn vouched(
    signed: &Signed,
    step: &Negotiation,
    expected: &Expected<'_>,
) -> Result<PublicKey, P2pError> {
    let malformed = |e: &dyn std::fmt::Display| AttestationError::Malformed(e.to_string());
    let member = signed.peek::<Attestation>().map_err(|e| malformed(&e))?.member;
    let word = Attestation::verify(signed, expected.mesh, &member, expected.now)?;
    if word.key != step.from {
        return Err(AttestationError::Mismatch.into());
    }
    if word.capabilities.allow(capability::DM) { Ok(member) } else { Err(P2pError::NotAllowed) }
}
