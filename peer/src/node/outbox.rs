//! Looking into the outbox, and sending anew what did not arrive.

use std::sync::Arc;

use meshwire_signaling::frame::{MessageState, code};
use meshwire_signaling::limits::{QUEUED_TTL, ms};
use meshwire_signaling::{EnvelopeId, PublicKey, Target, UnixMillis};
use meshwire_transport::net::random;

use super::events::Event;
use super::groups::reach;
use super::identity::{Identity, Viewer};
use super::mesh::Mesh;
use super::seal::reopen;
use super::send::check_ttl;
use super::{Node, store_error};
use crate::api::{ApiError, ErrorKind, Message, Outbox, Requeue};
use crate::core::outbox::OutboxState;
use crate::store::{
    MAX_OUTBOX_LIST, NewRecipient, OutboxFilter, OutboxMeta, OutboxRow, Redirect,
    Requeue as Replace, StoreError,
};

/// Rows of an outbox list whose caller names no limit.
const DEFAULT: u32 = 100;

/// The stored states that a public one stands for.
fn states(public: MessageState) -> Vec<OutboxState> {
    OutboxState::ALL.into_iter().filter(|s| s.public() == public).collect()
}

impl Node {
    /// Messages that were sent, newest first; for a session its own. Of groups' messages the
    /// recipients are left out: ask for the one message.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn outbox(&self, ask: Outbox) -> Result<Vec<Message>, ApiError> {
        let mesh = match ask.mesh.as_deref() {
            Some(name) => Some(self.pick(Some(name))?.id()),
            None => None,
        };
        let author = match self.viewer() {
            Viewer::Owner => None,
            Viewer::Session { key, .. } => Some(key),
        };
        let filter = OutboxFilter {
            mesh,
            states: ask.state.map(states).unwrap_or_default(),
            recipient: None,
            author,
            without_pings: !ask.all,
            limit: ask.limit.unwrap_or(DEFAULT).min(MAX_OUTBOX_LIST),
        };
        let rows = self.services().store.outbox_list(&filter).await.map_err(store_error)?;
        Ok(rows.iter().map(|row| self.describe(row, false)).collect())
    }

    /// Sends a message anew under a fresh id, with a fresh life and number; the old row stays and
    /// names the new one (inventory C-021). A group's message goes to all who are in the group now.
    ///
    /// # Errors
    /// [`ApiError`]; `not_requeueable` for what a path has, or has arrived.
    pub async fn requeue(&self, ask: Requeue) -> Result<Message, ApiError> {
        let ttl = ask.ttl_ms.unwrap_or(ms(QUEUED_TTL));
        check_ttl(ttl)?;
        let old = self.find_own(&ask.id).await?;
        let mesh = self.pick(Some(&old.meta.mesh.to_string()))?;
        if !old.meta.state.may_requeue() {
            let (id, state) = (old.meta.id, old.meta.state);
            return Err(store_error(StoreError::NotRequeueable { id, state }));
        }
        let author = mesh.identity(&old.meta.author).ok_or_else(|| {
            let text = format!("the session that wrote {} has ended: send it as you", old.meta.id);
            ApiError::new(ErrorKind::Denied, "bad_session", text)
        })?;
        let recipients = match &old.meta.target {
            Target::Group { name } => reach(&mesh, name).await?,
            _ => Vec::new(),
        };
        let expires_at = mesh.now().saturating_add(ttl);
        let anew = Anew { expires_at, recipients, redirect: None };
        let row = replace(&mesh, &author, &old, anew).await.map_err(|e| match e {
            Unsealed::Broken(e) => {
                let text = format!("the message {} cannot be read: {e}", old.meta.id);
                ApiError::new(ErrorKind::Io, "store", text)
            }
            Unsealed::Store(e) => store_error(e),
        })?;
        self.describe_whole(&row.meta, false).await
    }
}

/// How a message goes on in an old one's place.
struct Anew {
    expires_at: UnixMillis,
    recipients: Vec<NewRecipient>,
    redirect: Option<Redirect>,
}

