//! Who belongs to the mesh, verified chain by chain, who is in which group by its own word, and who
//! is there.

use std::sync::Arc;

use meshwire_signaling::attest::{Attestation, AttestationError, Capabilities, IdentityKind};
use meshwire_signaling::codec::to_msgpack;
use meshwire_signaling::frame::{
    About, Attendance, PeerInfo, Presence, PresenceEvent, PresenceInfo, feature,
};
use meshwire_signaling::invite::{Chain, Member};
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{Hash, PublicKey};
use tokio::time::Duration;

use super::events::{Event, Misbehaviour};
use super::groups;
use super::mesh::Mesh;
use super::views::{PeerView, SessionView, Word};
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
        let Some(page) = fetch(mesh, after, None).await else { return false };
        match page {
            // A cursor that does not grow would go round for ever.
            Some(next) if after.is_none_or(|a| next > a) => after = Some(next),
            _ => break,
        }
    }
    mesh.note_roster();
    true
}

/// Fetches a page, or one member, and notes what it says. None if the broker did not answer; else
/// where the next page starts.
pub(super) async fn fetch(
    mesh: &Arc<Mesh>,
    after: Option<PublicKey>,
    key: Option<PublicKey>,
) -> Option<Option<PublicKey>> {
    let page = match mesh.link.list_peers(after, key).await {
        Ok(page) => page,
        Err(e) => {
            tracing::debug!(error = %e, "the roster could not be fetched");
            return None;
        }
    };
    for peer in page.peers {
        let groups = peer.groups.clone();
        if note(mesh, peer).await == Some(mesh.row.self_key) {
            groups::announce(mesh, &groups).await;
        }
    }
    Some(page.next)
}

/// Notes what the broker says of a member: the whole of it. None: its chain does not hold.
pub(super) async fn note(mesh: &Arc<Mesh>, peer: PeerInfo) -> Option<PublicKey> {
    let member = learn(mesh, peer.chain).await?;
    let listed = Hash::of(&to_msgpack(&peer.groups));
    if member != mesh.row.self_key && !mesh.groups_known(&member, &listed) {
        match groups::learn(mesh, &member, &peer.groups).await {
            Ok(()) => mesh.note_groups(member, listed),
            Err(e) => tracing::error!(error = %e, "the groups cannot be written"),
        }
    }
    let own = peer.presences.iter().find(|p| p.key == member);
    let indirect = own.is_some_and(|p| lacks(&p.features, feature::P2P));
    let streamless = own.is_some_and(|p| lacks(&p.features, feature::STREAMS));
    let sessions = peer.presences.into_iter().filter_map(|p| view(mesh, &member, p)).collect();
    let (online, since, hidden) = (peer.online, peer.since, peer.hidden);
    let about = fair(peer.about);
    mesh.note_peer(
        member,
        PeerView { online, since, hidden, indirect, streamless, about, sessions },
    );
    Some(member)
}

/// Whether the features that a member's program named, if any, say that it cannot do something.
fn lacks(features: &[String], feature: &str) -> bool {
    !features.is_empty() && !features.iter().any(|f| f == feature)
}

/// What an identity says of itself, or nothing if it is longer than allowed.
fn fair(about: About) -> About {
    if about.fault().is_some() { About::default() } else { about }
}

/// An identity that is there; none if its member's word for it does not hold.
fn view(mesh: &Mesh, member: &PublicKey, p: PresenceInfo) -> Option<SessionView> {
    let (name, capabilities, word) = if p.kind == IdentityKind::Member {
        if p.key != *member {
            mesh.misbehaved(Misbehaviour::FalseMember, "a member's connection under another key");
            return None;
        }
        (String::new(), Capabilities::All, None)
    } else {
        let word = vouched(mesh, member, &p.key, p.kind, p.attestation.as_ref())?;
        let a = &word.attestation;
        (a.name.clone(), a.capabilities.clone(), Some(word))
    };
    Some(SessionView {
        key: p.key,
        kind: p.kind,
        name,
        capabilities,
        attendance: p.attendance,
        since: p.since,
        about: fair(p.about),
        word,
    })
}

