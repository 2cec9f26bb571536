//! What is left to do for sessions that have ended, as far as it goes without a broker.

use std::sync::Arc;

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::frame::{MessageState, Status, UnboundReason};
use meshwire_signaling::receipt::{Ends, Receipt, Verdict as Outcome};
use meshwire_signaling::seal::PairCache;
use meshwire_signaling::{Envelope, EnvelopeId, Priority, PublicKey, Target};
use meshwire_transport::link::{Answer, MessageLink as _};

use super::events::Event;
use super::identity::Identity;
use super::inbound::{Source, confirm, for_ended};
use super::mesh::Mesh;
use super::seal::Letter;
use super::testing::{NOW, World, key, lab, member, session, surfaced};
use super::{Node, drain, outbox, sessions};
use crate::api::{
    EndSession, Inbox, InboxMessage, ListSessions, MessageStatus, Send, SessionStarted,
    SetPresence, StartSession, WaitFor,
};
use crate::core::inbox::{Desk, Verdict, receive};
use crate::store::{Slot, SqliteStore, Step, StepTo};

fn letter(text: &str) -> Send {
    Send {
        mesh: Some("lab".into()),
        to: "bob".into(),
        message: text.into(),
        priority: Priority::Next,
        reply_to: None,
        idempotency_key: None,
        ttl_ms: None,
        wait: None,
        timeout_ms: None,
    }
}

async fn end(node: &Node) {
    node.end_session(EndSession { session: "agent".into() }).await.unwrap();
}

/// A session that has sent a message which waits, and ended.
async fn ended_with_mail(world: &World) -> (Node, SessionStarted, EnvelopeId) {
    let node = world.node().await;
    world.bob(&node).await;
    let started = session(&node, "agent", None).await;
    let agent = node.as_session(&started.token).unwrap();
    let sent = agent.send(letter("the last words")).await.unwrap();
    end(&node).await;
    (node, started, sent.id)
}

async fn step(mesh: &Arc<Mesh>, author: PublicKey, id: EnvelopeId, to: StepTo) {
    drain::apply(mesh, &[(author, Step { mesh: mesh.id(), id, to })]).await.unwrap();
}

fn relayed() -> StepTo {
    StepTo::Relayed { at: NOW, path: "relay".into() }
}

async fn silent(mesh: &Arc<Mesh>, key: &PublicKey) {
    while mesh.speaks_as(key) {
        tokio::task::yield_now().await;
    }
}

fn has_key(mesh: &Mesh, key: &PublicKey) -> bool {
    mesh.services.keyring.load_session(key).unwrap().is_some()
}

#[tokio::test]
async fn what_a_session_sent_before_its_end_leaves_and_is_confirmed_even_after_a_restart() {
    let world = World::new().await;
    let (node, started, id) = ended_with_mail(&world).await;
    let author = started.session.key;
    for restarts in 0..3 {
        let node = match restarts {
            0 => node.clone(),
            _ => world.node().await,
        };
        let mesh = lab(&node);
        assert!(node.as_session(&started.token).is_err() && mesh.ended(&author));
        assert!(node.sessions(ListSessions::default()).await.unwrap().is_empty());
        assert!(mesh.speaks_as(&author) && has_key(&mesh, &author), "{restarts}");
        if restarts == 1 {
            step(&mesh, author, id, relayed()).await;
        }
        if restarts < 2 {
            node.close().await;
            continue;
        }
        let meta = mesh.store().outbox_meta(&mesh.id(), &id).await.unwrap().unwrap();
        let pair = PairCache::new(key(50), 4).pair(&author).unwrap();
        let bob = key(50).public();
        let ends = Ends { mesh: &mesh.id(), sender: &author, recipient: &bob };
        let receipt = Receipt::new(&pair, ends, &meta.hash, Outcome::Delivered, None);
        confirm(&mesh, &Source::Relay, vec![(author, id, receipt)]).await;
        let said = node.message(MessageStatus { id: id.to_string() }).await.unwrap();
        assert_eq!(said.state, MessageState::Delivered);
        silent(&mesh, &author).await;
        node.close().await;
    }
    // The broker has not heard of the end, and that is not forgotten.
    let node = world.node().await;
    assert!(has_key(&lab(&node), &author));
    let rows = lab(&node).store().session_list(None).await.unwrap();
    assert_eq!(rows.iter().map(|r| r.key).collect::<Vec<_>>(), [author]);
    node.close().await;
}

