//! Mail to groups and by sessions, as far as it goes without a broker.

use std::sync::Arc;

use meshwire_signaling::attest::{Attestation, Capabilities, IdentityKind};
use meshwire_signaling::frame::{About, Attendance, MessageState, PeerInfo, PresenceInfo};
use meshwire_signaling::group::{GroupAction, GroupStatement};
use meshwire_signaling::invite::{Chain, Genesis, Role};
use meshwire_signaling::seal::PairCache;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{Envelope, EnvelopeId, Hash, Priority, PublicKey, SecretKey, Target};

use super::mesh::Mesh;
use super::testing::{NOW, World, key, lab, member, session};
use super::{Node, outbox, regroup, roster, seal};
use crate::api::{ErrorKind, ListGroups, Message, MessageStatus, Outbox, Requeue, Send, SetGroup};
use crate::core::inbox::{Accepted, Desk, Keys, Known, Verdict, receive};
use crate::core::outbox::OutboxState;
use crate::store::{GroupRow, NewMember, OutboxRow, Step, StepTo};

const BOB: u8 = 50;
const CARLA: u8 = 51;
const DORA: u8 = 52;

fn public(n: u8) -> PublicKey {
    key(n).public()
}

/// Somebody's chain; the roster does not verify again what it has.
fn chain(n: u8) -> Chain {
    let genesis = Genesis {
        name: "lab".into(),
        owner: public(n),
        owner_name: "x".into(),
        broker: public(99),
        created_at: NOW,
        nonce: Hash([n; 32]),
    };
    Chain::owner(Signed::new(&key(n), domains::GENESIS, &genesis))
}

fn statement(mesh: &Mesh, n: u8, group: &str, joined: bool, at: u64) -> GroupStatement {
    let action = if joined { GroupAction::Join } else { GroupAction::Leave };
    let (mesh, member) = (mesh.id(), public(n));
    GroupStatement { mesh, member, group: group.into(), action, role: None, at }
}

async fn join(mesh: &Mesh, n: u8, group: &str, joined: bool, at: u64) {
    let statement = statement(mesh, n, group, joined, at).sign(&key(n));
    let row = GroupRow {
        mesh: mesh.id(),
        member: public(n),
        name: group.into(),
        role: None,
        joined,
        at,
        statement,
    };
    mesh.store().group_put(&row).await.unwrap();
}

/// A node whose mesh has bob and carla in `ops`, she by way of `ops/db`, and dora in none.
async fn populated() -> (World, Node, Arc<Mesh>) {
    let world = World::new().await;
    let node = world.node().await;
    let mesh = lab(&node);
    for (n, name) in [(BOB, "bob"), (CARLA, "carla"), (DORA, "dora")] {
        let row = NewMember {
            mesh: mesh.id(),
            key: public(n),
            name: name.into(),
            role: Role::Member,
            chain: chain(n),
            now: NOW,
        };
        mesh.store().upsert_member(&row).await.unwrap();
    }
    join(&mesh, BOB, "ops", true, 1).await;
    join(&mesh, CARLA, "ops/db", true, 1).await;
    (world, node, mesh)
}

fn to(whom: &str, text: &str) -> Send {
    Send {
        mesh: Some("lab".into()),
        to: whom.into(),
        message: text.into(),
        priority: Priority::Next,
        reply_to: None,
        idempotency_key: None,
        ttl_ms: None,
        wait: None,
        timeout_ms: None,
    }
}

async fn stored(mesh: &Mesh, id: EnvelopeId) -> OutboxRow {
    mesh.store().outbox_get(&mesh.id(), &id).await.unwrap().unwrap()
}

