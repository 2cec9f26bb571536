//! Sending a message, and where it stands.

use std::sync::Arc;

use meshwire_signaling::attest::{IdentityKind, capability};
use meshwire_signaling::frame::{MessageState, feature};
use meshwire_signaling::limits::{MAX_BODY, MAX_RECIPIENTS, MAX_TTL, QUEUED_TTL, ms};
use meshwire_signaling::seal::OVERHEAD;
use meshwire_signaling::{EnvelopeId, Hash, PublicKey, Target, codec};
use meshwire_transport::net::random;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Duration, timeout_at};

use super::events::Event;
use super::groups::{reach, require};
use super::identity::Viewer;
use super::mesh::Mesh;
use super::seal::{Letter, WIDEST};
use super::{Node, invalid, store_error, within};
use crate::api::{ApiError, Conflict, ErrorKind, Message, MessageStatus, Recipient, Send, WaitFor};
use crate::core::group;
use crate::core::outbox::OutboxState;
use crate::core::resolve::Candidate;
use crate::store::{Idempotency, NewOutbox, NewRecipient, OutboxMeta, OutboxRow, StoreError};

/// Default wait of a send that waits.
const SEND_WAIT: Duration = Duration::from_secs(30);
/// Longest idempotency key, in bytes.
const MAX_IDEMPOTENCY_KEY: usize = 256;

/// Whom a message is for.
struct To {
    mesh: Arc<Mesh>,
    target: Target,
    /// The key that answers; the author's own for groups.
    recipient: PublicKey,
    member: Option<PublicKey>,
    name: String,
    recipients: Vec<NewRecipient>,
}

impl Node {
    /// Sends a message. It is on disk, sealed and signed, before this returns.
    ///
    /// # Errors
    /// [`ApiError`]; with `wait`, [`ErrorKind::Timeout`] says where the message stands.
    pub async fn send(&self, ask: Send) -> Result<Message, ApiError> {
        let ttl = ask.ttl_ms.unwrap_or(ms(QUEUED_TTL));
        check_ttl(ttl)?;
        if ask
            .idempotency_key
            .as_ref()
            .is_some_and(|k| k.is_empty() || k.len() > MAX_IDEMPOTENCY_KEY)
        {
            let text = format!("an idempotency key has 1 to {MAX_IDEMPOTENCY_KEY} bytes");
            return Err(invalid("bad_idempotency_key", text));
        }
        let to = self.address(&ask).await?;
        let mesh = &to.mesh;
        let author = self.author(mesh)?;
        if author.kind != IdentityKind::Member {
            require(mesh, feature::DELEGATES)?;
        }
        if author.key() == to.recipient && to.target.key().is_some() {
            let text = format!("{} is who sends it", to.name);
            return Err(invalid("own_key", text));
        }
        let now = mesh.now();
        let letter = Letter {
            id: EnvelopeId::new(now, u128::from_be_bytes(random(self.services().net.as_ref()))),
            target: to.target.clone(),
            priority: ask.priority,
            sent_at: now,
            expires_at: now.saturating_add(ttl),
            kind: "text/plain".to_owned(),
            reply_to: ask.reply_to,
            content: ask.message.clone().into_bytes(),
        };
        check_size(mesh, &letter)?;
        let fingerprint = fingerprint(&ask, &author.key(), &to.target);
        let new = NewOutbox {
            mesh: mesh.id(),
            id: letter.id,
            author: author.key(),
            target: to.target,
            recipient: to.recipient,
            member: to.member,
            recipients: to.recipients,
            peer_name: to.name,
            priority: ask.priority,
            created_at: now,
            expires_at: letter.expires_at,
            idempotency: ask
                .idempotency_key
                .map(|key| Idempotency { key: self.scoped(key), fingerprint }),
            ping: false,
        };
        let events = self.events();
        let ready = letter.prepare(mesh, &author, &new.recipients).await.map_err(|e| {
            invalid("bad_key", format!("no message can be sealed for {}: {e}", new.peer_name))
        })?;
        let seal = Box::new(|slot| Ok(ready.seal(slot)));
        let enqueued = mesh.store().enqueue(&new, seal).await;
        let enqueued = enqueued.map_err(|e| self.not_enqueued(e))?;
        mesh.wake.notify_one();
        let (row, duplicate) = enqueued.into_row();
        let meta = match ask.wait {
            Some(wait) => self.wait(mesh, row.meta, wait, ask.timeout_ms, events).await?,
            None => row.meta,
        };
        self.describe_whole(&meta, duplicate).await
    }

