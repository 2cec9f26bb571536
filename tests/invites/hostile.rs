//! A broker that lies about who is a member: the other peers do not believe it. It has its own
//! genuine key, which countersigns claims, and everything that goes through it.

use std::sync::{Arc, Mutex};

use meshwire::{Event, Misbehaviour, Node, api};
use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::http::{ClaimAnswer, InvitePreview};
use meshwire_signaling::frame::{Frame, MessageFrame, PeerInfo, Presence, PresenceEvent, code};
use meshwire_signaling::invite::{Capability, Chain, Claim, Countersign, InviteLink, Link, Role};
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{PublicKey, SecretKey};
use meshwire_transport::http as calls;
use meshwire_transport::net::OsNet;
use tokio::sync::broadcast::Receiver;

use super::proto::{
    HOUR_MS, Member, Proxy, Side, World, http, inbox, letter, new_key, now, stop, until, up,
};

/// A member that nobody has invited, and the chain that should prove otherwise.
struct False {
    what: &'static str,
    key: SecretKey,
    chain: Chain,
}

/// The broker's count of a claim.
fn countersign(broker: &SecretKey, claim: &Signed) -> Signed {
    let count = Countersign { claim: claim.hash(domains::CLAIM), use_number: 1, at: now() };
    Signed::new(broker, domains::COUNTERSIGN, &count)
}

fn admit(
    broker: &SecretKey,
    capability: Signed,
    claim: Claim,
    invite: &SecretKey,
    key: &SecretKey,
) -> Link {
    let (claim, proof) = claim.sign(invite, key);
    Link { capability, countersign: countersign(broker, &claim), claim, proof }
}

/// What a broker can make without an invite's secret or an admin's key.
fn lies(world: &World, bob: &Member) -> Vec<False> {
    let broker = world.broker_secret();
    let open = bob.chain.links[0].clone();
    let terms: Capability = open.capability.peek().unwrap();
    let genuine: Claim = open.claim.peek().unwrap();
    let chain = |link: Link| Chain { genesis: bob.chain.genesis.clone(), links: vec![link] };
    let claim = |invite: PublicKey, key: &SecretKey| Claim {
        mesh: world.mesh,
        invite,
        member: key.public(),
        name: "mallory".into(),
        claimed_at: now(),
    };

    // An invite of its own, signed by itself, and one that says the owner signed it.
    let invented = new_key();
    let secret = new_key();
    let own = Capability { invite: secret.public(), issuer: broker.public(), ..terms.clone() };
    let own = Signed::new(&broker, domains::CAPABILITY, &own);
    let invented_link = admit(&broker, own, claim(secret.public(), &invented), &secret, &invented);
    let posed = new_key();
    let own = Capability { invite: secret.public(), ..terms.clone() };
    let own = Signed::new(&broker, domains::CAPABILITY, &own);
    let posed_link = admit(&broker, own, claim(secret.public(), &posed), &secret, &posed);

    // Bob's certificate with another key in it.
    let swapped = new_key();
    let mut swapped_link = open.clone();
    let other = Claim { member: swapped.public(), ..genuine };
    swapped_link.claim.payload = Signed::new(&broker, domains::CLAIM, &other).payload;
    swapped_link.proof = swapped.sign(domains::CLAIM_PROOF, &[&swapped_link.claim.payload]);
    swapped_link.countersign = countersign(&broker, &swapped_link.claim);

    // A genuine invite, claimed without its secret.
    let claimed = new_key();
    let claimed_link =
        admit(&broker, open.capability.clone(), claim(terms.invite, &claimed), &broker, &claimed);

    vec![
        False { what: "invented", key: invented, chain: chain(invented_link) },
        False { what: "invented in the owner's name", key: posed, chain: chain(posed_link) },
        False { what: "swapped", key: swapped, chain: chain(swapped_link) },
        False { what: "claimed by the broker", key: claimed, chain: chain(claimed_link) },
    ]
}

fn false_member(e: &Event) -> Option<()> {
    matches!(e, Event::Misbehaviour { what: Misbehaviour::FalseMember, .. }).then_some(())
}