/// What `who` makes of an envelope of ours, as it would be sent; with its own wrap alone, as the
/// broker hands it on.
fn received(mesh: &Mesh, who: &SecretKey, envelope: &Envelope, author: &PublicKey) -> Verdict {
    let mut envelope = seal::to_send(envelope.clone(), author);
    assert!(envelope.wraps.iter().all(|w| w.to != *author), "ours stays here");
    envelope.wraps.retain(|w| w.to == who.public());
    let mut keys = Keys::new(mesh.id());
    keys.insert(IdentityKind::Member, Arc::new(PairCache::new(who.clone(), 4)));
    let known = Known {
        key: mesh.row.self_key,
        name: "ana".into(),
        fingerprint: mesh.row.chain.fingerprint(),
    };
    let now = mesh.now();
    receive(Desk { keys: &keys, known: Some(&known), ended: false, now }, &envelope)
}

fn opened(mesh: &Mesh, who: u8, row: &OutboxRow) -> Accepted {
    match received(mesh, &key(who), &row.envelope, &row.meta.author) {
        Verdict::Accept(accepted) => *accepted,
        verdict => panic!("{verdict:?}"),
    }
}

fn names(message: &Message) -> Vec<&str> {
    message.recipients.iter().map(|r| r.name.as_str()).collect()
}

#[tokio::test]
async fn a_groups_message_opens_for_its_members_and_nobody_else() {
    let (_world, node, mesh) = populated().await;
    let sent = node.send(to("@ops", "hello")).await.unwrap();
    assert_eq!((sent.to.as_str(), sent.state), ("@ops", MessageState::Queued));
    assert_eq!(names(&sent), ["bob", "carla"]);
    assert!(sent.recipients.iter().all(|r| r.state == MessageState::Queued));
    let row = stored(&mesh, sent.id).await;
    for who in [BOB, CARLA] {
        let item = opened(&mesh, who, &row).item;
        assert_eq!((item.content.as_slice(), item.recipient), (&b"hello"[..], public(who)));
        assert_eq!(item.target, Target::Group { name: "ops".into() });
    }
    let dora = received(&mesh, &key(DORA), &row.envelope, &row.meta.author);
    assert!(matches!(dora, Verdict::Refuse(_)), "{dora:?}");

    // Everybody, and a narrower group; whoever is hidden is left out.
    let all = node.send(to("*", "x")).await.unwrap();
    assert_eq!((all.to.as_str(), names(&all)), ("@all", vec!["bob", "carla", "dora"]));
    assert_eq!(names(&node.send(to("@ops/db", "x")).await.unwrap()), ["carla"]);
    mesh.views().change(public(BOB), |view| view.hidden = true);
    assert_eq!(names(&node.send(to("@all", "x")).await.unwrap()), ["carla", "dora"]);

    // A repeated request is the same one, whoever has joined since.
    let keyed = || Send { idempotency_key: Some("k".into()), ..to("@ops", "y") };
    let first = node.send(keyed()).await.unwrap();
    join(&mesh, DORA, "ops", true, 1).await;
    let again = node.send(keyed()).await.unwrap();
    assert_eq!((again.id, again.duplicate, names(&again)), (first.id, true, names(&first)));
    node.close().await;
}

#[tokio::test]
async fn errors_about_groups_say_what_would_be_valid() {
    let (_world, node, mesh) = populated().await;
    let error = async |whom: &str| node.send(to(whom, "x")).await.unwrap_err();
    let e = error("@osp").await;
    assert_eq!((e.kind, e.code.as_str()), (ErrorKind::NotFound, "group_not_found"));
    assert!(e.message.contains("did you mean @ops?"), "{e}");
    let e = error("@zzzzzz").await;
    assert!(e.message.contains("there are @ops, @ops/db"), "{e}");
    assert_eq!(error("@Ops").await.code, "bad_group");
    join(&mesh, BOB, "ops", false, 2).await;
    join(&mesh, CARLA, "ops/db", false, 2).await;
    assert_eq!(error("@ops").await.code, "group_not_found", "who has left is not in it");
    node.close().await;
}

