//! Sending and reading mail, and finding whom a text means.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use meshwire_signaling::envelope::{Author, Durability, StateHead, Suite, box_key_id};
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::id::safety_number;
use meshwire_signaling::limits::{MAX_BODY, MAX_TTL, QUEUED_TTL, ms};
use meshwire_signaling::seal::OVERHEAD;
use meshwire_signaling::{
    Channel, Content, Envelope, EnvelopeId, Hash, Header, MeshId, PublicKey, Target, UnixMillis,
    codec,
};
use meshwire_transport::net::random;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Duration, timeout_at};

use super::events::Event;
use super::mesh::Mesh;
use super::{Node, roster, store_error};
use crate::api::{
    ApiError, ErrorKind, Inbox, InboxMessage, ListPeers, Message, MessageStatus, Peer,
    SafetyNumber, Send, Verify, WaitFor,
};
use crate::core::outbox::OutboxState;
use crate::core::resolve::{Candidate, ResolveError, nearest, resolve};
use crate::store::{
    Idempotency, InboxFilter, InboxRow, MAX_INBOX_LIST, MemberRow, NewOutbox, OutboxMeta, Slot,
};

/// Rows of an inbox list whose caller names no limit (inventory C-025).
const INBOX_DEFAULT: u32 = 100;
/// Longest wait that one request may ask for.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Default wait of a send that waits.
const SEND_WAIT: Duration = Duration::from_secs(30);
/// Longest idempotency key, in bytes.
const MAX_IDEMPOTENCY_KEY: usize = 256;
/// Longest wait for the broker's roster when nobody of a name is known.
const ROSTER_WAIT: Duration = Duration::from_secs(3);

fn invalid(code: &str, text: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Invalid, code, text)
}

fn within(ms: Option<u64>, default: Duration) -> Duration {
    ms.map_or(default, Duration::from_millis).min(MAX_WAIT)
}

impl Node {
    /// The mesh that a caller names, or the only one there is.
    pub(super) fn pick(&self, name: Option<&str>) -> Result<Arc<Mesh>, ApiError> {
        let meshes = self.meshes();
        let fits = |m: &Arc<Mesh>| match name {
            None => true,
            Some(n) => m.row.name == n || (n.len() >= 8 && m.id().to_string().starts_with(n)),
        };
        let found: Vec<_> = meshes.iter().filter(|m| fits(m)).cloned().collect();
        let names = |list: &[Arc<Mesh>]| {
            let words = list.iter().map(|m| format!("{} {}", m.row.name, m.id().short()));
            words.collect::<Vec<_>>().join(", ")
        };
        match (found.as_slice(), name) {
            ([mesh], _) => Ok(mesh.clone()),
            ([], _) if meshes.is_empty() => {
                let text = "this node is in no mesh yet: run meshwire join INVITE, or meshwire \
                            mesh create";
                Err(ApiError::new(ErrorKind::NotFound, "no_mesh", text))
            }
            ([], Some(n)) => {
                let known: Vec<&str> = meshes.iter().map(|m| m.row.name.as_str()).collect();
                let hint = nearest(n, &known).map_or_else(
                    || format!("this node is in: {}", names(&meshes)),
                    |name| format!("did you mean {name}?"),
                );
                let text = format!("this node is in no mesh {n:?}; {hint}");
                Err(ApiError::new(ErrorKind::NotFound, "mesh_not_found", text))
            }
            (several, _) => {
                let text = format!("say which mesh with --mesh: {}", names(several));
                Err(ApiError::new(ErrorKind::Ambiguous, "mesh_ambiguous", text))
            }
        }
    }

