//! Sessions, presence and the surfacing gate in one node.

use meshwire_signaling::attest::{Attestation, Capabilities};
use meshwire_signaling::frame::{Status, UnboundReason};
use meshwire_signaling::{Priority, SecretKey};
use tokio::process::Command;
use tokio::time::Duration;

use super::events::Event;
use super::testing::{NOW, World, lab, member, mesh_of, session, surfaced};
use super::{Node, sessions};
use crate::api::{
    EndSession, ErrorKind, Inbox, InboxDelete, ListPeers, ListSessions, Peer, PeerKind,
    SetPresence, StartSession,
};
use crate::core::gate::PING_KIND;

fn doing(status: Status, for_ms: Option<u64>) -> SetPresence {
    SetPresence { status: Some(status), status_for_ms: for_ms, ..SetPresence::default() }
}

async fn texts(node: &Node, ask: Inbox) -> Vec<String> {
    let rows = node.inbox(Inbox { peek: true, ..ask }).await.unwrap();
    rows.into_iter().map(|m| m.message).collect()
}

#[tokio::test(start_paused = true)]
async fn defect_9_every_unblock_drains_by_set_status() {
    let mut world = World::new().await;
    let node = world.node().await;
    let to = member(&node);
    for blocked in [Status::Working, Status::Dnd] {
        node.set_presence(doing(blocked, None)).await.unwrap();
        let mut events = node.events();
        world.receive(&node, (to, Priority::Next, "one")).await;
        world.receive(&node, (to, Priority::Now, "urgent")).await;
        world.receive(&node, (to, Priority::Low, "two")).await;
        assert_eq!(surfaced(&mut events, 1).await, ["urgent"]);
        assert_eq!(world.held().await, 2, "accepted, without a place in the order");
        node.set_presence(doing(Status::Idle, None)).await.unwrap();
        assert_eq!(surfaced(&mut events, 2).await, ["one", "two"]);
        assert_eq!(world.held().await, 0);
    }
    node.close().await;
}

#[tokio::test(start_paused = true)]
async fn defect_9_every_unblock_drains_by_the_timer() {
    let mut world = World::new().await;
    let node = world.node().await;
    let said = node.set_presence(doing(Status::Dnd, Some(90_000))).await.unwrap();
    assert_eq!((said[0].status, said[0].status_until), (Status::Dnd, Some(NOW + 90_000)));
    assert!(!said[0].announced, "the broker cannot be reached");
    let mut events = node.events();
    world.receive(&node, (member(&node), Priority::Next, "later")).await;
    let start = tokio::time::Instant::now();
    assert_eq!(surfaced(&mut events, 1).await, ["later"]);
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(90) && took < Duration::from_secs(92), "{took:?}");
    let now = node.set_presence(SetPresence::default()).await.unwrap();
    assert_eq!((now[0].status, now[0].status_until), (Status::Idle, None));
    node.close().await;
}

#[tokio::test(start_paused = true)]
async fn defect_9_every_unblock_drains_by_a_restart_after_its_time() {
    let mut world = World::new().await;
    let node = world.node().await;
    node.set_presence(doing(Status::Dnd, Some(60_000))).await.unwrap();
    world.receive(&node, (member(&node), Priority::Next, "held")).await;
    node.close().await;
    // Not yet: the status outlives the node.
    let node = world.node().await;
    assert_eq!((world.held().await, texts(&node, Inbox::default()).await.len()), (1, 0));
    node.close().await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    let node = world.node().await;
    assert_eq!(texts(&node, Inbox::default()).await, ["held"]);
    node.close().await;
}

#[tokio::test(start_paused = true)]
async fn each_identity_has_a_gate_of_its_own() {
    let mut world = World::new().await;
    let node = world.node().await;
    let started = session(&node, "agent", None).await;
    let agent = node.as_session(&started.token).unwrap();
    agent.set_presence(doing(Status::Working, None)).await.unwrap();
    world.receive(&node, (member(&node), Priority::Next, "for ana")).await;
    world.receive(&node, (started.session.key, Priority::Next, "for the agent")).await;
    assert_eq!(texts(&agent, Inbox::default()).await, ["for ana"]);
    let said = agent.set_presence(doing(Status::Idle, None)).await.unwrap();
    assert_eq!(said[0].key, started.session.key);
    assert_eq!(texts(&agent, Inbox::default()).await, ["for ana", "for the agent"]);
    node.close().await;
}

