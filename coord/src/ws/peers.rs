//! What the broker knows of a mesh's members, as nodes read it.

use std::collections::HashMap;

use meshwire_signaling::codec::Encoding;
use meshwire_signaling::envelope::StateHead;
use meshwire_signaling::frame::{Frame, ListPeers, PeerInfo, Peers, PresenceInfo};
use meshwire_signaling::limits::MAX_PEERS_PAGE;
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{MeshId, PublicKey, codec};
use serde::Serialize;

use super::complete::unavailable;
use super::registry::Shared;
use crate::serve::Inner;
use crate::store::{MemberRow, StoreError};

/// Bytes of one page of peers in JSON, the longer of the two encodings: below a frame's limit, and room
/// for any one peer.
const PAGE_BYTES: usize = 224 * 1024;
/// Bytes of one member's presences in JSON, of which there are at most
/// [`MAX_PER_MEMBER`](crate::core::presence::MAX_PER_MEMBER).
const PRESENCE_BYTES: usize = 96 * 1024;
/// Bytes of one member's group statements in JSON: as many honest ones as there may be take 40 KiB, but
/// a member may sign what else it likes beside.
const GROUP_BYTES: usize = 64 * 1024;

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
    let all = rows.into_iter().filter_map(|row| {
        let key = row.key;
        let mine = groups.get(&key).map_or(&[][..], Vec::as_slice);
        Some((key, peer(&conn.inner, row, mine, &conn.member)?))
    });
    let (peers, next) = first_page(all);
    Ok(Peers { req: ask.req, peers, next, head: StateHead::origin(&conn.mesh) })
}

/// As many as fit, and the last one's key if more follow.
fn first_page(
    all: impl Iterator<Item = (PublicKey, PeerInfo)>,
) -> (Vec<PeerInfo>, Option<PublicKey>) {
    let (mut peers, mut bytes, mut last) = (Vec::new(), 0, None);
    for (key, peer) in all {
        bytes += size(&peer);
        if peers.len() >= MAX_PEERS_PAGE || (bytes > PAGE_BYTES && !peers.is_empty()) {
            return (peers, last);
        }
        last = Some(key);
        peers.push(peer);
    }
    (peers, None)
}

/// Bytes in JSON, with a comma.
fn size<T: Serialize>(value: &T) -> usize {
    codec::encode(Encoding::Json, value).len() + 1
}

/// Keeps the first ones that fit into so many bytes of JSON.
fn keep<T: Serialize>(list: &mut Vec<T>, most: usize) {
    let mut bytes = 0;
    list.retain(|one| {
        bytes += size(one);
        bytes <= most
    });
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
    keep(&mut peer.groups, GROUP_BYTES);
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
    if presences.iter().map(size).sum::<usize>() > PRESENCE_BYTES {
        presences.iter_mut().for_each(|p| p.about.profile = None);
    }
    keep(&mut presences, PRESENCE_BYTES);
    presences
}

#[cfg(test)]
mod tests {
    use meshwire_signaling::attest::{Attestation, Capabilities, IdentityKind};
    use meshwire_signaling::frame::{About, Attendance, PeerChanged, Profile, Status};
    use meshwire_signaling::group::{GroupAction, GroupStatement};
    use meshwire_signaling::id::Blob;
    use meshwire_signaling::invite::{Capability, Chain, Claim, Countersign, Link, Role};
    use meshwire_signaling::limits::{
        MAX_CHAIN, MAX_FRAME, MAX_GROUPS, MAX_NAME, MAX_PROFILE_PART, MAX_SIGNED, MAX_SUMMARY,
    };
    use meshwire_signaling::sign::domains;
    use meshwire_signaling::{Hash, SecretKey, Signature};

    use super::*;
    use crate::core::presence::MAX_PER_MEMBER;
    use crate::http::invites::MAX_CHAIN_BYTES;

    const LATE: u64 = 1 << 52;

    fn signed(bytes: usize) -> Signed {
        Signed { payload: Blob(vec![7; bytes]), sig: Signature([0xab; 64]) }
    }

    /// All that a program may say of itself, in characters that JSON writes with six bytes each.
    fn about() -> About {
        let text = |chars| Some("\u{1}".repeat(chars));
        let part = || text(MAX_PROFILE_PART);
        let profile = Profile { avatar: part(), title: part(), bio: part() };
        About { status: Status::Working, summary: text(MAX_SUMMARY), profile: Some(profile) }
    }

