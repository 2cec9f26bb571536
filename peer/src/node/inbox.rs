//! Reading and deleting what came in.

use meshwire_signaling::Target;
use meshwire_signaling::attest::capability;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Duration, timeout_at};

use super::events::Event;
use super::{Node, invalid, store_error, within};
use crate::api::{ApiError, Deleted, Inbox, InboxDelete, InboxMessage};
use crate::store::{
    InboxDelete as Delete, InboxFilter, InboxRow, MAX_INBOX_LIST, StoreError, Viewer,
};

/// Rows of an inbox list whose caller names no limit (inventory C-025).
const INBOX_DEFAULT: u32 = 100;

impl Node {
    /// Messages that came in, in the order in which they surfaced: the owner's are those for the
    /// member, a session's those for it and, if it may read them, for its member.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn inbox(&self, ask: Inbox) -> Result<Vec<InboxMessage>, ApiError> {
        let viewer = self.reader(ask.all);
        let mut mesh = match (ask.mesh.as_deref(), self.session()) {
            (None, None) => None,
            (name, _) => Some(self.pick(name)?.id()),
        };
        let mut from = None;
        if let Some(text) = ask.from.as_deref() {
            let (of, peer) = self.find(ask.mesh.as_deref(), text).await?;
            (mesh, from) = (Some(of.id()), Some(peer.key));
        }
        let filter = InboxFilter {
            mesh,
            viewer,
            from,
            since: ask.since,
            before: ask.before,
            unread: ask.unread,
            after_order: ask.after,
            newest: ask.after.is_none() && !ask.unread,
            limit: ask.limit.unwrap_or(INBOX_DEFAULT).min(MAX_INBOX_LIST),
        };
        let until = self.services().net.now() + within(ask.wait_ms, Duration::ZERO);
        let mut events = self.events();
        loop {
            // It may have ended while it waited.
            self.still_there()?;
            let mark = (!ask.peek).then(|| self.services().net.unix_ms());
            let store = &self.services().store;
            let rows = store.inbox_list(&filter, mark).await.map_err(store_error)?;
            if !rows.is_empty() {
                return Ok(rows.into_iter().map(|r| self.show(r)).collect());
            }
            loop {
                match timeout_at(until, events.recv()).await {
                    Err(_) | Ok(Err(RecvError::Closed)) => return Ok(Vec::new()),
                    Ok(
                        Ok(Event::Message(_) | Event::Session { started: false, .. })
                        | Err(RecvError::Lagged(_)),
                    ) => break,
                    Ok(Ok(_)) => {}
                }
            }
        }
    }

    /// Deletes messages that came in. Their ids stay remembered: a copy does not bring them back.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn inbox_delete(&self, ask: InboxDelete) -> Result<Deleted, ApiError> {
        self.owner_only("delete mail")?;
        let mesh = match ask.mesh.as_deref() {
            Some(name) => Some(self.pick(Some(name))?.id()),
            None => None,
        };
        let store = &self.services().store;
        let what = match (&ask.id, ask.before) {
            (Some(_), Some(_)) => {
                let text = "say which message, or before which time, not both";
                return Err(invalid("bad_request", text));
            }
            (Some(id), None) => match store.inbox_find(mesh.as_ref(), id).await {
                Ok(found) => Delete::Row(found.row),
                Err(e @ StoreError::NotFound(_)) => {
                    let e = store_error(e);
                    let text = format!("{} in the inbox: see meshwire inbox", e.message);
                    return Err(ApiError::new(e.kind, &e.code, text));
                }
                Err(e) => return Err(store_error(e)),
            },
            (None, None) if mesh.is_none() => {
                let text = "say what to delete: a message, a mesh, or before which time";
                return Err(invalid("bad_request", text));
            }
            (None, before) => Delete::Surfaced { mesh, before },
        };
        let deleted = store.inbox_delete(&what).await.map_err(store_error)?;
        Ok(Deleted { deleted })
    }

    /// Whose mail the caller reads; `all` is the owner's wish for that of its sessions, too.
    pub(super) fn reader(&self, all: bool) -> Viewer {
        match self.session() {
            Some(s) if s.capabilities.allow(capability::INBOX) => Viewer::Session(s.key()),
            Some(s) => Viewer::SessionAlone(s.key()),
            None if all => Viewer::Everything,
            None => Viewer::Member,
        }
    }

    pub(crate) fn show(&self, row: InboxRow) -> InboxMessage {
        let item = row.item;
        let own = self.member_key(&item.mesh);
        InboxMessage {
            order: row.order.unwrap_or(0),
            id: item.id,
            mesh_name: self.mesh_name(&item.mesh),
            from: item.author_name,
            from_key: item.member,
            from_session: Some(item.author).filter(|key| *key != item.member),
            to_session: own.and_then(|own| Some(item.recipient).filter(|key| *key != own)),
            session_ended: row.handed_on,
            group: match item.target {
                Target::Group { name } => Some(name),
                _ => None,
            },
            priority: item.priority,
            content_type: item.kind,
            message: String::from_utf8_lossy(&item.content).into_owned(),
            reply_to: item.reply_to,
            sent_at: item.sent_at,
            received_at: item.received_at,
            unread: row.seen_at.is_none(),
        }
    }
}