#[tokio::test(start_paused = true)]
async fn pings_pass_the_gate_and_are_never_shown() {
    let mut world = World::new().await;
    let node = world.node().await;
    let to = member(&node);
    node.set_presence(doing(Status::Dnd, None)).await.unwrap();
    let mut events = node.events();
    world.receive_as(&node, (to, Priority::Next, "ping"), PING_KIND).await;
    assert_eq!(world.held().await, 0, "it is gone");
    world.receive(&node, (to, Priority::Now, "mail")).await;
    assert_eq!(surfaced(&mut events, 1).await, ["mail"]);
    let all = node.inbox(Inbox { all: true, ..Inbox::default() }).await.unwrap();
    assert_eq!(all.iter().map(|m| m.order).collect::<Vec<_>>(), [1]);
    node.close().await;
}

#[tokio::test]
async fn a_session_is_known_by_its_token_alone_until_it_ends() {
    let world = World::new().await;
    let node = world.node().await;
    let started = session(&node, "agent", None).await;
    assert_eq!(started.token.len(), 64);
    let agent = node.as_session(&started.token).unwrap();
    for wrong in ["", "x", &started.token[1..], &started.token.to_uppercase()] {
        assert_eq!(node.as_session(wrong).unwrap_err().code, "bad_session", "{wrong}");
    }
    let listed = agent.sessions(ListSessions::default()).await.unwrap();
    assert!(listed[0].this_session && !listed[0].bound);
    assert!(!node.sessions(ListSessions::default()).await.unwrap()[0].this_session);
    let mut events = node.events();
    agent.end_session(EndSession { session: "agent".into() }).await.unwrap();
    let e = node.as_session(&started.token).unwrap_err();
    assert_eq!((e.kind, e.code.as_str()), (ErrorKind::Auth, "bad_session"));
    let ended = loop {
        if let Event::Session { started: false, key, .. } = events.recv().await.unwrap() {
            break key;
        }
    };
    let mesh = lab(&node);
    assert_eq!(ended, started.session.key);
    assert!(mesh.ended(&ended) && mesh.identity(&ended).is_none());
    assert_eq!(agent.author(&mesh).unwrap_err().code, "bad_session", "who holds on to it");
    assert_eq!(agent.inbox(Inbox::default()).await.unwrap_err().code, "bad_session");
    assert!(mesh.services.keyring.load_session(&ended).unwrap().is_none());
    node.close().await;
    let node = world.node().await;
    assert!(lab(&node).ended(&ended), "late mail is still to hear of it");
    node.close().await;
}

#[tokio::test]
async fn a_session_may_what_its_capabilities_say() {
    let mut world = World::new().await;
    let node = world.node().await;
    let started = session(&node, "agent", Some(&["dm"])).await;
    let agent = node.as_session(&started.token).unwrap();
    assert!(agent.may("dm").is_ok() && node.may("group").is_ok());
    let e = agent.set_presence(doing(Status::Dnd, None)).await.unwrap_err();
    assert_eq!((e.kind, e.code.as_str()), (ErrorKind::Denied, "capability_missing"));
    assert!(e.message.contains("presence") && e.message.contains("only dm"), "{e}");
    assert!(agent.set_presence(SetPresence::default()).await.is_ok(), "asking is free");
    world.receive(&node, (member(&node), Priority::Now, "for ana")).await;
    world.receive(&node, (started.session.key, Priority::Now, "for the agent")).await;
    assert_eq!(texts(&agent, Inbox::default()).await, ["for the agent"]);
    let owner = |e: crate::api::ApiError| assert_eq!(e.code, "owner_only");
    owner(agent.inbox_delete(InboxDelete::default()).await.unwrap_err());
    let ask = StartSession { mesh: None, name: "x".into(), capabilities: None, pid: 1 };
    owner(agent.start_session(ask).await.unwrap_err());
    let hide = SetPresence { visible: Some(false), ..SetPresence::default() };
    let free = session(&node, "free", None).await;
    let free = node.as_session(&free.token).unwrap();
    assert_eq!(free.set_presence(hide).await.unwrap_err().code, "members_only");
    owner(free.end_session(EndSession { session: "agent".into() }).await.unwrap_err());
    node.close().await;
}