#[tokio::test]
async fn a_session_writes_as_itself_and_only_as_it_may() {
    let (_world, node, mesh) = populated().await;
    let started = session(&node, "agent", Some(&["group"])).await;
    let agent = node.as_session(&started.token).unwrap();
    let e = agent.send(to("bob", "x")).await.unwrap_err();
    assert_eq!((e.kind, e.code.as_str()), (ErrorKind::Denied, "capability_missing"));
    assert!(e.message.contains("capability dm"), "{e}");
    let sent = agent.send(to("@ops", "from the agent")).await.unwrap();
    let row = stored(&mesh, sent.id).await;
    assert_eq!(row.meta.author, started.session.key);
    let item = opened(&mesh, BOB, &row).item;
    assert_eq!((item.author, item.member), (started.session.key, member(&node)));
    assert_eq!(item.author_name, "ana/agent");

    // It sees its own mail alone, and requeues it under its own key.
    node.send(to("bob", "from ana")).await.unwrap();
    let listed = agent.outbox(Outbox::default()).await.unwrap();
    assert_eq!(listed.iter().map(|m| m.id).collect::<Vec<_>>(), [sent.id]);
    assert_eq!(node.outbox(Outbox::default()).await.unwrap().len(), 2);
    join(&mesh, DORA, "ops", true, 1).await;
    let ask = Requeue { id: sent.id.to_string(), ttl_ms: None };
    let anew = agent.requeue(ask).await.unwrap();
    assert_eq!(names(&anew), ["bob", "carla", "dora"], "who is in it now");
    let row = stored(&mesh, anew.id).await;
    assert_eq!(opened(&mesh, DORA, &row).item.content, b"from the agent");
    assert_eq!(row.meta.author, started.session.key);
    let old = node.message(MessageStatus { id: sent.id.to_string() }).await.unwrap();
    assert_eq!((old.state, old.superseded_by), (MessageState::Failed, Some(anew.id)));
    node.close().await;
}

#[tokio::test]
async fn a_session_learns_nothing_of_others_ids_and_idempotency_keys() {
    let (_world, node, _mesh) = populated().await;
    let started = session(&node, "agent", None).await;
    let agent = node.as_session(&started.token).unwrap();
    let keyed = |text: &str| Send { idempotency_key: Some("k".into()), ..to("bob", text) };
    let first = node.send(keyed("from ana")).await.unwrap();
    let second = node.send(to("bob", "from ana")).await.unwrap();
    // All ids of these days start alike.
    let prefix = first.id.to_string()[..6].to_owned();
    let ask = || MessageStatus { id: prefix.clone() };
    assert_eq!(node.message(ask()).await.unwrap_err().code, "message_ambiguous");
    let e = agent.message(ask()).await.unwrap_err();
    assert_eq!(e.code, "message_not_found");
    assert!(!e.message.contains(&second.id.to_string()), "{e}");
    let own = agent.send(keyed("from the agent")).await.unwrap();
    assert!(!own.duplicate && agent.send(keyed("from the agent")).await.unwrap().duplicate);
    assert_eq!(agent.message(ask()).await.unwrap().id, own.id);
    let e = agent.requeue(Requeue { id: second.id.to_string(), ttl_ms: None }).await.unwrap_err();
    assert_eq!(e.code, "message_not_found");
    assert!(node.send(keyed("from ana")).await.unwrap().duplicate);
    node.close().await;
}

#[tokio::test]
async fn a_session_may_write_to_its_sibling_and_its_member() {
    let (_world, node, mesh) = populated().await;
    let first = session(&node, "first", None).await;
    let second = session(&node, "second", None).await;
    let agent = node.as_session(&first.token).unwrap();
    let sent = agent.send(to("ana/second", "x")).await.unwrap();
    assert_eq!((sent.to.as_str(), sent.to_key), ("ana/second", second.session.key));
    let row = stored(&mesh, sent.id).await;
    assert_eq!(row.meta.member, Some(member(&node)));
    assert_eq!(row.meta.target, Target::Session { key: second.session.key });
    assert!(agent.send(to("ana", "x")).await.is_ok());
    assert_eq!(agent.send(to("first", "x")).await.unwrap_err().code, "own_key");
    assert_eq!(node.send(to("ana", "x")).await.unwrap_err().code, "own_key");
    node.close().await;
}

