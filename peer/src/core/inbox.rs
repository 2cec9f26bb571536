//! What becomes of an envelope that comes in (design section 5.4), decided without a store.
//!
//! ```text
//! shape -> is it ours -> signature -> times -> suite and channel -> author's membership
//!       -> decryption -> content                                          (the store dedupes last)
//! ```
//!
//! Drive contract: call [`receive`] with what the roster knows of the author. On
//! [`Verdict::Accept`] store the item, then answer with the [`Answerer`]: `delivered` for a new row
//! or a duplicate, [`Answerer::refused`] with `conflict` for another content under the same id. On
//! [`Verdict::Late`] ask the store whether it had arrived in time. On [`Verdict::Gone`] ask it too: what
//! arrived before the session's end was delivered. On [`Verdict::NeedChain`] fetch
//! the author's chain and call again, or refuse. On [`Verdict::Stream`] remember the id, and take the stream
//! only if it was new. Nothing surfaces that did not pass every step: a
//! body that cannot be opened is refused, never shown (inventory appendix 7, defect 12).

mod proof;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use meshwire_signaling::attest::{IdentityKind, capability};
use meshwire_signaling::envelope::{EnvelopeError, Suite, box_key_id};
use meshwire_signaling::frame::code;
use meshwire_signaling::invite::{Chain, Member};
use meshwire_signaling::limits::{SKEW, ms};
use meshwire_signaling::receipt::{Ends, Receipt, Verdict as Outcome, reason};
use meshwire_signaling::seal::{Pair, PairCache};
use meshwire_signaling::stream::Open;
use meshwire_signaling::{
    Channel, Envelope, EnvelopeId, Hash, InstanceId, MeshId, Priority, PublicKey, Target,
    UnixMillis,
};

use super::order::Counter;
use proof::{membership, open};

/// Longest content type, in bytes (RFC 6838 section 4.2: 127 for each half; one is plenty).
pub const MAX_KIND: usize = 127;

/// The identities of this node in one mesh, by key.
#[derive(Clone, Debug)]
pub struct Keys {
    mesh: MeshId,
    /// The member's key, for groups.
    member: Option<PublicKey>,
    mine: HashMap<PublicKey, (IdentityKind, Arc<PairCache>)>,
}

impl Keys {
    /// None yet.
    #[must_use]
    pub fn new(mesh: MeshId) -> Self {
        Self { mesh, member: None, mine: HashMap::new() }
    }

    /// Adds an identity.
    pub fn insert(&mut self, kind: IdentityKind, pairs: Arc<PairCache>) {
        if kind == IdentityKind::Member {
            self.member = Some(pairs.key().public());
        }
        self.mine.insert(pairs.key().public(), (kind, pairs));
    }

    /// Takes an identity away, for example an ended session's.
    pub fn remove(&mut self, key: &PublicKey) {
        self.mine.remove(key);
    }

    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> &MeshId {
        &self.mesh
    }

    /// The pairs of the identity that `target` names, if it is ours and of the kind named; of the
    /// member for groups, whose wraps are never for sessions.
    fn of(&self, target: &Target) -> Option<(PublicKey, &PairCache)> {
        let (key, kind) = match target {
            Target::Member { key } => (key, IdentityKind::Member),
            Target::Session { key } => (key, IdentityKind::Session),
            Target::Service { key } => (key, IdentityKind::Service),
            Target::Group { .. } => (self.member.as_ref()?, IdentityKind::Member),
            _ => return None,
        };
        let (ours, pairs) = self.mine.get(key)?;
        (*ours == kind).then_some((*key, pairs.as_ref()))
    }
}

/// What the roster has of a member whose chain it has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The member's key.
    pub key: PublicKey,
    /// Its name.
    pub name: String,
    /// [`Chain::fingerprint`] of the verified chain.
    pub fingerprint: Hash,
}