    /// Whom `text` means, in one mesh or in all.
    async fn find(
        &self,
        mesh: Option<&str>,
        text: &str,
    ) -> Result<(Arc<Mesh>, Candidate), ApiError> {
        let meshes = if mesh.is_some() { vec![self.pick(mesh)?] } else { self.meshes() };
        if meshes.is_empty() {
            self.pick(None)?;
        }
        let mut found = self.resolve(&meshes, text).await?;
        if matches!(found, Err(ResolveError::NotFound { .. })) {
            // It may have joined since we last heard.
            let fresh = async {
                for mesh in &meshes {
                    if mesh.up().await.is_ok() {
                        roster::refresh(mesh).await;
                    }
                }
            };
            let _ = tokio::time::timeout(ROSTER_WAIT, fresh).await;
            found = self.resolve(&meshes, text).await?;
        }
        let candidate = found.map_err(|e| {
            let (kind, code) = match e {
                ResolveError::Ambiguous { .. } => (ErrorKind::Ambiguous, "peer_ambiguous"),
                ResolveError::TooShort { .. } => (ErrorKind::Invalid, "prefix_too_short"),
                _ => (ErrorKind::NotFound, "peer_not_found"),
            };
            let mut text = e.to_string();
            if kind == ErrorKind::NotFound {
                text.push_str(&blind(&meshes));
            }
            ApiError::new(kind, code, text)
        })?;
        let mesh = meshes.into_iter().find(|m| m.id() == candidate.mesh);
        let gone = || ApiError::new(ErrorKind::Internal, "internal", "the mesh is gone");
        Ok((mesh.ok_or_else(gone)?, candidate))
    }

    async fn resolve(
        &self,
        meshes: &[Arc<Mesh>],
        text: &str,
    ) -> Result<Result<Candidate, ResolveError>, ApiError> {
        let mut members = Vec::new();
        for mesh in meshes {
            let rows =
                self.services().store.members(Some(&mesh.id())).await.map_err(store_error)?;
            members.extend(rows.into_iter().map(|m| Candidate {
                mesh: m.mesh,
                mesh_name: mesh.row.name.clone(),
                key: m.key,
                name: m.name,
            }));
        }
        Ok(resolve(text, &members))
    }