#[tokio::test]
async fn a_session_stays_in_its_mesh() {
    let world = World::new().await;
    let node = world.node().await;
    let started = session(&node, "agent", None).await;
    let agent = node.as_session(&started.token).unwrap();
    assert_eq!(agent.pick(None).unwrap().id(), mesh_of(&node, "lab"), "no need to say which");
    assert_eq!(node.pick(None).unwrap_err().code, "mesh_ambiguous");
    let other = ListPeers { mesh: Some("annex".into()), all: false };
    assert_eq!(agent.peers(other).await.unwrap_err().code, "other_mesh");
    let annex = node.pick(Some("annex")).unwrap();
    assert_eq!(agent.author(&annex).unwrap_err().code, "other_mesh");
    let who = agent.author(&lab(&node)).unwrap();
    let signed = who.attestation.clone().unwrap();
    let now = lab(&node).now();
    let a = Attestation::verify(&signed, &lab(&node).id(), &member(&node), now).unwrap();
    assert_eq!((a.key, a.capabilities), (who.key(), Capabilities::All));
    assert_eq!(node.author(&annex).unwrap().attestation, None);
    node.close().await;
}

#[tokio::test]
async fn siblings_see_each_other() {
    let world = World::new().await;
    let node = world.node().await;
    let first = session(&node, "first", Some(&[])).await;
    session(&node, "second", None).await;
    let agent = node.as_session(&first.token).unwrap();
    let ask = || ListPeers { mesh: Some("lab".into()), all: false };
    let peers = agent.peers(ask()).await.unwrap();
    let rows: Vec<_> = peers.iter().map(|p| (p.kind, p.name.as_str(), p.online)).collect();
    let down = None;
    let expected = [
        (PeerKind::Member, "ana", down),
        (PeerKind::Session, "first", down),
        (PeerKind::Session, "second", down),
    ];
    assert_eq!(rows, expected);
    let marks =
        |peers: &[Peer]| peers.iter().map(|p| (p.this_session, p.sibling)).collect::<Vec<_>>();
    assert_eq!(marks(&peers), [(false, false), (true, false), (false, true)]);
    assert_eq!(marks(&node.peers(ask()).await.unwrap()), [(false, false); 3], "the owner is none");
    assert_eq!(peers[1].capabilities, Some(Capabilities::List(vec![])));
    let (_, found) = agent.find(None, "ana/second").await.unwrap();
    assert_eq!(found.key, peers[2].key);
    session(&node, "second", None).await;
    let e = agent.find(None, "ana/second").await.unwrap_err();
    assert_eq!((e.kind, e.code.as_str()), (ErrorKind::Ambiguous, "peer_ambiguous"));
    assert!(e.message.contains(&peers[2].key.short()), "{e}");
    let e = node.end_session(EndSession { session: "second".into() }).await.unwrap_err();
    assert_eq!((e.kind, e.code.as_str()), (ErrorKind::Ambiguous, "session_ambiguous"));
    let start = StartSession {
        mesh: Some("lab".into()),
        name: "ana/second".into(),
        capabilities: None,
        pid: std::process::id(),
    };
    let e = node.start_session(start).await.unwrap_err();
    assert!(e.code == "bad_name" && e.message.contains("ana-second"), "{e}");
    node.close().await;
}

#[tokio::test]
async fn sessions_end_with_their_process_even_between_two_runs() {
    let world = World::new().await;
    let node = world.node().await;
    let mut child = Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
    let ask = |name: &str, pid| StartSession {
        mesh: Some("lab".into()),
        name: name.into(),
        capabilities: None,
        pid,
    };
    let short = node.start_session(ask("short", child.id().unwrap())).await.unwrap();
    let long = session(&node, "long", None).await;
    let mut events = node.events();
    child.start_kill().unwrap();
    let why = loop {
        if let Event::Session { started: false, why, key, .. } = events.recv().await.unwrap() {
            assert_eq!(key, short.session.key);
            break why;
        }
    };
    assert_eq!(why.as_deref(), Some("its process is gone"));
    let mut child = Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
    let between = node.start_session(ask("between", child.id().unwrap())).await.unwrap();
    node.close().await;
    child.kill().await.unwrap();
    let node = world.node().await;
    let left = node.sessions(ListSessions::default()).await.unwrap();
    assert_eq!(left.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["long"]);
    assert!(node.as_session(&long.token).is_ok(), "its token goes on, too");
    assert!(lab(&node).ended(&between.session.key));
    let e = node.start_session(ask("late", u32::MAX - 1)).await.unwrap_err();
    assert_eq!(e.code, "process_not_found");
    node.close().await;
}