/// An accepted message, as the inbox keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The mesh.
    pub mesh: MeshId,
    /// The identity key that signed it.
    pub author: PublicKey,
    /// Its id; unique together with mesh and author.
    pub id: EnvelopeId,
    /// The envelope hash.
    pub hash: Hash,
    /// The member behind the author; the same key for members.
    pub member: PublicKey,
    /// The member's name by its chain; for sessions and services `member/name`, the second by the
    /// member's attestation.
    pub author_name: String,
    /// Which of our identities it is for.
    pub recipient: PublicKey,
    /// The kind of exchange.
    pub channel: Channel,
    /// When it surfaces.
    pub priority: Priority,
    /// Media type of `content`.
    pub kind: String,
    /// The message itself.
    pub content: Vec<u8>,
    /// The message that this one answers.
    pub reply_to: Option<EnvelopeId>,
    /// The author's outbox.
    pub instance: InstanceId,
    /// Its number in its [`Counter`], from 1.
    pub seq: u64,
    /// The lowest number that its author may still deliver; at most `seq`.
    pub floor: u64,
    /// The target as the author wrote it.
    pub target: Target,
    /// When the author froze it, Unix milliseconds, by the author's clock.
    pub sent_at: UnixMillis,
    /// When it came, Unix milliseconds.
    pub received_at: UnixMillis,
}

impl Item {
    /// What the message is numbered in.
    #[must_use]
    pub fn counter(&self) -> Counter {
        Counter {
            mesh: self.mesh,
            author: self.author,
            instance: self.instance,
            target: self.target.clone(),
            priority: self.priority,
        }
    }
}

/// Makes receipts for one envelope whose signature holds.
#[derive(Clone, Debug)]
pub struct Answerer {
    /// The mesh.
    pub mesh: MeshId,
    /// The envelope's author.
    pub author: PublicKey,
    /// The envelope.
    pub id: EnvelopeId,
    /// The envelope hash.
    pub hash: Hash,
    /// Our identity that it is for.
    pub recipient: PublicKey,
    pair: Arc<Pair>,
}

impl Answerer {
    fn receipt(&self, outcome: Outcome, reason: Option<&str>) -> Receipt {
        let ends = Ends { mesh: &self.mesh, sender: &self.author, recipient: &self.recipient };
        Receipt::new(&self.pair, ends, &self.hash, outcome, reason)
    }

    /// To be given only once the inbox row is on disk.
    #[must_use]
    pub fn delivered(&self) -> Receipt {
        self.receipt(Outcome::Delivered, None)
    }

    /// The same for another of our identities, whose pair with the author this is.
    #[must_use]
    pub fn instead(self, recipient: PublicKey, pair: Arc<Pair>) -> Self {
        Self { recipient, pair, ..self }
    }

    /// What it was for has ended; to be made by the member in its place.
    #[must_use]
    pub fn gone(&self) -> Receipt {
        self.receipt(Outcome::Gone, Some(code::TARGET_GONE))
    }

    /// Refused for good; `reason` is one of [`meshwire_signaling::receipt::reason`].
    #[must_use]
    pub fn refused(&self, reason: &str) -> Receipt {
        self.receipt(Outcome::Refused, Some(reason))
    }
}

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The message.
    pub item: Item,
    /// Until when its id must suppress copies: expiry plus skew, Unix milliseconds.
    pub keep_until: UnixMillis,
    /// The author's member and chain, where the envelope brought one that the roster does not have.
    pub proven: Option<Box<(Member, Chain)>>,
    /// For the answer.
    pub answer: Answerer,
}

/// A refusal for good.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The envelope's author, as the header says; proven only where there is a receipt.
    pub author: PublicKey,
    /// The envelope.
    pub id: EnvelopeId,
    /// One of [`meshwire_signaling::receipt::reason`].
    pub reason: &'static str,
    /// For the author; none where the author is not proven or there is no key to make it with.
    pub receipt: Option<Receipt>,
    /// What was wrong, for the log.
    pub detail: String,
}

