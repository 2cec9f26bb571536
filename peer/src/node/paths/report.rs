//! What is known of a pair's path, for those who ask.

use meshwire_signaling::PublicKey;
use tokio::time::Instant;

use crate::api::{ApiError, AskPath, DirectPath, PathReport};
use crate::node::mesh::Mesh;
use crate::node::{Node, invalid};
use crate::path::select::Direct;
use crate::path::{Choice, Phase, select_path};

impl Node {
    /// Which path messages to a peer take, and why.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn path(&self, ask: AskPath) -> Result<PathReport, ApiError> {
        let (mesh, peer) = self.find(ask.mesh.as_deref(), &ask.peer).await?;
        if peer.member == mesh.row.self_key {
            let text = format!("{} is at this node: nothing is sent", peer.full_name());
            return Err(invalid("own_key", text));
        }
        Ok(mesh.path_report(&peer.member, peer.member_name))
    }
}

impl Mesh {
    fn path_report(&self, peer: &PublicKey, name: String) -> PathReport {
        let state = self.paths.lock();
        let pair = state.pairs.get(peer);
        let direct = pair.map_or(Direct::None, |p| p.machine.direct());
        let Choice { via, why, .. } = select_path(&self.facts(peer, direct));
        let next_try_ms = pair.and_then(|p| match p.machine.phase() {
            Phase::Waiting(at) => {
                let wait = at.saturating_duration_since(Instant::now());
                Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
            }
            _ => None,
        });
        let live = pair.and_then(|p| p.live.as_ref());
        PathReport {
            name,
            key: *peer,
            via,
            why,
            direct: live.map(|l| DirectPath::from(&*l.info.borrow())),
            next_try_ms,
            history: pair
                .map(|p| p.machine.history().entries().map(Into::into).collect())
                .unwrap_or_default(),
        }
    }
}
