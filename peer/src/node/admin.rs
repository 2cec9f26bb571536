//! Closing connections of others, for owner and admins.

use std::sync::Arc;

use meshwire_signaling::PublicKey;
use meshwire_signaling::frame::Disconnect as Request;
use meshwire_signaling::limits::MAX_DISCONNECT;

use super::find::candidates;
use super::join::link_error;
use super::mesh::Mesh;
use super::{Node, invalid, store_error};
use crate::api::{ApiError, Disconnect, Disconnected, Named};

impl Node {
    /// Closes the connections of members, all that they have, or of sessions. They come back by
    /// themselves, unless kicked (inventory B-116, B-117).
    ///
    /// # Errors
    /// [`ApiError`]; `forbidden` where our member is neither owner nor admin.
    pub async fn disconnect(&self, ask: Disconnect) -> Result<Disconnected, ApiError> {
        self.owner_only("disconnect others")?;
        let mesh = self.pick(ask.mesh.as_deref())?;
        match (ask.all, ask.peers.len()) {
            (true, 0) | (false, 1..=MAX_DISCONNECT) => {}
            (true, _) => {
                return Err(invalid("bad_request", "say whom, or everybody, not both"));
            }
            (false, 0) => {
                return Err(invalid("bad_request", "say whom: members, sessions, or everybody"));
            }
            (false, _) => {
                let text = format!("at most {MAX_DISCONNECT} at once; say everybody instead");
                return Err(invalid("too_many", text));
            }
        }
        mesh.up().await?;
        let of = mesh.id().to_string();
        let mut keys = Vec::with_capacity(ask.peers.len());
        for text in &ask.peers {
            let (_, peer) = self.find(Some(&of), text).await?;
            keys.push(peer.key);
        }
        // Who is gone by the answer still has a name.
        let before = names(&mesh).await?;
        let request = Request { req: 0, keys, all: ask.all, kick: ask.kick };
        let done = mesh.link.disconnect(request).await.map_err(link_error)?;
        let after = names(&mesh).await?;
        let named = |key: PublicKey| {
            let known = before.iter().chain(&after).find(|n| n.key == key).cloned();
            known.unwrap_or_else(|| Named { name: key.short(), key })
        };
        Ok(Disconnected {
            affected: done.affected.into_iter().map(named).collect(),
            skipped: done.skipped.into_iter().map(named).collect(),
        })
    }
}

async fn names(mesh: &Arc<Mesh>) -> Result<Vec<Named>, ApiError> {
    let all = candidates(mesh).await.map_err(store_error)?;
    Ok(all.into_iter().map(|c| Named { name: c.full_name(), key: c.key }).collect())
}
