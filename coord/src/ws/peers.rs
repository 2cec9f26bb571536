//! What the broker knows of a mesh's members, as nodes read it.

use std::collections::HashMap;

use meshwire_signaling::envelope::StateHead;
use meshwire_signaling::frame::{Frame, ListPeers, PeerInfo, Peers, PresenceInfo};
use meshwire_signaling::limits::MAX_PEERS_PAGE;
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{MeshId, PublicKey, codec};

use super::complete::unavailable;
use super::registry::Shared;
use crate::serve::Inner;
use crate::store::{MemberRow, StoreError};

/// Bytes of one page of peers, before encoding: with base64 and the rest it stays below a frame's
/// limit.
const PAGE_BYTES: usize = 128 * 1024;

/// Bytes of one member's presences, of which there are at most
/// [`MAX_PER_MEMBER`](crate::core::presence::MAX_PER_MEMBER).
const PRESENCE_BYTES: usize = 64 * 1024;

/// Answers with one page of members.
pub(super) async fn list(conn: &Shared, ask: &ListPeers) -> Frame {
    match page(conn, ask).await {
        Ok(peers) => peers.into(),
        Err(e) => unavailable(&e).to_req(Some(ask.req)).into(),
    }
}

async fn page(conn: &Shared, ask: &ListPeers) -> Result<Peers, StoreError> {
    let store = &conn.inner.store;
    let rows: Vec<_> = match &ask.key {
        Some(key) => store.member(&conn.mesh, key).await?.into_iter().collect(),
        None => store.members(&conn.mesh, ask.after.as_ref(), MAX_PEERS_PAGE + 1).await?,
    };
    let groups = groups(&conn.inner, &conn.mesh, &rows).await?;
    let (mut peers, mut bytes, mut last, mut next) = (Vec::new(), 0, None, None);
    for row in rows {
        let key = row.key;
        let mine = groups.get(&key).map_or(&[][..], Vec::as_slice);
        let Some(peer) = peer(&conn.inner, row, mine, &conn.member) else { continue };
        bytes += codec::to_msgpack(&peer).len();
        if peers.len() >= MAX_PEERS_PAGE || (bytes > PAGE_BYTES && !peers.is_empty()) {
            next = last;
            break;
        }
        last = Some(key);
        peers.push(peer);
    }
    Ok(Peers { req: ask.req, peers, next, head: StateHead::origin(&conn.mesh) })
}

/// The whole of what is known of one member. None: there is no such member.
pub(super) async fn one(
    inner: &Inner,
    mesh: &MeshId,
    member: &PublicKey,
    reader: &PublicKey,
) -> Result<Option<PeerInfo>, StoreError> {
    let Some(row) = inner.store.member(mesh, member).await? else { return Ok(None) };
    let groups = groups(inner, mesh, std::slice::from_ref(&row)).await?;
    Ok(peer(inner, row, groups.get(member).map_or(&[][..], Vec::as_slice), reader))
}

async fn groups(
    inner: &Inner,
    mesh: &MeshId,
    rows: &[MemberRow],
) -> Result<HashMap<PublicKey, Vec<Signed>>, StoreError> {
    let keys: Vec<PublicKey> = rows.iter().map(|r| r.key).collect();
    let mut groups: HashMap<PublicKey, Vec<Signed>> = HashMap::new();
    for (member, statement) in inner.store.groups_of(mesh, &keys).await? {
        if let Ok(statement) = codec::from_msgpack(&statement) {
            groups.entry(member).or_default().push(statement);
        }
    }
    Ok(groups)
}

/// A member as `reader` may see it. None: its stored chain is broken.
fn peer(inner: &Inner, row: MemberRow, groups: &[Signed], reader: &PublicKey) -> Option<PeerInfo> {
    let mut peer = PeerInfo::new(codec::from_msgpack(&row.chain).ok()?);
    peer.groups = groups.to_vec();
    peer.hidden = row.hidden;
    if row.hidden && row.key != *reader {
        return Some(peer);
    }
    peer.online = inner.registry.online(&row.mesh, &row.key);
    peer.since = row.seen_at;
    peer.about = row.about.and_then(|a| codec::from_msgpack(&a).ok()).unwrap_or_default();
    peer.presences = bounded(inner.registry.presences(&row.mesh, &row.key));
    Some(peer)
}

/// As many presences as fit: what one member says must not fill a frame. Profiles go first.
fn bounded(mut presences: Vec<PresenceInfo>) -> Vec<PresenceInfo> {
    let size = |p: &PresenceInfo| codec::to_msgpack(p).len();
    if presences.iter().map(size).sum::<usize>() > PRESENCE_BYTES {
        presences.iter_mut().for_each(|p| p.about.profile = None);
    }
    let mut bytes = 0;
    presences.retain(|p| {
        bytes += size(p);
        bytes <= PRESENCE_BYTES
    });
    presences
}