#[tokio::test]
async fn an_ended_session_whose_mail_is_settled_is_gone_if_the_broker_never_knew_it() {
    let world = World::new().await;
    let (node, started, id) = ended_with_mail(&world).await;
    let (mesh, author) = (lab(&node), started.session.key);
    step(&mesh, author, id, StepTo::Delivered { at: NOW, path: "relay".into() }).await;
    silent(&mesh, &author).await;
    while !mesh.store().session_list(None).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!has_key(&mesh, &author));
    node.close().await;
}

#[tokio::test(start_paused = true)]
async fn receipts_are_waited_for_while_they_can_come_but_not_for_ever() {
    let world = World::new().await;
    let (node, started, id) = ended_with_mail(&world).await;
    let (mesh, author) = (lab(&node), started.session.key);
    step(&mesh, author, id, relayed()).await;
    let minutes = async |n: u64| tokio::time::sleep(tokio::time::Duration::from_secs(60 * n)).await;
    minutes(60).await;
    assert!(mesh.speaks_as(&author), "none could come");
    // A connection that holds, as far as anybody can tell.
    mesh.link.close().await;
    mesh.went_up(None);
    minutes(9).await;
    assert!(mesh.speaks_as(&author));
    minutes(2).await;
    assert!(!mesh.speaks_as(&author));
    node.close().await;
}

#[tokio::test]
async fn the_kick_of_a_session_fails_what_has_not_left() {
    let world = World::new().await;
    let (node, started, id) = ended_with_mail(&world).await;
    let (mesh, author) = (lab(&node), started.session.key);
    sessions::unbound(&mesh, &author, UnboundReason::Kicked).await;
    let said = node.message(MessageStatus { id: id.to_string() }).await.unwrap();
    assert_eq!((said.state, said.reason.as_deref()), (MessageState::Failed, Some("session_ended")));
    assert!(!mesh.speaks_as(&author) && !has_key(&mesh, &author));
    node.close().await;
}

#[tokio::test]
async fn those_that_wait_for_receipts_give_way_to_new_sessions() {
    let world = World::new().await;
    let (node, started, id) = ended_with_mail(&world).await;
    let (mesh, author) = (lab(&node), started.session.key);
    for n in 0..61 {
        session(&node, &format!("agent{n}"), None).await;
    }
    let ask = StartSession {
        mesh: Some("lab".into()),
        name: "more".into(),
        capabilities: None,
        pid: std::process::id(),
    };
    let e = node.start_session(ask.clone()).await.unwrap_err();
    assert_eq!(e.code, "too_many_sessions", "its mail has not left");
    step(&mesh, author, id, relayed()).await;
    while node.start_session(ask.clone()).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(!mesh.speaks_as(&author));
    node.close().await;
}

#[tokio::test]
async fn what_was_written_in_the_moment_of_its_authors_end_fails() {
    let world = World::new().await;
    let (node, started, id) = ended_with_mail(&world).await;
    let (mesh, author) = (lab(&node), started.session.key);
    let row = mesh.store().outbox_get(&mesh.id(), &id).await.unwrap().unwrap();
    assert_eq!(drain::unfit(&mesh, &row.meta), None, "it still speaks");
    step(&mesh, author, id, StepTo::Delivered { at: NOW, path: "relay".into() }).await;
    silent(&mesh, &author).await;
    assert_eq!(drain::unfit(&mesh, &row.meta).as_deref(), Some("session_ended"));
    node.close().await;
}

#[tokio::test]
async fn a_store_that_fails_is_no_reason_to_give_a_message_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("node.db")).await.unwrap();
    let world = World::on(Arc::new(store)).await;
    let node = world.node().await;
    world.bob(&node).await;
    let mesh = lab(&node);
    let sent = node.send(letter("x")).await.unwrap();
    let mut row = mesh.store().outbox_get(&mesh.id(), &sent.id).await.unwrap().unwrap();
    row.meta.member = Some(row.meta.recipient);
    row.meta.target = Target::Session { key: key(80).public() };
    let closed = mesh.clone();
    node.close().await;
    assert!(outbox::redirect(&closed, &row).await.is_err());
    // What can never be is told from that, whatever the store does.
    row.meta.member = None;
    assert!(!outbox::redirect(&closed, &row).await.unwrap());
}