    /// Whom a request means: a group, or one key. Refuses what the caller may not do.
    async fn address(&self, ask: &Send) -> Result<To, ApiError> {
        let Some(name) = group::parse(&ask.to) else {
            self.may(capability::DM)?;
            let (mesh, peer) = self.find(ask.mesh.as_deref(), &ask.to).await?;
            let member = (!peer.is_member()).then_some(peer.member);
            let (recipient, name) = (peer.key, peer.full_name());
            let target = target_of(&peer);
            return Ok(To { mesh, target, recipient, member, name, recipients: Vec::new() });
        };
        self.may(capability::GROUP)?;
        let name = name.map_err(|e| invalid("bad_group", e.to_string()))?;
        let mesh = self.pick(ask.mesh.as_deref())?;
        require(&mesh, feature::GROUPS)?;
        let recipient = self.author(&mesh)?.key();
        let recipients = reach(&mesh, &name).await?;
        if recipients.len() > MAX_RECIPIENTS {
            let text = format!(
                "@{name} has {} members, one message reaches at most {MAX_RECIPIENTS}",
                recipients.len()
            );
            return Err(invalid("too_many_recipients", text));
        }
        let shown = format!("@{name}");
        let target = Target::Group { name };
        Ok(To { mesh, target, recipient, member: None, name: shown, recipients })
    }

    /// Waits until a message, or the one that went on in its place, is as far as asked; at most until
    /// the time is over. Answers with where it stands then.
    async fn wait(
        &self,
        mesh: &Mesh,
        mut meta: OutboxMeta,
        wait: WaitFor,
        timeout_ms: Option<u64>,
        mut events: Receiver<Event>,
    ) -> Result<OutboxMeta, ApiError> {
        let until = self.services().net.now() + within(timeout_ms, SEND_WAIT);
        loop {
            let id = meta.superseded_by.unwrap_or(meta.id);
            let row = mesh.store().outbox_get(&mesh.id(), &id).await.map_err(store_error)?;
            let Some(row) = row else {
                return Err(ApiError::new(ErrorKind::NotFound, "message_not_found", "it is gone"));
            };
            meta = row.meta;
            if meta.superseded_by.is_some() {
                continue;
            }
            if reached(meta.state, wait) {
                return Ok(meta);
            }
            self.still_there()?;
            // Wait for this message's next step; a missed event only means looking once more.
            loop {
                match timeout_at(until, events.recv()).await {
                    Err(_) | Ok(Err(RecvError::Closed)) => return Ok(meta),
                    Ok(Ok(Event::Outbox { id, .. })) if id == meta.id => break,
                    Ok(Ok(Event::Session { started: false, .. })) => break,
                    Ok(Err(RecvError::Lagged(_))) => break,
                    Ok(Ok(_)) => {}
                }
            }
        }
    }