/// A node behind a broker that adds to every roster, with its events from the beginning.
async fn victim(world: &World, extra: Vec<Chain>) -> (Proxy, Node, Receiver<Event>) {
    let proxy = Proxy::start(world.broker.addr(), move |to, frame| match frame {
        Frame::Peers(mut peers) => {
            let lie = |chain| PeerInfo { online: true, ..PeerInfo::new(chain) };
            peers.peers.extend(extra.iter().cloned().map(lie));
            vec![(to, peers.into())]
        }
        frame => vec![(to, frame)],
    })
    .await;
    let node = Node::at(&world.home("ann")).await.unwrap();
    let events = node.events();
    let link = InviteLink { base: proxy.base.clone(), ..world.link.clone() };
    let join = api::Join { invite: link.to_string(), member_name: "ann".into() };
    node.join(join).await.unwrap();
    (proxy, node, events)
}

/// The node knows of these members and no others.
async fn knows_only(node: &Node, names: &[&str]) {
    let mut rows = node.peers(api::ListPeers::default()).await.unwrap();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let found: Vec<_> = rows.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(found, names);
    let status = node.status(api::Done {}).await.unwrap();
    let online = status.meshes[0].online.unwrap();
    assert!(online <= names.len() as u64, "{online} of {} are online", names.len());
}

#[tokio::test]
async fn a_false_member_in_the_roster_is_noticed_and_not_listed() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let lies = lies(&world, &bob);
    let extra: Vec<_> = lies.iter().map(|l| l.chain.clone()).collect();
    let (_proxy, node, mut events) = victim(&world, extra).await;
    for _ in &lies {
        until(&mut events, false_member).await;
    }
    up(&node).await;
    knows_only(&node, &["ana", "ann", "bob"]).await;
    let rows = node.peers(api::ListPeers::default()).await.unwrap();
    let key = rows.iter().find(|r| r.name == "bob").unwrap().key;
    assert_eq!(key, bob.public(), "bob is still bob");
    for lie in &lies {
        let ask = api::Send {
            mesh: None,
            to: lie.key.public().to_string(),
            message: "x".into(),
            priority: Default::default(),
            reply_to: None,
            idempotency_key: None,
            ttl_ms: None,
            wait: None,
            timeout_ms: None,
        };
        assert_eq!(node.send(ask).await.unwrap_err().code, "peer_not_found", "{}", lie.what);
    }
    stop(node).await;
}

#[tokio::test]
async fn a_false_member_that_is_announced_is_noticed_and_not_listed() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let (proxy, node, mut events) = victim(&world, Vec::new()).await;
    up(&node).await;
    let announce = |event, key, chain| Presence {
        event,
        key,
        member: key,
        kind: IdentityKind::Member,
        at: now(),
        chain,
        attestation: None,
        features: vec![],
    };
    for lie in lies(&world, &bob) {
        let key = lie.key.public();
        for event in [PresenceEvent::Admitted, PresenceEvent::Joined] {
            proxy.inject(Side::Node, announce(event, key, Some(lie.chain.clone())));
            until(&mut events, false_member).await;
        }
        // Nobody has heard of it: no chain, or somebody else's.
        for chain in [None, Some(bob.chain.clone())] {
            proxy.inject(Side::Node, announce(PresenceEvent::Joined, key, chain));
        }
    }
    // Bob comes: what was said before him has been looked at.
    let client = world.connect(&bob, Encoding::MsgPack).await;
    let seen = until(&mut events, |e| match e {
        Event::Presence { member, online: true, .. } => Some(*member),
        _ => None,
    });
    assert_eq!(seen.await, bob.public(), "the others are not there");
    knows_only(&node, &["ana", "ann", "bob"]).await;
    let status = node.status(api::Done {}).await.unwrap();
    assert_eq!(status.meshes[0].online, Some(2), "ann and bob");
    client.close().await;
    stop(node).await;
}