/// Mail by bob for a session of ours.
async fn mail(mesh: &Mesh, to: PublicKey) -> Envelope {
    let pairs = Arc::new(PairCache::new(key(50), 4));
    let bob = Identity { kind: IdentityKind::Member, pairs, attestation: None };
    let letter = Letter {
        id: EnvelopeId::new(NOW, 7),
        target: Target::Session { key: to },
        priority: Priority::Next,
        sent_at: NOW,
        expires_at: NOW + 1_000_000,
        kind: "text/plain".into(),
        reply_to: None,
        content: b"hello".to_vec(),
    };
    let instance = meshwire_signaling::InstanceId([50; 16]);
    letter.prepare(mesh, &bob, &[]).await.unwrap().seal(Slot { instance, seq: 1, floor: 1 })
}

#[tokio::test]
async fn what_a_session_stored_before_its_end_is_delivered_and_never_sent_again() {
    let world = World::new().await;
    let node = world.node().await;
    world.bob(&node).await;
    let (mesh, bob) = (lab(&node), key(50).public());
    let started = session(&node, "agent", None).await;
    let to = started.session.key;
    let envelope = mail(&mesh, to).await;
    let known = mesh.known(&bob).await;
    let judge = |ended: bool| {
        let (keys, now) = (mesh.keys(), mesh.now());
        receive(Desk { keys: &keys, known: known.as_ref(), ended, now }, &envelope)
    };
    let Verdict::Accept(accepted) = judge(false) else { panic!("not accepted") };
    end(&node).await;
    let again = async |mesh: &Arc<Mesh>| match judge(true) {
        Verdict::Gone { session, answer } => for_ended(mesh, session, answer).await.unwrap(),
        verdict => panic!("{verdict:?}"),
    };
    assert!(matches!(again(&mesh).await, Answer::Gone { .. }), "it never had it");
    mesh.store().accept_inbound(&[(accepted.item, NOW + 2_000_000)]).await.unwrap();
    let Answer::Final { receipt, .. } = again(&mesh).await else { panic!("no receipt") };
    let pair = PairCache::new(key(50), 4).pair(&to).unwrap();
    let ends = Ends { mesh: &mesh.id(), sender: &bob, recipient: &to };
    assert_eq!((receipt.verdict, receipt.by), (Outcome::Delivered, to));
    assert!(receipt.verify(&pair, ends, &envelope.hash(&mesh.id())));
    node.close().await;
    // Its key is gone: nobody can say it, and nobody must say anything else.
    let node = world.node().await;
    let said = again(&lab(&node)).await;
    assert!(matches!(said, Answer::Later { .. }), "{said:?}");
    node.close().await;
}

#[tokio::test]
async fn waits_end_with_their_session() {
    let world = World::new().await;
    let node = world.node().await;
    world.bob(&node).await;
    let started = session(&node, "agent", None).await;
    let agent = node.as_session(&started.token).unwrap();
    let reader = agent.clone();
    let ask = Inbox { wait_ms: Some(600_000), ..Inbox::default() };
    let reading = tokio::spawn(async move { reader.inbox(ask).await });
    let sending = tokio::spawn(async move {
        let wait = Some(WaitFor::Delivered);
        agent.send(Send { wait, timeout_ms: Some(600_000), ..letter("x") }).await
    });
    let mut events = node.events();
    while lab(&node)
        .store()
        .outbox_list(&crate::store::OutboxFilter { limit: 1, ..Default::default() })
        .await
        .unwrap()
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    end(&node).await;
    while !matches!(events.recv().await.unwrap(), Event::Session { started: false, .. }) {}
    assert_eq!(reading.await.unwrap().unwrap_err().code, "bad_session");
    assert_eq!(sending.await.unwrap().unwrap_err().code, "bad_session");
    node.close().await;
}

/// What the member has not listed, as it is listed now.
async fn unread(node: &Node) -> Vec<InboxMessage> {
    node.inbox(Inbox { unread: true, ..Inbox::default() }).await.unwrap()
}