    /// Where a message stands.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn message(&self, ask: MessageStatus) -> Result<Message, ApiError> {
        let found = self.find_own(&ask.id).await?;
        self.describe_whole(&found.meta, false).await
    }

    /// The message whose id starts with `prefix`, among those that the caller may know of: for a
    /// session its own.
    pub(super) async fn find_own(&self, prefix: &str) -> Result<OutboxRow, ApiError> {
        let (mesh, author) = match self.viewer() {
            Viewer::Owner => (None, None),
            Viewer::Session { mesh, key, .. } => (Some(mesh), Some(key)),
        };
        let store = &self.services().store;
        store.outbox_find(mesh.as_ref(), author.as_ref(), prefix).await.map_err(store_error)
    }

    /// An idempotency key as it is kept: each session has keys of its own, so that none can take, or
    /// ask after, another's or the owner's.
    fn scoped(&self, key: String) -> String {
        match self.viewer() {
            Viewer::Owner => key,
            Viewer::Session { key: session, .. } => format!("session {session}: {key}"),
        }
    }

    /// Why a message was not taken. For an idempotency key that was used before, with what it was used
    /// for.
    fn not_enqueued(&self, e: StoreError) -> ApiError {
        let conflict = match &e {
            StoreError::Idempotency(c) => {
                let fingerprint = c.existing.idempotency.as_ref().map(|i| i.fingerprint.0);
                let existing = self.describe(&c.existing, true);
                let fingerprint_prefix = hex::encode(&fingerprint.unwrap_or_default()[..8]);
                Some(Box::new(Conflict { existing, fingerprint_prefix }))
            }
            _ => None,
        };
        ApiError { conflict, ..store_error(e) }
    }

    /// As [`Self::describe`], with a group's recipients.
    pub(super) async fn describe_whole(
        &self,
        meta: &OutboxMeta,
        duplicate: bool,
    ) -> Result<Message, ApiError> {
        let mut message = self.describe(meta, duplicate);
        if meta.target.key().is_none() {
            let rows = self.services().store.recipients(meta.row).await.map_err(store_error)?;
            let shown = rows.into_iter().map(|r| Recipient {
                name: r.name,
                key: r.key,
                state: r.state.within(meta.state).public(),
                reason: r.reason,
                at: r.at,
            });
            message.recipients = shown.collect();
        }
        Ok(message)
    }

    pub(super) fn describe(&self, meta: &OutboxMeta, duplicate: bool) -> Message {
        Message {
            id: meta.id,
            mesh_name: self.mesh_name(&meta.mesh),
            to: meta.peer_name.clone(),
            to_key: meta.recipient,
            priority: meta.priority,
            state: meta.state.public(),
            reason: meta.reason.clone(),
            path: meta.path.clone(),
            attempts: meta.attempts,
            created_at: meta.created_at,
            accepted_at: meta.accepted_at,
            delivered_at: meta.delivered_at,
            expires_at: meta.expires_at,
            duplicate,
            superseded_by: meta.superseded_by,
            recipients: Vec::new(),
        }
    }
}

/// How a message names its recipient.
pub(super) fn target_of(peer: &Candidate) -> Target {
    let key = peer.key;
    match peer.kind {
        IdentityKind::Member => Target::Member { key },
        IdentityKind::Session => Target::Session { key },
        IdentityKind::Service => Target::Service { key },
    }
}

/// Refuses lives that no broker allows.
pub(super) fn check_ttl(ttl_ms: u64) -> Result<(), ApiError> {
    if ttl_ms == 0 || ttl_ms > ms(MAX_TTL) {
        return Err(invalid("bad_ttl", "a message lives from 1 ms to 30 days"));
    }
    Ok(())
}

/// Whether a state is what a caller waits for, or final.
fn reached(state: OutboxState, wait: WaitFor) -> bool {
    match state.public() {
        MessageState::Queued => false,
        MessageState::Relayed | MessageState::Sent => wait == WaitFor::Accepted,
        _ => true,
    }
}

/// Refuses what no path would carry, before anything is written.
fn check_size(mesh: &Mesh, letter: &Letter) -> Result<(), ApiError> {
    let sealed = codec::to_msgpack(&letter.content(mesh, WIDEST)).len() + OVERHEAD;
    if sealed <= MAX_BODY {
        return Ok(());
    }
    let len = letter.content.len();
    let text = format!(
        "the message has {len} bytes, at most {} fit: send a file by pieces",
        len.saturating_sub(sealed - MAX_BODY)
    );
    Err(invalid("message_too_large", text))
}

/// What must be equal for two requests to be the same (inventory A-102). Of a group its name: who is
/// in it may change between the two.
fn fingerprint(ask: &Send, author: &PublicKey, target: &Target) -> Hash {
    let message = Hash::of(ask.message.as_bytes());
    let parts = (author, target, ask.priority, ask.reply_to, ask.ttl_ms, message);
    Hash::of(&codec::to_msgpack(&parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_where_it_was_asked_to_or_nothing_more_can_come() {
        use OutboxState::{Delivered, Expired, Failed, Inflight, Pending, Relayed, Sent};
        for state in [Pending, Inflight] {
            assert!(!reached(state, WaitFor::Accepted) && !reached(state, WaitFor::Delivered));
        }
        for state in [Relayed, Sent] {
            assert!(reached(state, WaitFor::Accepted) && !reached(state, WaitFor::Delivered));
        }
        for state in [Delivered, Expired, Failed] {
            assert!(reached(state, WaitFor::Accepted) && reached(state, WaitFor::Delivered));
        }
    }
}
