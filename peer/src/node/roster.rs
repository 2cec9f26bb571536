//! Who belongs to the mesh, verified chain by chain, and who is there.

use std::sync::Arc;

use meshwire_signaling::PublicKey;
use meshwire_signaling::invite::{Chain, Member};
use tokio::time::Duration;

use super::events::{Event, Misbehaviour};
use super::mesh::Mesh;
use crate::core::inbox::Known;
use crate::store::{NewMember, PinOutcome};

/// How long to wait before asking again, when the broker did not answer.
const RETRY: Duration = Duration::from_secs(2);

/// Fetches the roster at each connect and whenever somebody unknown writes.
pub(super) async fn run(mesh: Arc<Mesh>) {
    loop {
        mesh.refresh.notified().await;
        while mesh.is_up() && !refresh(&mesh).await {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Fetches all pages. False if the broker did not answer.
pub(super) async fn refresh(mesh: &Arc<Mesh>) -> bool {
    let mut after: Option<PublicKey> = None;
    loop {
        let page = match mesh.link.list_peers(after, None).await {
            Ok(page) => page,
            Err(e) => {
                tracing::debug!(error = %e, "the roster could not be fetched");
                return false;
            }
        };
        for peer in page.peers {
            if let Some(key) = learn(mesh, peer.chain).await {
                mesh.set_online(key, peer.online, peer.since);
            }
        }
        match page.next {
            // A cursor that does not grow would go round for ever.
            Some(next) if after.is_none_or(|a| next > a) => after = Some(next),
            _ => break,
        }
    }
    mesh.note_roster();
    true
}

/// Verifies a chain unless it is known, and keeps the member. None: it does not hold.
pub(super) async fn learn(mesh: &Arc<Mesh>, chain: Chain) -> Option<PublicKey> {
    let fingerprint = chain.fingerprint();
    // Nothing in a chain is believed before it is verified, so the claim names whom to look up.
    if let Some(key) = subject(&chain)
        && mesh.known(&key).await.is_some_and(|k| k.fingerprint == fingerprint)
    {
        return Some(key);
    }
    match chain.verify(&mesh.id()) {
        Ok(member) => {
            let key = member.key;
            admit(mesh, member, chain).await;
            Some(key)
        }
        Err(e) => {
            mesh.misbehaved(Misbehaviour::FalseMember, &format!("a false chain: {e}"));
            None
        }
    }
}

/// The member that a chain claims to be of.
fn subject(chain: &Chain) -> Option<PublicKey> {
    use meshwire_signaling::invite::{Claim, Genesis};
    match chain.links.last() {
        Some(link) => link.claim.peek::<Claim>().ok().map(|c| c.member),
        None => chain.genesis.peek::<Genesis>().ok().map(|g| g.owner),
    }
}

/// Keeps a member whose chain holds; a name with another key than before is loud.
pub(super) async fn admit(mesh: &Arc<Mesh>, member: Member, chain: Chain) {
    let fingerprint = chain.fingerprint();
    let row = NewMember {
        mesh: mesh.id(),
        key: member.key,
        name: member.name.clone(),
        role: member.role,
        chain,
        now: mesh.now(),
    };
    match mesh.store().upsert_member(&row).await {
        Ok(PinOutcome::KeyChanged { name, pinned_key }) => {
            tracing::warn!(
                target: "meshwire::events::roster::name_conflict",
                mesh = %mesh.id().short(), name, pinned = %pinned_key, key = %member.key,
                "this name came with another key before: verify before you trust it"
            );
            let (mesh_id, key) = (mesh.id(), member.key);
            mesh.services.tell(Event::NameConflict {
                mesh: mesh_id,
                name,
                pinned: pinned_key,
                key,
            });
        }
        Ok(_) => {}
        Err(e) => {
            tracing::error!(error = %e, "the roster cannot be written");
            return;
        }
    }
    mesh.remember(Known { key: member.key, name: member.name, fingerprint });
}