fn texts(messages: &[InboxMessage]) -> Vec<&str> {
    messages.iter().map(|m| m.message.as_str()).collect()
}

fn doing(status: Status) -> SetPresence {
    SetPresence { mesh: Some("lab".into()), status: Some(status), ..SetPresence::default() }
}

#[tokio::test]
async fn what_a_session_has_not_read_is_its_members_at_its_end() {
    let mut world = World::new().await;
    let node = world.node().await;
    let started = session(&node, "agent", None).await;
    let (agent, to) = (node.as_session(&started.token).unwrap(), started.session.key);
    let reader = node.as_session(&session(&node, "reader", Some(&["inbox"])).await.token).unwrap();
    world.receive(&node, (member(&node), Priority::Next, "for ana")).await;
    world.receive(&node, (to, Priority::Next, "read")).await;
    assert_eq!(agent.inbox(Inbox::default()).await.unwrap().len(), 2);
    world.receive(&node, (to, Priority::Next, "unread")).await;
    agent.set_presence(doing(Status::Dnd)).await.unwrap();
    world.receive(&node, (to, Priority::Next, "held back")).await;
    let before = unread(&node).await;
    assert_eq!(texts(&before), ["for ana"], "the rest is the session's");
    // Who follows goes on after the last place that was listed.
    let after = before.last().map(|m| m.order);
    let follower = node.clone();
    let follow = Inbox { after, wait_ms: Some(600_000), peek: true, ..Inbox::default() };
    let follow = tokio::spawn(async move { follower.inbox(follow).await });
    let (mut events, viewers) = (node.events(), [agent.viewer(), reader.viewer()]);
    end(&node).await;
    let mut rows = Vec::new();
    while let Ok(event) = events.try_recv() {
        let concerns = viewers.map(|viewer| event.concerns(&viewer));
        if let Event::Message(row) = event {
            rows.push((String::from_utf8(row.item.content).unwrap(), concerns));
        }
    }
    let heard = [false, true];
    assert_eq!(rows, [("unread".to_owned(), heard), ("held back".to_owned(), heard)]);
    assert!(!follow.await.unwrap().unwrap().is_empty());
    let got = unread(&node).await;
    assert_eq!(texts(&got), ["unread", "held back"]);
    assert!(got.iter().all(|m| m.to_session == Some(to) && m.session_ended), "{got:?}");
    assert!(unread(&node).await.is_empty(), "once");
    node.close().await;
    assert!(unread_after_restart(&world).await.is_empty());
}

async fn unread_after_restart(world: &World) -> Vec<InboxMessage> {
    let node = world.node().await;
    let got = unread(&node).await;
    node.close().await;
    got
}

#[tokio::test]
async fn what_a_session_leaves_waits_for_its_members_status_even_over_a_restart() {
    let mut world = World::new().await;
    let node = world.node().await;
    let to = session(&node, "agent", None).await.session.key;
    world.receive(&node, (to, Priority::Next, "unread")).await;
    node.set_presence(doing(Status::Dnd)).await.unwrap();
    end(&node).await;
    assert!(unread(&node).await.is_empty());
    node.close().await;
    let node = world.node().await;
    assert!(unread(&node).await.is_empty());
    let mut events = node.events();
    node.set_presence(doing(Status::Idle)).await.unwrap();
    assert_eq!(surfaced(&mut events, 1).await, ["unread"]);
    assert_eq!(texts(&unread(&node).await), ["unread"]);
    node.close().await;
}

#[tokio::test]
async fn what_a_session_leaves_that_ends_between_two_runs_is_its_members() {
    let mut world = World::new().await;
    let node = world.node().await;
    let sleep = tokio::process::Command::new("sleep").arg("60").kill_on_drop(true).spawn();
    let mut child = sleep.unwrap();
    let ask = StartSession {
        mesh: Some("lab".into()),
        name: "agent".into(),
        capabilities: None,
        pid: child.id().unwrap(),
    };
    let to = node.start_session(ask).await.unwrap().session.key;
    world.receive(&node, (to, Priority::Next, "unread")).await;
    node.close().await;
    child.kill().await.unwrap();
    assert_eq!(texts(&unread_after_restart(&world).await), ["unread"]);
    assert!(unread_after_restart(&world).await.is_empty(), "once");
}
