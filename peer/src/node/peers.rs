//! Who belongs to our meshes and who of them is there, and how to make sure that they are who they
//! seem.

use std::collections::HashMap;
use std::sync::Arc;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::Attendance;
use meshwire_signaling::id::safety_number;
use meshwire_signaling::{PublicKey, UnixMillis};
use meshwire_transport::direct::Reach;

use super::mesh::Mesh;
use super::views::{PeerView, SessionView};
use super::{Node, find, store_error};
use crate::api::{
    ApiError, GroupRole, ListPeers, Peer, PeerKind, PeerPath, PeerPathKind, SafetyNumber, Verify,
};
use crate::store::{MemberRow, StoreError};

impl Node {
    /// The members of one mesh or of all, and their sessions and services that are there; ours are
    /// from our own books, whether the broker knows them yet or not.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn peers(&self, ask: ListPeers) -> Result<Vec<Peer>, ApiError> {
        let meshes = self.scope(ask.mesh.as_deref())?;
        // Whether somebody who is there can be heard right now is no news: only the broker knows.
        let fresh = async {
            for mesh in meshes.iter().filter(|m| m.is_up()) {
                find::refresh(mesh).await;
            }
        };
        let _ = tokio::time::timeout(find::ROSTER_WAIT, fresh).await;
        let mut out = Vec::new();
        for mesh in meshes {
            out.extend(peers_of(&mesh, ask.all).await.map_err(store_error)?);
        }
        if let Some(own) = self.session() {
            let under = |p: &&mut Peer| matches!(p.kind, PeerKind::Session | PeerKind::Service);
            // Its own mesh is all that a session may ask about.
            for peer in out.iter_mut().filter(under).filter(|p| p.member == own.member) {
                peer.this_session = peer.key == own.key();
                peer.sibling = !peer.this_session;
            }
        }
        Ok(out)
    }

    /// The safety number with a peer's member, to be compared by voice.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn verify(&self, ask: Verify) -> Result<SafetyNumber, ApiError> {
        let (mesh, peer) = self.find(ask.mesh.as_deref(), &ask.peer).await?;
        let our_key = mesh.row.self_key;
        let number = safety_number(&our_key, &peer.member);
        Ok(SafetyNumber { name: peer.member_name, key: peer.member, our_key, number })
    }
}

async fn peers_of(mesh: &Arc<Mesh>, all: bool) -> Result<Vec<Peer>, StoreError> {
    let rows = mesh.store().members(Some(&mesh.id())).await?;
    let mut groups: HashMap<PublicKey, Vec<GroupRole>> = HashMap::new();
    for row in mesh.store().groups(&mesh.id()).await?.into_iter().filter(|g| g.joined) {
        let of = groups.entry(row.member).or_default();
        of.push(GroupRole { name: row.name, role: row.role });
    }
    let pinned = first_holders(&rows);
    let mut out = Vec::new();
    for row in rows {
        let this_node = row.key == mesh.row.self_key;
        let view = mesh.peer_view(&row.key);
        let mut member = member_row(mesh, &row, view.as_ref());
        member.groups = groups.remove(&row.key).unwrap_or_default();
        let holder = pinned.get(&row.name).copied();
        member.name_pinned_to = holder.filter(|k| *k != row.key);
        if member.hidden && !this_node && !all {
            continue;
        }
        let mut under = Vec::new();
        let there = view.map(|v| v.sessions).unwrap_or_default();
        for session in there {
            let listed = match session.kind {
                IdentityKind::Member => all,
                _ => !this_node,
            };
            if listed {
                under.push(session_row(&member, session));
            }
        }
        if this_node {
            under.extend(own_sessions(mesh, &member));
        }
        under.sort_by(|a, b| (a.kind as u8, &a.name, a.key).cmp(&(b.kind as u8, &b.name, b.key)));
        out.push(member);
        out.extend(under);
    }
    Ok(out)
}

fn member_row(mesh: &Mesh, row: &MemberRow, view: Option<&PeerView>) -> Peer {
    let this_node = row.key == mesh.row.self_key;
    let about = match view {
        _ if this_node => mesh.own.about(&row.key),
        Some(view) => view.about.clone(),
        None => Default::default(),
    };
    Peer {
        mesh_name: mesh.row.name.clone(),
        mesh: row.mesh,
        key: row.key,
        name: row.name.clone(),
        kind: PeerKind::Member,
        member: row.key,
        member_name: row.name.clone(),
        role: row.role,
        status: about.status,
        summary: about.summary,
        profile: about.profile,
        hidden: if this_node {
            !mesh.own.visible(&row.key)
        } else {
            view.is_some_and(|v| v.hidden)
        },
        reconnecting: !this_node && view.is_some_and(PeerView::reconnecting),
        groups: Vec::new(),
        capabilities: None,
        path: if this_node { None } else { path_of(mesh, row, view) },
        // We are there wherever we can see anybody.
        online: view.map(|v| v.online || this_node),
        since: view.and_then(|v| v.since),
        this_node,
        this_session: false,
        sibling: false,
        name_pinned_to: None,
    }
}

/// What messages to a member take.
fn path_of(mesh: &Mesh, row: &MemberRow, view: Option<&PeerView>) -> Option<PeerPath> {
    if let Some(info) = mesh.paths.live(&row.key) {
        let kind = match info.reach {
            Reach::Relayed => PeerPathKind::Turn,
            _ => PeerPathKind::Direct,
        };
        let rtt_us = u64::try_from(info.rtt.as_micros()).ok();
        return Some(PeerPath { kind, rtt_us });
    }
    let relay = mesh.is_up() && view.is_some_and(|v| v.online);
    relay.then_some(PeerPath { kind: PeerPathKind::Relay, rtt_us: None })
}

/// The row of an identity under its member's.
fn session_row(member: &Peer, s: SessionView) -> Peer {
    let (kind, name, capabilities) = match s.kind {
        IdentityKind::Member => (PeerKind::ControlPlane, member.name.clone(), None),
        IdentityKind::Session => (PeerKind::Session, s.name, Some(s.capabilities)),
        IdentityKind::Service => (PeerKind::Service, s.name, Some(s.capabilities)),
    };
    let about = if kind == PeerKind::ControlPlane { Default::default() } else { s.about };
    Peer {
        key: s.key,
        name,
        kind,
        status: about.status,
        summary: about.summary,
        profile: about.profile,
        reconnecting: s.attendance == Attendance::Grace,
        groups: Vec::new(),
        capabilities,
        online: Some(true),
        since: Some(s.since),
        name_pinned_to: None,
        ..member.clone()
    }
}

fn own_sessions(mesh: &Mesh, member: &Peer) -> Vec<Peer> {
    let (up, generation) = (mesh.is_up(), mesh.generation());
    let row = |s: Arc<super::sessions::SessionHandle>| {
        let about = mesh.own.about(&s.key());
        Peer {
            key: s.key(),
            name: s.name.clone(),
            kind: PeerKind::Session,
            status: about.status,
            summary: about.summary,
            profile: about.profile,
            groups: Vec::new(),
            capabilities: Some(s.capabilities.clone()),
            online: up.then(|| s.is_bound(generation)),
            since: Some(s.started_at),
            ..member.clone()
        }
    };
    mesh.sessions.live().into_iter().map(row).collect()
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