#[tokio::test]
async fn there_is_room_for_so_many_sessions_and_no_more() {
    let world = World::new().await;
    let node = world.node().await;
    for n in 0..62 {
        session(&node, &format!("agent{n}"), None).await;
    }
    let ask = StartSession {
        mesh: Some("lab".into()),
        name: "one-more".into(),
        capabilities: None,
        pid: std::process::id(),
    };
    let e = node.start_session(ask.clone()).await.unwrap_err();
    assert_eq!((e.kind, e.code.as_str()), (ErrorKind::Denied, "too_many_sessions"));
    assert!(e.message.contains("62 sessions"), "{e}");
    node.end_session(EndSession { session: "agent7".into() }).await.unwrap();
    node.start_session(ask).await.unwrap();
    let e = node.end_session(EndSession { session: "agent77".into() }).await.unwrap_err();
    assert_eq!(e.code, "session_not_found");
    assert!(e.message.contains("did you mean agent"), "{e}");
    node.close().await;
}

#[tokio::test]
async fn a_kick_ends_a_session_and_a_disconnect_does_not() {
    let world = World::new().await;
    let node = world.node().await;
    let started = session(&node, "agent", None).await;
    let (mesh, key) = (lab(&node), started.session.key);
    for reason in [UnboundReason::Disconnected, UnboundReason::Expired, UnboundReason::Replaced] {
        sessions::unbound(&mesh, &key, reason).await;
        assert!(node.as_session(&started.token).is_ok(), "{reason:?}");
    }
    let mut events = node.events();
    sessions::unbound(&mesh, &key, UnboundReason::Kicked).await;
    assert!(node.as_session(&started.token).is_err() && mesh.ended(&key));
    let Event::Session { why, .. } = events.recv().await.unwrap() else { panic!() };
    assert_eq!(why.as_deref(), Some("kicked by an admin"));
    // Of a key that is no session of ours nothing is believed.
    let stranger = SecretKey::from_seed(&[77; 32]).public();
    sessions::unbound(&mesh, &stranger, UnboundReason::Kicked).await;
    assert!(!mesh.ended(&stranger));
    node.close().await;
}

#[tokio::test]
async fn what_is_said_is_kept_and_checked() {
    let world = World::new().await;
    let node = world.node().await;
    let lab = || Some("lab".to_owned());
    let say = SetPresence {
        mesh: lab(),
        status: Some(Status::Working),
        summary: Some("the release".into()),
        visible: Some(false),
        ..SetPresence::default()
    };
    let said = node.set_presence(say).await.unwrap();
    assert_eq!(said.len(), 1);
    node.close().await;
    let node = world.node().await;
    let all = node.set_presence(SetPresence::default()).await.unwrap();
    assert_eq!(all.len(), 2, "in all meshes");
    let in_lab = all.iter().find(|p| p.mesh_name == "lab").unwrap();
    assert_eq!(in_lab.summary.as_deref(), Some("the release"));
    assert_eq!((in_lab.status, in_lab.visible), (Status::Working, false));
    let peers = node.peers(ListPeers { mesh: lab(), all: false }).await.unwrap();
    assert_eq!((peers[0].hidden, peers[0].status), (true, Status::Working), "own member always");
    let nothing = SetPresence { summary: Some(String::new()), ..SetPresence::default() };
    let said = node.set_presence(nothing).await.unwrap();
    assert!(said.iter().all(|p| p.summary.is_none()));
    let long = SetPresence { summary: Some("x".repeat(281)), ..SetPresence::default() };
    assert_eq!(node.set_presence(long).await.unwrap_err().code, "too_long");
    let odd = SetPresence { status_for_ms: Some(5), ..SetPresence::default() };
    assert_eq!(node.set_presence(odd).await.unwrap_err().code, "no_status");
    assert_eq!(
        node.set_presence(doing(Status::Dnd, Some(0))).await.unwrap_err().code,
        "bad_duration"
    );
    node.close().await;
}

#[tokio::test]
async fn sessions_hear_of_their_own_alone() {
    let mut world = World::new().await;
    let node = world.node().await;
    let one = session(&node, "one", None).await;
    let two = session(&node, "two", Some(&[])).await;
    let (a, b) = (node.as_session(&one.token).unwrap(), node.as_session(&two.token).unwrap());
    let mut events = node.events();
    let heard = |e: &Event| [&node, &a, &b].map(|n| e.concerns(&n.viewer()));
    for (to, expected) in [
        (member(&node), [true, true, false]),
        (one.session.key, [true, true, false]),
        (two.session.key, [true, false, true]),
    ] {
        world.receive(&node, (to, Priority::Now, "mail")).await;
        assert_eq!(heard(&events.recv().await.unwrap()), expected);
    }
    node.close().await;
}