/// An open of a stream whose author and times hold; it gets no receipt.
#[derive(Clone)]
pub struct Opening {
    /// The mesh.
    pub mesh: MeshId,
    /// The identity key that signed it.
    pub author: PublicKey,
    /// Its id; unique together with mesh and author.
    pub id: EnvelopeId,
    /// The envelope hash.
    pub hash: Hash,
    /// The member behind the author; the same key for members.
    pub member: PublicKey,
    /// The author's name, as [`Item::author_name`].
    pub author_name: String,
    /// Which of our identities it is for.
    pub recipient: PublicKey,
    /// What it says.
    pub open: Open,
    /// Until when its id must suppress copies: expiry plus skew, Unix milliseconds.
    pub keep_until: UnixMillis,
    /// As [`Accepted::proven`].
    pub proven: Option<Box<(Member, Chain)>>,
}

impl fmt::Debug for Opening {
    /// Without the stream's secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("author", &self.author)
            .field("id", &self.id)
            .field("name", &self.open.name)
            .finish_non_exhaustive()
    }
}

/// What to do with an envelope.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Store it, then answer.
    Accept(Box<Accepted>),
    /// Remember its id; if that was new, somebody may take the stream. Nobody is answered by mail.
    Stream(Box<Opening>),
    /// Answer with the refusal.
    Refuse(Box<Refusal>),
    /// Past its expiry. If the store has seen this author, id and hash, it was delivered in time
    /// and the ack was lost: answer `delivered`, else `refused(expired)`.
    Late(Answerer),
    /// It is for a session of ours that has ended. If the store has seen this author, id and hash, it
    /// was delivered before that: only the session itself can say so. Else answer `gone`.
    Gone {
        /// The session.
        session: PublicKey,
        /// For the member's answer.
        answer: Answerer,
    },
    /// The author is unknown and the envelope brings no proof.
    NeedChain(Answerer),
    /// Not now: its time lies ahead of our clock, so one of the two clocks is wrong.
    Later {
        /// The envelope's author.
        author: PublicKey,
        /// The envelope.
        id: EnvelopeId,
    },
    /// Nothing in it can be answered: no author or id can be read.
    Discard {
        /// What was wrong, for the log.
        detail: String,
    },
}

/// What decides, beside the envelope itself.
#[derive(Clone, Copy, Debug)]
pub struct Desk<'a> {
    /// Our identities.
    pub keys: &'a Keys,
    /// What the roster has under the author's key, if anything; for sessions and services, what it
    /// has of the member behind the proof's attestation.
    pub known: Option<&'a Known>,
    /// Whether the target is a session of ours that has ended.
    pub ended: bool,
    /// Now, Unix milliseconds.
    pub now: UnixMillis,
}