#[tokio::test]
async fn recipients_are_put_right_by_our_own_roster() {
    let (_world, node, mesh) = populated().await;
    let sent = node.send(to("@ops", "hello")).await.unwrap();
    let mut row = stored(&mesh, sent.id).await;
    let signature = row.envelope.sig;
    join(&mesh, DORA, "ops", true, 1).await;
    assert!(regroup::changed(&mesh, &mut row, &[public(BOB)]).await);
    assert_eq!(stored(&mesh, sent.id).await.envelope, row.envelope);
    assert_eq!(row.envelope.sig, signature, "one id, one signature, one ciphertext");
    for who in [CARLA, DORA] {
        assert_eq!(opened(&mesh, who, &row).item.content, b"hello");
    }
    let status = node.message(MessageStatus { id: sent.id.to_string() }).await.unwrap();
    assert_eq!(names(&status), ["carla", "dora"]);
    // Whom the broker names without the member's own word is not added.
    mesh.views().change(public(BOB), |view| view.hidden = true);
    assert!(!regroup::changed(&mesh, &mut row, &[]).await);
    node.close().await;
}

#[tokio::test]
async fn mail_for_an_ended_session_goes_on_to_its_member() {
    let (_world, node, mesh) = populated().await;
    let gone = key(80);
    note(&mesh, BOB, vec![present(&mesh, &gone, &key(BOB), "agent")], vec![]).await;
    let sent = node.send(to("bob/agent", "hello")).await.unwrap();
    let row = stored(&mesh, sent.id).await;
    assert_eq!((row.meta.recipient, row.meta.member), (gone.public(), Some(public(BOB))));
    let relayed = StepTo::Relayed { at: NOW, path: "relay".into() };
    mesh.store().step(&[Step { mesh: mesh.id(), id: sent.id, to: relayed }]).await.unwrap();
    let row = stored(&mesh, sent.id).await;
    assert!(outbox::redirect(&mesh, &row).await.unwrap());
    let old = stored(&mesh, sent.id).await.meta;
    assert_eq!(old.state, OutboxState::Aborted);
    let new = stored(&mesh, old.superseded_by.unwrap()).await;
    assert_eq!(new.meta.target, Target::Member { key: public(BOB) });
    assert_eq!((new.meta.expires_at, new.meta.peer_name.as_str()), (old.expires_at, "bob"));
    assert_eq!(opened(&mesh, BOB, &new).item.content, b"hello");
    assert!(!outbox::redirect(&mesh, &stored(&mesh, sent.id).await).await.unwrap(), "once");
    assert!(!outbox::redirect(&mesh, &new).await.unwrap(), "a member is no session");
    node.close().await;
}

fn present(mesh: &Mesh, who: &SecretKey, by: &SecretKey, name: &str) -> PresenceInfo {
    let attestation = Attestation {
        mesh: mesh.id(),
        member: public(BOB),
        key: who.public(),
        kind: IdentityKind::Session,
        name: name.into(),
        capabilities: Capabilities::All,
        issued_at: mesh.now(),
        expires_at: mesh.now() + 1_000_000,
    };
    PresenceInfo {
        key: who.public(),
        kind: IdentityKind::Session,
        attendance: Attendance::Online,
        since: NOW,
        about: About::default(),
        attestation: Some(attestation.sign(by)),
        features: vec![],
    }
}

async fn note(mesh: &Arc<Mesh>, n: u8, presences: Vec<PresenceInfo>, groups: Vec<Signed>) {
    // The chain that the roster has, so that it is known.
    let chain = mesh.store().member_chain(&mesh.id(), &public(n)).await.unwrap().unwrap();
    let peer = PeerInfo { online: true, presences, groups, ..PeerInfo::new(chain) };
    assert_eq!(roster::note(mesh, peer).await, Some(public(n)));
}

