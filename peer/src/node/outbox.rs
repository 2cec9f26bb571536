//! Looking into the outbox, and sending anew what did not arrive.

use meshwire_signaling::envelope::Author;
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::limits::{MAX_TTL, QUEUED_TTL, ms};
use meshwire_signaling::{Content, Envelope, EnvelopeId, Header};
use meshwire_transport::net::random;

use super::{Node, store_error};
use crate::api::{ApiError, ErrorKind, Message, Outbox, Requeue};
use crate::core::outbox::OutboxState;
use crate::store::{MAX_OUTBOX_LIST, OutboxFilter, Requeue as Replace, Slot};

/// Rows of an outbox list whose caller names no limit.
const DEFAULT: u32 = 100;

/// The stored states that a public one stands for.
fn states(public: MessageState) -> Vec<OutboxState> {
    OutboxState::ALL.into_iter().filter(|s| s.public() == public).collect()
}

impl Node {
    /// Messages that were sent, newest first.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn outbox(&self, ask: Outbox) -> Result<Vec<Message>, ApiError> {
        let mesh = match ask.mesh.as_deref() {
            Some(name) => Some(self.pick(Some(name))?.id()),
            None => None,
        };
        let filter = OutboxFilter {
            mesh,
            states: ask.state.map(states).unwrap_or_default(),
            recipient: None,
            limit: ask.limit.unwrap_or(DEFAULT).min(MAX_OUTBOX_LIST),
        };
        let rows = self.services().store.outbox_list(&filter).await.map_err(store_error)?;
        Ok(rows.iter().map(|row| self.describe(row, false)).collect())
    }

    /// Sends a message anew under a fresh id, with a fresh life and number; the old row stays and
    /// names the new one (inventory C-021).
    ///
    /// # Errors
    /// [`ApiError`]; `not_requeueable` for what a path has, or has arrived.
    pub async fn requeue(&self, ask: Requeue) -> Result<Message, ApiError> {
        let ttl = ask.ttl_ms.unwrap_or(ms(QUEUED_TTL));
        if ttl == 0 || ttl > ms(MAX_TTL) {
            let text = "a message lives from 1 ms to 30 days";
            return Err(ApiError::new(ErrorKind::Invalid, "bad_ttl", text));
        }
        let store = &self.services().store;
        let old = store.outbox_find(None, &ask.id).await.map_err(store_error)?;
        let broken = |e: String| {
            let text = format!("the message {} cannot be read: {e}", old.meta.id);
            ApiError::new(ErrorKind::Io, "store", text)
        };
        let mesh = self.pick(Some(&old.meta.mesh.to_string()))?;
        // Both ends of a box share its key: what we sealed we can open.
        let pair = mesh.pairs.pair(&old.meta.recipient).map_err(|e| broken(e.to_string()))?;
        let header = old.envelope.header().map_err(|e| broken(e.to_string()))?;
        let content = old.envelope.open_box(&pair).map_err(|e| broken(e.to_string()))?;
        let now = mesh.now();
        let net = self.services().net.as_ref();
        let replace = Replace {
            mesh: old.meta.mesh,
            old: old.meta.id,
            new: EnvelopeId::new(now, u128::from_be_bytes(random(net))),
            now,
            expires_at: now.saturating_add(ttl),
        };
        let seal = |slot: Slot| {
            let header = Header {
                id: replace.new,
                from: Author { instance: slot.instance, ..header.from },
                sent_at: now,
                expires_at: replace.expires_at,
                ..header
            };
            let content = Content { seq: slot.seq, floor: slot.floor, ..content };
            let key = mesh.pairs.key();
            Ok(Envelope::seal_box(&replace.mesh, key, &header, &pair, &random(net), &content))
        };
        let row = store.requeue(replace, Box::new(seal)).await.map_err(store_error)?;
        mesh.wake.notify_one();
        Ok(self.describe(&row.meta, false))
    }
}