/// Judges `envelope`.
#[must_use]
pub fn receive(desk: Desk<'_>, envelope: &Envelope) -> Verdict {
    let Desk { keys, known, now, .. } = desk;
    let header = match envelope.header() {
        Ok(header) => header,
        Err(e) => return Verdict::Discard { detail: e.to_string() },
    };
    let (author, id) = (header.from.key, header.id);
    let refuse = |reason, receipt, detail: String| {
        Verdict::Refuse(Box::new(Refusal { author, id, reason, receipt, detail }))
    };
    // The member answers for its sessions that have ended.
    let ended = if desk.ended { header.target.key() } else { None };
    let target = match (ended, keys.member) {
        (Some(_), Some(key)) => &Target::Member { key },
        _ => &header.target,
    };
    let Some((recipient, pairs)) = keys.of(target) else {
        return refuse(reason::UNSUPPORTED, None, format!("not for us: {:?}", header.target));
    };
    // No receipt before this holds: a MAC over a stranger's bytes would be an oracle.
    let hash = match envelope.verify(&keys.mesh, &header) {
        Ok(hash) => hash,
        Err(e) => return refuse(reason::UNTRUSTED_SENDER, None, e.to_string()),
    };
    let pair = match pairs.pair(&author) {
        Ok(pair) => pair,
        Err(e) => return refuse(reason::UNDECRYPTABLE, None, e.to_string()),
    };
    let answer = Answerer { mesh: keys.mesh, author, id, hash, recipient, pair };
    // Who opens a stream waits for records, not for a receipt.
    let stream = header.channel == Channel::Stream;
    let no = |reason, detail: String| {
        // The ended session's own word would be needed, and its key is gone.
        let receipt = (ended.is_none() && !stream).then(|| answer.refused(reason));
        refuse(reason, receipt, detail)
    };

    if header.sent_at > now.saturating_add(ms(SKEW)) {
        return Verdict::Later { author, id };
    }
    match header.check(now) {
        Ok(()) => {}
        Err(EnvelopeError::Expired) if ended.is_some() => {
            return no(reason::EXPIRED, "for an ended session".into());
        }
        Err(EnvelopeError::Expired) if stream => {
            return no(reason::EXPIRED, "an open of a stream that came too late".into());
        }
        Err(EnvelopeError::Expired) => return Verdict::Late(answer),
        Err(e) => return no(reason::UNSUPPORTED, e.to_string()),
    }
    let needed = match (header.channel, header.suite) {
        (Channel::Dm, Suite::Box) => capability::DM,
        (Channel::Stream, Suite::Box) => match Open::check_header(&header) {
            Ok(()) => capability::DM,
            Err(e) => return no(reason::UNSUPPORTED, e.to_string()),
        },
        (Channel::Group, Suite::Wrap) => capability::GROUP,
        (channel, suite) => {
            return no(reason::UNSUPPORTED, format!("channel {channel:?}, suite {suite:?}"));
        }
    };
    let who = match membership(&keys.mesh, &header, envelope.proof.as_deref(), known, needed) {
        Ok(Some(who)) => who,
        Ok(None) => return Verdict::NeedChain(answer),
        Err(detail) => return no(reason::UNTRUSTED_SENDER, detail),
    };
    if let Some(session) = ended {
        if stream {
            return no(reason::UNSUPPORTED, "a stream to an ended session".into());
        }
        return Verdict::Gone { session, answer };
    }
    let keep_until = header.expires_at.saturating_add(ms(SKEW));
    if stream {
        if box_key_id(&recipient).is_ok_and(|id| id != header.key_id) {
            return no(reason::UNDECRYPTABLE, "the key id names another key".into());
        }
        let open = match Open::unseal(envelope, &header, &answer.pair) {
            Ok(open) if open.suite().is_some() => open,
            Ok(_) => return no(reason::UNSUPPORTED, "a stream with unknown suites alone".into()),
            Err(e) => return no(reason::UNDECRYPTABLE, e.to_string()),
        };
        let mesh = keys.mesh;
        let (member, author_name, proven) = (who.member, who.name, who.proven);
        return Verdict::Stream(Box::new(Opening {
            mesh,
            author,
            id,
            hash,
            member,
            author_name,
            recipient,
            open,
            keep_until,
            proven,
        }));
    }
    let content = match open(envelope, &header, &recipient, &answer.pair) {
        Ok(content) => content,
        Err(detail) => return no(reason::UNDECRYPTABLE, detail),
    };
    Verdict::Accept(Box::new(Accepted {
        item: Item {
            mesh: keys.mesh,
            author,
            id,
            hash,
            member: who.member,
            author_name: who.name,
            recipient,
            channel: header.channel,
            priority: header.priority,
            kind: content.kind,
            content: content.content.0,
            reply_to: content.reply_to,
            instance: header.from.instance,
            seq: content.seq,
            floor: content.floor,
            target: header.target,
            sent_at: header.sent_at,
            received_at: now,
        },
        keep_until,
        proven: who.proven,
        answer,
    }))
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