#[tokio::test]
async fn what_a_member_has_not_signed_is_not_taken_over() {
    let (_world, node, mesh) = populated().await;
    let good = present(&mesh, &key(80), &key(BOB), "agent");
    let forged = present(&mesh, &key(81), &key(66), "forged");
    let stolen = PresenceInfo { key: public(82), ..good.clone() };
    let bare = PresenceInfo { attestation: None, key: public(83), ..good.clone() };
    let odd = present(&mesh, &key(84), &key(BOB), "\u{202e}odd");
    let own = statement(&mesh, BOB, "dev", true, 9).sign(&key(BOB));
    let anothers = statement(&mesh, CARLA, "dev", true, 9).sign(&key(CARLA));
    let false_one = statement(&mesh, BOB, "secret", true, 9).sign(&key(66));
    let all = vec![good, forged, stolen, bare, odd];
    note(&mesh, BOB, all, vec![own, anothers, false_one]).await;
    let view = mesh.views().get(&public(BOB)).unwrap();
    let keys: Vec<_> = view.sessions.iter().map(|s| (s.key, s.name.as_str())).collect();
    assert_eq!(keys, [(public(80), "agent")]);
    let ask = ListGroups { mesh: Some("lab".into()), group: None };
    let groups = node.groups(ask).await.unwrap();
    let shown: Vec<_> = groups
        .iter()
        .map(|g| (g.name.as_str(), g.members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>()))
        .collect();
    // `ops` is not listed any more: bob is not in it, as far as the broker says.
    assert_eq!(shown, [("dev", vec!["bob"]), ("ops/db", vec!["carla"])]);
    node.close().await;
}

#[tokio::test]
async fn our_own_groups_are_kept_whether_the_broker_is_there_or_not() {
    let (world, node, mesh) = populated().await;
    let set = |group: &str, leave: bool| SetGroup {
        mesh: Some("lab".into()),
        group: group.into(),
        role: (!leave).then(|| "lead".to_owned()),
        leave,
    };
    node.set_group(set("@ops", false)).await.unwrap();
    node.set_group(set("dev/web", false)).await.unwrap();
    let own = async |node: &Node| {
        let ask = ListGroups { mesh: Some("lab".into()), group: None };
        let groups = node.groups(ask).await.unwrap();
        let mine = groups.into_iter().filter(|g| g.members.iter().any(|m| m.this_node));
        mine.map(|g| g.name).collect::<Vec<_>>()
    };
    assert_eq!(own(&node).await, ["dev/web", "ops"]);
    node.set_group(set("ops", true)).await.unwrap();
    assert_eq!(own(&node).await, ["dev/web"]);
    let below = ListGroups { mesh: Some("lab".into()), group: Some("@dev".into()) };
    assert_eq!(node.groups(below).await.unwrap()[0].members[0].role.as_deref(), Some("lead"));
    let e = node.set_group(set("dev/wbe", true)).await.unwrap_err();
    assert_eq!(e.code, "group_not_found");
    assert!(e.message.contains("did you mean @dev/web?"), "{e}");
    for bad in ["all", "Ops", ""] {
        assert_eq!(node.set_group(set(bad, false)).await.unwrap_err().code, "bad_group", "{bad}");
    }
    let started = session(&node, "agent", None).await;
    let agent = node.as_session(&started.token).unwrap();
    assert_eq!(agent.set_group(set("x", false)).await.unwrap_err().code, "owner_only");
    // Statements of one group follow each other in time, however fast.
    let rows = mesh.store().groups(&mesh.id()).await.unwrap();
    let ops = rows.iter().find(|g| g.name == "ops" && g.member == member(&node)).unwrap();
    assert!(!ops.joined && ops.at > NOW);
    node.close().await;
    let node = world.node().await;
    assert_eq!(own(&node).await, ["dev/web"]);
    node.close().await;
}