    /// Sends a message. It is on disk, sealed and signed, before this returns.
    ///
    /// # Errors
    /// [`ApiError`]; with `wait`, [`ErrorKind::Timeout`] says where the message stands.
    pub async fn send(&self, ask: Send) -> Result<Message, ApiError> {
        let (mesh, peer) = self.find(ask.mesh.as_deref(), &ask.to).await?;
        if peer.key == mesh.row.self_key {
            return Err(invalid("own_key", format!("{} is this node itself", peer.name)));
        }
        let ttl = ask.ttl_ms.unwrap_or(ms(QUEUED_TTL));
        if ttl == 0 || ttl > ms(MAX_TTL) {
            return Err(invalid("bad_ttl", "a message lives from 1 ms to 30 days"));
        }
        if ask
            .idempotency_key
            .as_ref()
            .is_some_and(|k| k.is_empty() || k.len() > MAX_IDEMPOTENCY_KEY)
        {
            let text = format!("an idempotency key has 1 to {MAX_IDEMPOTENCY_KEY} bytes");
            return Err(invalid("bad_idempotency_key", text));
        }
        let now = mesh.now();
        let draft = Draft { now, expires_at: now.saturating_add(ttl), peer: peer.key, ask: &ask };
        draft.check_size(&mesh)?;
        let id = EnvelopeId::new(now, u128::from_be_bytes(random(self.services().net.as_ref())));
        let new = NewOutbox {
            mesh: mesh.id(),
            id,
            author: mesh.row.self_key,
            target: Target::Member { key: peer.key },
            recipient: peer.key,
            peer_name: peer.name,
            priority: ask.priority,
            created_at: now,
            expires_at: draft.expires_at,
            idempotency: ask
                .idempotency_key
                .clone()
                .map(|key| Idempotency { key, fingerprint: draft.fingerprint() }),
        };
        let mut events = self.events();
        let seal = |slot: Slot| draft.seal(&mesh, id, slot).map_err(Into::into);
        let enqueued = mesh.store().enqueue(&new, Box::new(seal)).await.map_err(store_error)?;
        mesh.wake.notify_one();
        let (row, duplicate) = enqueued.into_row();
        let Some(wait) = ask.wait else { return Ok(self.describe(&row.meta, duplicate)) };
        let until = self.services().net.now() + within(ask.timeout_ms, SEND_WAIT);
        loop {
            let row =
                mesh.store().outbox_get(&mesh.id(), &row.meta.id).await.map_err(store_error)?;
            let Some(row) = row else {
                return Err(ApiError::new(ErrorKind::NotFound, "message_not_found", "it is gone"));
            };
            if reached(row.meta.state, wait) {
                return Ok(self.describe(&row.meta, duplicate));
            }
            // Wait for this message's next step; a missed event only means looking once more.
            loop {
                match timeout_at(until, events.recv()).await {
                    Err(_) => return Ok(self.describe(&row.meta, duplicate)),
                    Ok(Ok(Event::Outbox { id, .. })) if id == row.meta.id => break,
                    Ok(Err(RecvError::Lagged(_))) => break,
                    Ok(Err(RecvError::Closed)) => {
                        return Ok(self.describe(&row.meta, duplicate));
                    }
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
        let found = self.services().store.outbox_find(None, &ask.id).await.map_err(store_error)?;
        Ok(self.describe(&found.meta, false))
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
        }
    }

    fn mesh_name(&self, mesh: &MeshId) -> String {
        let meshes = self.0.meshes.read().unwrap_or_else(PoisonError::into_inner);
        meshes.get(mesh).map_or_else(|| mesh.short(), |m| m.row.name.clone())
    }

    /// Messages that came in, in the order in which they surfaced.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn inbox(&self, ask: Inbox) -> Result<Vec<InboxMessage>, ApiError> {
        let mesh = match ask.mesh.as_deref() {
            Some(name) => Some(self.pick(Some(name))?.id()),
            None => None,
        };
        let filter = InboxFilter {
            mesh,
            unread: ask.unread,
            after_order: ask.after,
            newest: ask.after.is_none() && !ask.unread,
            limit: ask.limit.unwrap_or(INBOX_DEFAULT).min(MAX_INBOX_LIST),
            from: None,
        };
        let until = self.services().net.now() + within(ask.wait_ms, Duration::ZERO);
        let mut events = self.events();
        loop {
            let mark = (!ask.peek).then(|| self.services().net.unix_ms());
            let store = &self.services().store;
            let rows = store.inbox_list(&filter, mark).await.map_err(store_error)?;
            if !rows.is_empty() {
                return Ok(rows.into_iter().map(|r| self.show(r)).collect());
            }
            loop {
                match timeout_at(until, events.recv()).await {
                    Err(_) | Ok(Err(RecvError::Closed)) => return Ok(Vec::new()),
                    Ok(Ok(Event::Message(_)) | Err(RecvError::Lagged(_))) => break,
                    Ok(Ok(_)) => {}
                }
            }
        }
    }

    fn show(&self, row: InboxRow) -> InboxMessage {
        InboxMessage {
            order: row.order.unwrap_or(0),
            id: row.item.id,
            mesh_name: self.mesh_name(&row.item.mesh),
            from: row.item.author_name,
            from_key: row.item.member,
            priority: row.item.priority,
            content_type: row.item.kind,
            message: String::from_utf8_lossy(&row.item.content).into_owned(),
            reply_to: row.item.reply_to,
            sent_at: row.item.sent_at,
            received_at: row.item.received_at,
            unread: row.seen_at.is_none(),
        }
    }

    /// The members of one mesh or of all.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn peers(&self, ask: ListPeers) -> Result<Vec<Peer>, ApiError> {
        let meshes = match ask.mesh.as_deref() {
            Some(name) => vec![self.pick(Some(name))?],
            None => self.meshes(),
        };
        let mut peers = Vec::new();
        for mesh in meshes {
            let rows = mesh.store().members(Some(&mesh.id())).await.map_err(store_error)?;
            let pinned = first_holders(&rows);
            for row in rows {
                let presence = mesh.online(&row.key);
                let holder = pinned.get(&row.name).copied();
                peers.push(Peer {
                    mesh_name: mesh.row.name.clone(),
                    mesh: row.mesh,
                    this_node: row.key == mesh.row.self_key,
                    online: presence.map(|p| p.0),
                    since: presence.and_then(|p| p.1),
                    name_pinned_to: holder.filter(|k| *k != row.key),
                    key: row.key,
                    name: row.name,
                    role: row.role,
                });
            }
        }
        Ok(peers)
    }

