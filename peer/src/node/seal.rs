//! Makes envelopes: to one key, or to a group with a wrap for each recipient; and opens our own again.
//!
//! A group's envelope is kept with one more wrap, for its author: with it the content key can be had
//! again, for recipients that are added and for a requeue. It is never sent.

use std::sync::Arc;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::envelope::{Author, Proof, StateHead, Suite, box_key_id};
use meshwire_signaling::id::Blob;
use meshwire_signaling::seal::{ContentKey, Pair, SealError, Wrap};
use meshwire_signaling::{
    Channel, Content, Durability, Envelope, EnvelopeId, Hash, Header, InstanceId, Priority,
    PublicKey, Target, UnixMillis,
};
use meshwire_transport::net::random;

use super::identity::Identity;
use super::mesh::Mesh;
use crate::store::{NewRecipient, OutboxRow, Slot};

/// Wraps made before others get their turn: each costs an X25519 agreement.
const WRAPS_AT_ONCE: usize = 64;

/// A message before it has its number.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) id: EnvelopeId,
    pub(super) target: Target,
    pub(super) priority: Priority,
    pub(super) sent_at: UnixMillis,
    pub(super) expires_at: UnixMillis,
    pub(super) kind: String,
    pub(super) reply_to: Option<EnvelopeId>,
    pub(super) content: Vec<u8>,
}

/// What seals the body.
enum Lock {
    One { pair: Arc<Pair>, key_id: Blob },
    Group { key: ContentKey, wraps: Vec<Wrap> },
}

/// A message that lacks only its number: what takes time is done.
pub(super) struct Ready<'a> {
    mesh: &'a Mesh,
    author: &'a Identity,
    letter: Letter,
    lock: Lock,
}

impl Letter {
    /// What is sealed.
    pub(super) fn content(&self, mesh: &Mesh, slot: Slot) -> Content {
        Content {
            kind: self.kind.clone(),
            reply_to: self.reply_to,
            mentions: Vec::new(),
            correlation: None,
            response: false,
            seq: slot.seq,
            floor: slot.floor,
            head: StateHead::origin(&mesh.id()),
            content: self.content.clone().into(),
        }
    }

    /// Makes the keys; `recipients` are a group's.
    pub(super) async fn prepare<'a>(
        self,
        mesh: &'a Mesh,
        author: &'a Identity,
        recipients: &[NewRecipient],
    ) -> Result<Ready<'a>, SealError> {
        let lock = match self.target.key() {
            Some(to) => Lock::One { pair: author.pairs.pair(&to)?, key_id: box_key_id(&to)? },
            None => {
                let key = ContentKey::new(random(mesh.services.net.as_ref()));
                let own = author.key();
                let all = recipients.iter().map(|r| r.key).chain([own]);
                let wraps = wraps(mesh, author, &key, all).await;
                if !wraps.iter().any(|w| w.to == own) {
                    return Err(SealError::BadKey);
                }
                Lock::Group { key, wraps }
            }
        };
        Ok(Ready { mesh, author, letter: self, lock })
    }
}

impl Ready<'_> {
    /// Seals and signs.
    pub(super) fn seal(self, slot: Slot) -> Envelope {
        let Self { mesh, author, letter, lock } = self;
        let content = letter.content(mesh, slot);
        let (channel, suite, key_id) = match &lock {
            Lock::One { key_id, .. } => (Channel::Dm, Suite::Box, key_id.clone()),
            Lock::Group { key, .. } => {
                (Channel::Group, Suite::Wrap, Blob(key.commitment().0.to_vec()))
            }
        };
        let header = Header {
            channel,
            from: Author { key: author.key(), instance: slot.instance },
            target: letter.target,
            id: letter.id,
            priority: letter.priority,
            durability: Durability::Queued,
            sent_at: letter.sent_at,
            expires_at: letter.expires_at,
            suite,
            key_id,
            ephemeral: None,
        };
        let (id, key) = (mesh.id(), author.pairs.key());
        let nonce = random(mesh.services.net.as_ref());
        let mut envelope = match lock {
            Lock::One { pair, .. } => {
                Envelope::seal_box(&id, key, &header, &pair, &nonce, &content)
            }
            Lock::Group { key: content_key, wraps } => Envelope {
                wraps,
                ..Envelope::seal_group(&id, key, &header, &content_key, &nonce, &content)
            },
        };
        if author.kind != IdentityKind::Member {
            // As it is now: it must hold at `sent_at`, whenever the message arrives.
            let attestation = author.attestation.clone();
            envelope.proof = Some(Box::new(Proof { chain: mesh.row.chain.clone(), attestation }));
        }
        envelope
    }
}

/// Wraps `key` for each of `to` whose key is usable: the others could not have proven theirs.
pub(super) async fn wraps(
    mesh: &Mesh,
    author: &Identity,
    key: &ContentKey,
    to: impl Iterator<Item = PublicKey>,
) -> Vec<Wrap> {
    let mut wraps = Vec::new();
    for to in to {
        if let Ok(pair) = author.pairs.pair(&to) {
            wraps.push(key.wrap(&pair, to, &random(mesh.services.net.as_ref())));
        }
        if wraps.len() % WRAPS_AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    wraps
}

/// Why a message of ours cannot be read again, in words.
type Unreadable = String;

/// The header of a kept envelope, which may have more wraps than one on the wire.
fn header(envelope: &Envelope) -> Result<Header, Unreadable> {
    let bare = Envelope { wraps: Vec::new(), proof: None, ..envelope.clone() };
    bare.header().map_err(|e| e.to_string())
}

/// The content key of a group's message of ours.
pub(super) fn content_key(
    author: &Identity,
    envelope: &Envelope,
) -> Result<ContentKey, Unreadable> {
    let own = author.key();
    let wrap = envelope.wraps.iter().find(|w| w.to == own).ok_or("it has no wrap for us")?;
    let pair = author.pairs.pair(&own).map_err(|e| e.to_string())?;
    let commitment = Hash::try_from(&header(envelope)?.key_id[..]).map_err(|e| e.to_string())?;
    wrap.open(&pair, &commitment).map_err(|e| e.to_string())
}

/// Opens a message of ours, to be sent anew as `id` to the same target.
pub(super) fn reopen(
    author: &Identity,
    row: &OutboxRow,
    id: EnvelopeId,
    sent_at: UnixMillis,
    expires_at: UnixMillis,
) -> Result<Letter, Unreadable> {
    let content = if row.meta.target.key().is_some() {
        // Both ends of a box share its key: what we sealed we can open.
        let pair = author.pairs.pair(&row.meta.recipient).map_err(|e| e.to_string())?;
        row.envelope.open_box(&pair)
    } else {
        row.envelope.open_with(&content_key(author, &row.envelope)?)
    };
    let content = content.map_err(|e| e.to_string())?;
    Ok(Letter {
        id,
        target: row.meta.target.clone(),
        priority: row.meta.priority,
        sent_at,
        expires_at,
        kind: content.kind,
        reply_to: content.reply_to,
        content: content.content.0,
    })
}

/// A kept envelope as it is sent: without its author's own wrap.
pub(super) fn to_send(mut envelope: Envelope, author: &PublicKey) -> Envelope {
    envelope.wraps.retain(|w| w.to != *author);
    envelope
}

/// The slot that makes the longest content.
pub(super) const WIDEST: Slot =
    Slot { instance: InstanceId([0; 16]), seq: u32::MAX as u64 + 1, floor: u32::MAX as u64 + 1 };