#[tokio::test]
async fn mail_from_a_false_member_is_refused() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let nacks = Arc::new(Mutex::new(Vec::new()));
    let heard = nacks.clone();
    let proxy = Proxy::start(world.broker.addr(), move |to, frame| match frame {
        Frame::ClientNack(nack) => {
            heard.lock().unwrap().push(nack);
            Vec::new()
        }
        frame => vec![(to, frame)],
    })
    .await;
    let node = world.node_through(&proxy.base, "ann").await;
    let mut events = node.events();
    up(&node).await;
    let ann = node.status(api::Done {}).await.unwrap().meshes[0].mesh.key;
    let lies = lies(&world, &bob);
    for (seq, lie) in (1..).zip(&lies) {
        let (_, mut envelope) =
            letter(&world.mesh, (&lie.key, bob.instance), ann, seq, "trust me", |_| {});
        envelope.proof = Some(Box::new(meshwire_signaling::envelope::Proof {
            chain: lie.chain.clone(),
            attestation: None,
        }));
        proxy
            .inject(Side::Node, MessageFrame { to: ann, envelope, accepted_at: now(), attempt: 1 });
        until(&mut events, |e| matches!(e, Event::Misbehaviour { .. }).then_some(())).await;
    }
    // Behind it, mail of a genuine member comes through; nothing of the others has.
    let mut b = world.connect(&bob, Encoding::MsgPack).await;
    let (_, mail) = bob.letter(&world.mesh, ann, 1, "it is me", |_| {});
    b.hand(mail).await.unwrap();
    let rows = inbox(&node, 1).await;
    let found: Vec<_> = rows.iter().map(|r| (r.from.as_str(), r.message.as_str())).collect();
    assert_eq!(found, [("bob", "it is me")]);
    let reasons: Vec<_> =
        nacks.lock().unwrap().iter().map(|n| (n.from, n.reason.clone(), n.permanent)).collect();
    let wanted: Vec<_> =
        lies.iter().map(|l| (l.key.public(), "untrusted_sender".to_owned(), true)).collect();
    assert_eq!(reasons, wanted);
    stop(node).await;
}

/// Joins where the broker answers what the test says.
async fn join_at(
    world: &World,
    preview: &InvitePreview,
    answer: &ClaimAnswer,
) -> Result<api::MeshInfo, api::ApiError> {
    let invite = world.link.secret.public();
    let base = http::canned(vec![
        (format!("/v2/invites/{invite}"), serde_json::to_string(preview).unwrap()),
        (format!("/v2/invites/{invite}/claim"), serde_json::to_string(answer).unwrap()),
    ])
    .await;
    let link = InviteLink { base, ..world.link.clone() };
    let node = Node::at(&world.home("joiner")).await.unwrap();
    let join = api::Join { invite: link.to_string(), member_name: "joiner".into() };
    let result = node.join(join).await;
    stop(node).await;
    result
}

#[tokio::test]
async fn a_joiner_believes_neither_a_changed_invite_nor_a_false_certificate() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let broker = world.broker_secret();
    let invite = world.link.secret.public();
    let good = calls::invite_preview(&OsNet, &world.base, None, &invite).await.unwrap();
    let answer = ClaimAnswer { chain: bob.chain.clone(), already_member: false };
    let terms: Capability = good.capability.peek().unwrap();
    let with = |capability| InvitePreview { capability, ..good.clone() };

    let mut changed = good.capability.clone();
    let more = Capability { role: Role::Admin, ..terms.clone() };
    changed.payload = Signed::new(&broker, domains::CAPABILITY, &more).payload;
    let resigned = Signed::new(&broker, domains::CAPABILITY, &more);
    let other = Capability { invite: new_key().public(), ..terms.clone() };
    let other = Signed::new(&world.owner.key, domains::CAPABILITY, &other);
    let past = Capability { issued_at: 1, expires_at: HOUR_MS, ..terms };
    let forged_past = Signed::new(&broker, domains::CAPABILITY, &past);
    for capability in [changed, resigned, other, forged_past] {
        let refused = join_at(&world, &with(capability), &answer).await.unwrap_err();
        assert_eq!(refused.code, code::INVITE_TAMPERED, "{refused}");
    }
    // An issuer who is none.
    for lie in lies(&world, &bob) {
        let preview = InvitePreview { issuer: lie.chain.clone(), ..good.clone() };
        let refused = join_at(&world, &preview, &answer).await.unwrap_err();
        assert_eq!(refused.code, code::INVITE_TAMPERED, "{}: {refused}", lie.what);
    }
    // A genuine certificate, but another member's; and false ones.
    let refused = join_at(&world, &good, &answer).await.unwrap_err();
    assert_eq!(refused.code, code::INVITE_TAMPERED, "{refused}");
    for lie in lies(&world, &bob) {
        let answer = ClaimAnswer { chain: lie.chain.clone(), already_member: false };
        let refused = join_at(&world, &good, &answer).await.unwrap_err();
        assert_eq!(refused.code, code::INVITE_TAMPERED, "{}: {refused}", lie.what);
    }
}