/// Why a message could not be sealed anew.
enum Unsealed {
    /// The old one cannot be read, or nothing can be sealed for the new recipient.
    Broken(String),
    /// The store's reason.
    Store(StoreError),
}

/// Seals a message of ours anew and puts it in the old one's place.
async fn replace(
    mesh: &Mesh,
    author: &Identity,
    old: &OutboxRow,
    anew: Anew,
) -> Result<OutboxRow, Unsealed> {
    let now = mesh.now();
    let id = EnvelopeId::new(now, u128::from_be_bytes(random(mesh.services.net.as_ref())));
    let mut letter = reopen(author, old, id, now, anew.expires_at).map_err(Unsealed::Broken)?;
    if let Some(redirect) = &anew.redirect {
        letter.target = redirect.target.clone();
    }
    let ready = letter.prepare(mesh, author, &anew.recipients).await;
    let ready = ready.map_err(|e| Unsealed::Broken(e.to_string()))?;
    let replace = Replace {
        mesh: old.meta.mesh,
        old: old.meta.id,
        new: id,
        now,
        expires_at: anew.expires_at,
        recipients: anew.recipients,
        redirect: anew.redirect,
    };
    let seal = Box::new(|slot| Ok(ready.seal(slot)));
    let row = mesh.store().requeue(replace, seal).await.map_err(Unsealed::Store)?;
    mesh.wake.notify_one();
    Ok(row)
}

/// The session that a message is for has ended: seals it anew for its member, by what our own roster
/// said when it was sent. False if that is not possible, now or later; nothing has changed then.
///
/// # Errors
/// [`StoreError`]; nothing has changed, and it may be possible later.
pub(super) async fn redirect(mesh: &Arc<Mesh>, old: &OutboxRow) -> Result<bool, StoreError> {
    let Some(new) = try_redirect(mesh, old).await? else { return Ok(false) };
    tracing::info!(
        target: "meshwire::events::outbox::redirected",
        mesh = %mesh.id().short(), id = %old.meta.id, %new,
        "the session has ended: its member gets the message"
    );
    mesh.services.tell(Event::Outbox {
        mesh: mesh.id(),
        id: old.meta.id,
        author: old.meta.author,
        state: OutboxState::Aborted,
        reason: Some(code::TARGET_GONE.to_owned()),
    });
    Ok(true)
}

async fn try_redirect(mesh: &Mesh, old: &OutboxRow) -> Result<Option<EnvelopeId>, StoreError> {
    let Some(member) = behind(&old.meta) else { return Ok(None) };
    let over = old.meta.expires_at <= mesh.now();
    if member == old.meta.author || over || !old.meta.state.may_redirect() {
        return Ok(None);
    }
    let known = mesh.store().member(&mesh.id(), &member).await?;
    let (Some(author), Some(known)) = (mesh.identity(&old.meta.author), known) else {
        return Ok(None);
    };
    let redirect = Redirect {
        target: Target::Member { key: member },
        recipient: member,
        member: None,
        peer_name: known.name,
    };
    let expires_at = old.meta.expires_at;
    let anew = Anew { expires_at, recipients: Vec::new(), redirect: Some(redirect) };
    let why = match replace(mesh, &author, old, anew).await {
        Ok(new) => return Ok(Some(new.meta.id)),
        Err(Unsealed::Broken(e)) => e,
        // It has moved on, or cannot be sealed.
        Err(Unsealed::Store(
            e @ (StoreError::NotRequeueable { .. }
            | StoreError::NotFound(_)
            | StoreError::Freeze(_)),
        )) => e.to_string(),
        Err(Unsealed::Store(e)) => return Err(e),
    };
    tracing::warn!(id = %old.meta.id, "not sealed anew for the member: {why}");
    Ok(None)
}

/// The member behind a message's recipient, where that is a session or service.
pub(super) fn behind(meta: &OutboxMeta) -> Option<PublicKey> {
    match meta.target {
        Target::Session { .. } | Target::Service { .. } => meta.member,
        _ => None,
    }
}