    /// The safety number with a peer, to be compared by voice.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn verify(&self, ask: Verify) -> Result<SafetyNumber, ApiError> {
        let (mesh, peer) = self.find(ask.mesh.as_deref(), &ask.peer).await?;
        let our_key = mesh.row.self_key;
        let number = safety_number(&our_key, &peer.key);
        Ok(SafetyNumber { name: peer.name, key: peer.key, our_key, number })
    }
}

/// What to add where nobody was found: brokers that could not be asked.
fn blind(meshes: &[Arc<Mesh>]) -> String {
    let down = meshes.iter().filter(|m| !m.is_up()).map(|m| m.row.name.as_str());
    let down: Vec<&str> = down.collect();
    if down.is_empty() {
        return String::new();
    }
    format!(
        "; who joined {} since the last connection is unknown, its broker cannot be reached now",
        down.join(", ")
    )
}

/// Who had each name first.
fn first_holders(rows: &[MemberRow]) -> HashMap<String, PublicKey> {
    let mut first: HashMap<String, (UnixMillis, PublicKey)> = HashMap::new();
    for row in rows {
        let entry = first.entry(row.name.clone()).or_insert((row.first_seen_at, row.key));
        if row.first_seen_at < entry.0 {
            *entry = (row.first_seen_at, row.key);
        }
    }
    first.into_iter().map(|(name, (_, key))| (name, key)).collect()
}

/// Whether a state is what a caller waits for, or final.
fn reached(state: OutboxState, wait: WaitFor) -> bool {
    match state.public() {
        MessageState::Queued => false,
        MessageState::Relayed | MessageState::Sent => wait == WaitFor::Accepted,
        _ => true,
    }
}

/// A message on its way into an envelope.
struct Draft<'a> {
    now: UnixMillis,
    expires_at: UnixMillis,
    peer: PublicKey,
    ask: &'a Send,
}

impl Draft<'_> {
    fn content(&self, mesh: &Mesh, slot: Slot) -> Content {
        Content {
            kind: "text/plain".to_owned(),
            reply_to: self.ask.reply_to,
            mentions: Vec::new(),
            correlation: None,
            response: false,
            seq: slot.seq,
            floor: slot.floor,
            head: StateHead::origin(&mesh.id()),
            content: self.ask.message.clone().into_bytes().into(),
        }
    }

    /// Refuses what no path would carry, before anything is written.
    fn check_size(&self, mesh: &Mesh) -> Result<(), ApiError> {
        let widest = u64::from(u32::MAX) + 1;
        let slot =
            Slot { instance: meshwire_signaling::InstanceId([0; 16]), seq: widest, floor: widest };
        let sealed = codec::to_msgpack(&self.content(mesh, slot)).len() + OVERHEAD;
        if sealed <= MAX_BODY {
            return Ok(());
        }
        let len = self.ask.message.len();
        let text = format!(
            "the message has {len} bytes, at most {} fit: send a file by pieces",
            len - (sealed - MAX_BODY)
        );
        Err(invalid("message_too_large", text))
    }

    /// What must be equal for two requests to be the same (inventory A-102).
    fn fingerprint(&self) -> Hash {
        let parts = (
            self.peer,
            self.ask.priority,
            self.ask.reply_to,
            self.ask.ttl_ms,
            Hash::of(self.ask.message.as_bytes()),
        );
        Hash::of(&codec::to_msgpack(&parts))
    }

    fn seal(
        &self,
        mesh: &Mesh,
        id: EnvelopeId,
        slot: Slot,
    ) -> Result<Envelope, meshwire_signaling::seal::SealError> {
        let header = Header {
            channel: Channel::Dm,
            from: Author { key: mesh.row.self_key, instance: slot.instance },
            target: Target::Member { key: self.peer },
            id,
            priority: self.ask.priority,
            durability: Durability::Queued,
            sent_at: self.now,
            expires_at: self.expires_at,
            suite: Suite::Box,
            key_id: box_key_id(&self.peer)?,
            ephemeral: None,
        };
        let pair = mesh.pairs.pair(&self.peer)?;
        let nonce = random(mesh.services.net.as_ref());
        let content = self.content(mesh, slot);
        Ok(Envelope::seal_box(&mesh.id(), mesh.pairs.key(), &header, &pair, &nonce, &content))
    }
}