    /// A member with as much of everything as there may be, as it is listed.
    fn largest(attestation: &Signed, statement: &Signed, about: &About) -> PeerInfo {
        let mut peer = PeerInfo::new(Chain::owner(signed(MAX_CHAIN_BYTES)));
        peer.since = Some(LATE);
        peer.about = about.clone();
        peer.groups = vec![statement.clone(); MAX_GROUPS];
        keep(&mut peer.groups, GROUP_BYTES);
        let words =
            ["dedupe", "receipts", "gate", "groups", "delegates", "lease", "p2p", "streams"];
        let session = PresenceInfo {
            key: PublicKey([0xab; 32]),
            kind: IdentityKind::Session,
            attendance: Attendance::Online,
            since: LATE,
            about: about.clone(),
            attestation: Some(attestation.clone()),
            features: words.map(str::to_owned).to_vec(),
        };
        peer.presences = bounded(vec![session; MAX_PER_MEMBER]);
        peer
    }

    #[test]
    fn the_largest_page_of_whatever_members_sign_and_say_is_a_frame() {
        let (mesh, key) = (MeshId([9; 32]), SecretKey::from_seed(&[1; 32]));
        let statement = GroupStatement {
            mesh,
            member: key.public(),
            group: "x".repeat(128),
            action: GroupAction::Leave,
            role: Some("x".repeat(64)),
            at: LATE,
        };
        let word = Attestation {
            mesh,
            member: key.public(),
            key: key.public(),
            kind: IdentityKind::Session,
            name: "x".repeat(MAX_NAME),
            capabilities: Capabilities::List(["dm", "group", "inbox"].map(str::to_owned).to_vec()),
            issued_at: LATE,
            expires_at: LATE,
        };
        let (statement, word, fat) = (statement.sign(&key), word.sign(&key), signed(MAX_SIGNED));
        let plain = About { summary: Some("x".repeat(40)), ..About::default() };
        let honest = largest(&word, &statement, &plain);
        assert_eq!((honest.groups.len(), honest.presences.len()), (MAX_GROUPS, MAX_PER_MEMBER));
        let loud = largest(&word, &statement, &about());
        assert!(loud.presences.iter().all(|p| p.about.profile.is_none()), "profiles go first");
        for peer in [honest, loud, largest(&word, &fat, &about()), largest(&fat, &fat, &plain)] {
            let many = (0..=MAX_PEERS_PAGE).map(|_| (key.public(), peer.clone()));
            let (peers, next) = first_page(many);
            assert!(!peers.is_empty() && next.is_some());
            let head = StateHead::origin(&mesh);
            let page = Frame::from(Peers { req: LATE, peers, next, head });
            for frame in [page, PeerChanged { peer }.into()] {
                for encoding in [Encoding::Json, Encoding::MsgPack] {
                    let len = frame.encode(encoding).len();
                    assert!(len <= MAX_FRAME, "{len} bytes of {}", frame.kind());
                }
            }
        }
        let small = |n: u8| (PublicKey([n; 32]), PeerInfo::new(Chain::owner(signed(9))));
        let (page, next) = first_page((0..=100).map(small));
        assert_eq!((page.len(), next), (MAX_PEERS_PAGE, Some(PublicKey([99; 32]))));
        assert_eq!(first_page((0..100).map(small)).1, None);
    }

    #[test]
    fn honest_chains_take_half_of_what_they_may() {
        let (mesh, key, name) = (MeshId([9; 32]), SecretKey::from_seed(&[1; 32]), "ö".repeat(64));
        let public = key.public();
        let capability = Capability {
            mesh,
            issuer: public,
            invite: public,
            role: Role::Member,
            uses: u32::MAX,
            issued_at: LATE,
            expires_at: LATE,
            broker: public,
        };
        let claim = Claim { mesh, invite: public, member: public, name, claimed_at: LATE };
        let count = Countersign { claim: Hash([7; 32]), use_number: u32::MAX, at: LATE };
        let link = Link {
            capability: Signed::new(&key, domains::CAPABILITY, &capability),
            claim: Signed::new(&key, domains::CLAIM, &claim),
            proof: Signature([7; 64]),
            countersign: Signed::new(&key, domains::COUNTERSIGN, &count),
        };
        // A genesis has two names and three keys.
        let chain = Chain { genesis: signed(1_000), links: vec![link; MAX_CHAIN] };
        assert!(codec::to_msgpack(&chain).len() * 2 <= MAX_CHAIN_BYTES);
    }
}