/// The member's word for a session or service, if it holds now. One that was verified before is not
/// verified again: whatever a member says, all its sessions' words come along.
fn vouched(
    mesh: &Mesh,
    member: &PublicKey,
    key: &PublicKey,
    kind: IdentityKind,
    signed: Option<&Signed>,
) -> Option<Arc<Word>> {
    let now = mesh.now();
    let known = mesh.views().word(member, key);
    if let Some(known) = known.filter(|k| signed == Some(&k.signed) && k.holds(kind, now)) {
        return Some(known);
    }
    let judged = match signed {
        None => Err("no attestation".to_owned()),
        Some(signed) => match Attestation::verify(signed, &mesh.id(), member, now) {
            Ok(a) if a.key != *key || a.kind != kind => Err("for another identity".to_owned()),
            Ok(attestation) => Ok(Arc::new(Word { signed: signed.clone(), attestation })),
            // Time goes on, and clocks differ: nobody's fault.
            Err(AttestationError::Expired) => return None,
            Err(e) => Err(e.to_string()),
        },
    };
    judged
        .map_err(|e| {
            let text = format!("{} is not vouched for: {e}", key.short());
            mesh.misbehaved(Misbehaviour::FalseMember, &text);
        })
        .ok()
}

/// Notes that an identity came or went.
pub(super) async fn present(mesh: &Arc<Mesh>, p: Presence) {
    let shown = p.chain.is_some();
    if let Some(chain) = p.chain.clone() {
        learn(mesh, chain).await;
    }
    if mesh.known(&p.member).await.is_none() {
        // The broker's word makes nobody a member; without a chain, the roster may have one.
        if !shown {
            mesh.refresh.notify_one();
        }
        return;
    }
    if p.key != p.member {
        let session = (p.event == PresenceEvent::Joined)
            .then(|| vouched(mesh, &p.member, &p.key, p.kind, p.attestation.as_ref()))
            .flatten();
        let session = session.map(|word| SessionView {
            key: p.key,
            kind: p.kind,
            name: word.attestation.name.clone(),
            capabilities: word.attestation.capabilities.clone(),
            attendance: Attendance::Online,
            since: p.at,
            about: About::default(),
            word: Some(word),
        });
        let online = session.is_some();
        mesh.views().change(p.member, |view| {
            view.sessions.retain(|s| s.key != p.key);
            view.sessions.extend(session);
        });
        tell(mesh, p.key, p.member, p.kind, online);
        return;
    }
    let online = p.event == PresenceEvent::Joined;
    if online {
        mesh.peer_back(&p.key);
    }
    mesh.views().change(p.key, |view| {
        view.online = online;
        view.since = (p.event != PresenceEvent::Admitted).then_some(p.at);
        if online {
            // Another program than the one that was there before, perhaps.
            view.indirect = lacks(&p.features, feature::P2P);
            view.streamless = lacks(&p.features, feature::STREAMS);
        }
    });
    tell(mesh, p.key, p.member, p.kind, online);
}

fn tell(mesh: &Mesh, key: PublicKey, member: PublicKey, kind: IdentityKind, online: bool) {
    mesh.services.tell(Event::Presence { mesh: mesh.id(), key, member, kind, online });
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

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, advance};

    use super::super::testing::{NOW, World, key, lab, member};
    use super::*;

    fn session(mesh: &Mesh, member: PublicKey, at: u64) -> PresenceInfo {
        let attestation = Attestation {
            mesh: mesh.id(),
            member,
            key: key(60).public(),
            kind: IdentityKind::Session,
            name: "agent".into(),
            capabilities: Capabilities::All,
            issued_at: at,
            expires_at: at + 60_000,
        };
        PresenceInfo {
            key: attestation.key,
            kind: attestation.kind,
            attendance: Attendance::Online,
            since: NOW,
            about: About::default(),
            attestation: Some(attestation.sign(&key(1))),
            features: Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_members_word_is_verified_once_and_believed_as_long_as_it_holds() {
        let world = World::new().await;
        let node = world.node().await;
        let (mesh, member) = (lab(&node), member(&node));
        let first = session(&mesh, member, NOW);
        let changed = async |presence: &PresenceInfo| {
            let mut peer = PeerInfo::new(mesh.row.chain.clone());
            peer.presences = vec![presence.clone()];
            note(&mesh, peer).await.unwrap();
            mesh.views().word(&member, &presence.key)
        };
        let known = changed(&first).await.unwrap();
        assert!(Arc::ptr_eq(&known, &changed(&first).await.unwrap()), "not verified again");
        let mut service = first.clone();
        service.kind = IdentityKind::Service;
        assert!(changed(&service).await.is_none(), "it vouches for a session");
        assert!(changed(&first).await.is_some());
        let mut forged = first.clone();
        if let Some(signed) = &mut forged.attestation {
            signed.sig.0[0] ^= 1;
        }
        assert!(changed(&forged).await.is_none());
        assert!(changed(&first).await.is_some());
        advance(Duration::from_secs(61)).await;
        assert!(changed(&first).await.is_none(), "it is over");
        let fresh = changed(&session(&mesh, member, mesh.now())).await.unwrap();
        assert_eq!(fresh.attestation.issued_at, mesh.now());
        node.close().await;
    }
}
