//! Negotiation frames and TURN credentials, by what raw clients see of a real broker.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

#[path = "p2p_wire/flood.rs"]
mod flood;
mod proto;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use meshwire_coord::{TurnDesk, TurnOffer};
use meshwire_signaling::attest::Capabilities;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::envelope::StateHead;
use meshwire_signaling::frame::{
    ErrorFrame, Frame, HelloBody, P2pFrame, P2pKind, TurnCredentials, TurnServer, TurnServers,
    code, feature,
};
use meshwire_signaling::id::Blob;
use meshwire_signaling::limits::MAX_P2P;
use meshwire_signaling::p2p::quic::{Bye, Content, reason};
use meshwire_signaling::p2p::{Expected, Negotiation, open};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::{AttemptId, PublicKey, SecretKey, UnixMillis};
use meshwire_transport::link::{LinkError, LinkEvent};
use meshwire_transport::net::{OsNet, random};
use proto::{BOTH, Client, Member, World, new_key, now, relay, relay_config, within};

const MSGPACK: Encoding = Encoding::MsgPack;

/// The feature's word in a hello.
pub(crate) fn with_p2p(hello: &mut HelloBody) {
    hello.features.insert(feature::P2P.into(), BTreeMap::new());
}

/// A connection that knows negotiation frames.
pub(crate) async fn connect(world: &World, member: &Member, encoding: Encoding) -> Client {
    world.connect_as(member, encoding, with_p2p).await.unwrap()
}

/// A step whose payload is anything: the broker cannot tell.
pub(crate) fn step(from: PublicKey, to: PublicKey) -> P2pFrame {
    let payload = Blob(vec![7; 100]);
    let attempt = AttemptId([5; 16]);
    let adapter = "quic".into();
    P2pFrame { kind: P2pKind::Offer, to, from, adapter, attempt, payload, loopback: false }
}

/// Hands a step in.
pub(crate) async fn hand(client: &mut Client, step: P2pFrame) -> Result<(), ErrorFrame> {
    match client.ask(|req| step.into_frame(Some(req))).await? {
        Frame::Ok(_) => Ok(()),
        other => panic!("not an answer to a step: {other:?}"),
    }
}

async fn refused(client: &mut Client, step: P2pFrame) -> ErrorFrame {
    hand(client, step).await.unwrap_err()
}

/// The next step that comes, whatever else does.
async fn came(client: &mut Client) -> P2pFrame {
    let pick = |f: &Frame| match f.clone() {
        Frame::P2pOffer(f) if f.req.is_none() => Some(f.into()),
        Frame::P2pAnswer(f) if f.req.is_none() => Some(f.into()),
        Frame::P2pCandidate(f) if f.req.is_none() => Some(f.into()),
        Frame::P2pBye(f) if f.req.is_none() => Some(f.into()),
        _ => None,
    };
    client.find(pick).await
}

/// No step has come: what the broker said before the answer to this request has arrived.
async fn none_came(client: &mut Client) {
    client.peers().await;
    let steps = client.waiting().iter().filter(|f| f.kind().starts_with("p2p_"));
    assert_eq!(steps.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_every_kind_are_carried_between_both_encodings_as_they_are() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    for (one, other) in BOTH.into_iter().zip(BOTH.into_iter().rev()) {
        let mut a = connect(&world, &world.owner, one).await;
        let mut b = connect(&world, &bob, other).await;
        assert!(a.ack.features.contains_key(feature::P2P));
        let (ana, bob) = (world.owner.public(), bob.public());
        for kind in P2pKind::ALL {
            let there = P2pFrame { kind, ..step(ana, bob) };
            assert_eq!(hand(&mut a, there.clone()).await, Ok(()));
            assert_eq!(came(&mut b).await, P2pFrame { loopback: true, ..there });
            let payload = Blob(vec![9; MAX_P2P]);
            let back = P2pFrame { kind, payload, ..step(bob, ana) };
            assert_eq!(hand(&mut b, back.clone()).await, Ok(()));
            assert_eq!(came(&mut a).await, P2pFrame { loopback: true, ..back });
        }
        a.leave().await;
        b.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_links_negotiate_and_what_they_sealed_opens() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let base = world.link.base.clone();
    let link = |member: &Member, encoding| {
        let mut config = relay_config(&world, member, encoding, &base, None);
        config.features.insert(feature::P2P.into(), BTreeMap::new());
        relay(config)
    };
    let (a, mut a_events) = link(&world.owner, MSGPACK);
    let (b, mut b_events) = link(&bob, Encoding::Json);
    for events in [&mut a_events, &mut b_events] {
        let up = async { while !matches!(events.recv().await.unwrap(), LinkEvent::Up(_)) {} };
        within("both links", up).await;
    }
    let (mesh, me) = (world.mesh, bob.public());
    let bye = Content::Bye(Bye { reason: reason::CLOSED.into() });
    let offer = Negotiation {
        v: 1,
        kind: P2pKind::Offer,
        adapter: "quic".into(),
        attempt: AttemptId(random(&OsNet)),
        seq: 0,
        from: world.owner.public(),
        instance: world.owner.instance,
        to: me,
        at: now(),
        head: StateHead::origin(&mesh),
        answers: None,
        content: Blob(bye.encode()),
    };
    let pair = Pair::new(&world.owner.key, &me).unwrap();
    let sealed = offer.seal(&mesh, &world.owner.key, None, &pair, &random(&OsNet)).unwrap();
    a.p2p(offer.frame(sealed)).await.unwrap();
    let frame = within("the offer", async {
        loop {
            if let LinkEvent::P2p(frame) = b_events.recv().await.unwrap() {
                return frame;
            }
        }
    });
    let frame = frame.await;
    let theirs = Pair::new(&bob.key, &frame.from).unwrap();
    let expected = Expected::of(&frame, &mesh, &me, None, now());
    let opened = open(&frame.payload, &theirs, &expected).unwrap();
    assert_eq!((opened.step, opened.member), (offer, world.owner.public()));

    let none = b.turn_credentials().await.unwrap();
    assert!(none.servers.is_empty() && none.stun.is_empty(), "this broker has none");
    let stranger = b.p2p(step(bob.public(), new_key().public())).await;
    assert!(matches!(stranger, Err(LinkError::Refused(e)) if e.code == code::UNKNOWN_TARGET));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_leads_from_an_identity_of_the_socket_to_another_one() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mut a = connect(&world, &world.owner, MSGPACK).await;
    let mut b = connect(&world, &bob, MSGPACK).await;
    let (ana, bob) = (world.owner.public(), bob.public());
    for (from, what) in [(bob, "the recipient's"), (new_key().public(), "nobody's")] {
        let to = if from == bob { ana } else { bob };
        assert_eq!(refused(&mut a, step(from, to)).await.code, code::NOT_YOURS, "{what}");
    }
    assert_eq!(refused(&mut a, step(ana, ana)).await.code, code::MALFORMED);
    let long = P2pFrame { payload: Blob(vec![0; MAX_P2P + 1]), ..step(ana, bob) };
    assert_eq!(refused(&mut a, long).await.code, code::TOO_LARGE);
    for adapter in ["", "Quic", "a b", &"x".repeat(33)] {
        let bad = P2pFrame { adapter: adapter.into(), ..step(ana, bob) };
        assert_eq!(refused(&mut a, bad).await.code, code::MALFORMED, "{adapter:?}");
    }
    a.send(step(ana, bob).into_frame(None)).await;
    assert_eq!(a.error().await.code, code::MALFORMED, "without a request number");
    none_came(&mut b).await;
    assert_eq!(hand(&mut a, step(ana, bob)).await, Ok(()));
    assert_eq!(came(&mut b).await.from, ana);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_away_or_unknown_or_of_another_mesh_gets_nothing() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mut a = connect(&world, &world.owner, MSGPACK).await;
    let (ana, bob_key) = (world.owner.public(), bob.public());
    let offline = refused(&mut a, step(ana, bob_key)).await;
    assert_eq!((offline.code.as_str(), offline.permanent), (code::OFFLINE, true));
    // In grace it is there, but nobody speaks for it.
    connect(&world, &bob, MSGPACK).await.close().await;
    assert_eq!(refused(&mut a, step(ana, bob_key)).await.code, code::OFFLINE);
    let mut b = connect(&world, &bob, MSGPACK).await;
    none_came(&mut b).await;

    let stranger = new_key().public();
    assert_eq!(refused(&mut a, step(ana, stranger)).await.code, code::UNKNOWN_TARGET);
    let agent = bob.agent();
    b.bind(&agent.key, &bob.attest(&world.mesh, agent.public())).await.unwrap();
    assert_eq!(hand(&mut a, step(ana, agent.public())).await, Ok(()));
    assert_eq!(came(&mut b).await.to, agent.public());
    b.unbind(agent.public()).await.unwrap();
    let gone = refused(&mut a, step(ana, agent.public())).await;
    assert_eq!((gone.code.as_str(), gone.member), (code::TARGET_GONE, Some(bob_key)));

    // A second mesh on the same broker: its members are nobody here.
    let zoe = second_mesh(&world).await;
    let mut z = connect_in(&world, &zoe).await;
    assert_eq!(refused(&mut z, step(zoe.key.public(), bob_key)).await.code, code::UNKNOWN_TARGET);
    assert_eq!(refused(&mut a, step(ana, zoe.key.public())).await.code, code::UNKNOWN_TARGET);
    none_came(&mut b).await;
    none_came(&mut z).await;
}

/// The owner of another mesh on the same broker.
struct Foreign {
    key: SecretKey,
    mesh: meshwire_signaling::MeshId,
}

async fn second_mesh(world: &World) -> Foreign {
    use meshwire_signaling::frame::http::CreateMesh;
    use meshwire_signaling::invite::{Genesis, mesh_id};
    use meshwire_signaling::sign::{Signed, domains};
    let key = new_key();
    let genesis = Genesis {
        name: "elsewhere".into(),
        owner: key.public(),
        owner_name: "zoe".into(),
        broker: world.broker.key(),
        created_at: now(),
        nonce: meshwire_signaling::Hash(random(&OsNet)),
    };
    let genesis = Signed::new(&key, domains::GENESIS, &genesis);
    let mesh = mesh_id(&genesis);
    let token = world.broker.admin_token().unwrap();
    let body = CreateMesh { genesis };
    meshwire_transport::http::create_mesh(&OsNet, &world.base, token, &body).await.unwrap();
    Foreign { key, mesh }
}

async fn connect_in(world: &World, who: &Foreign) -> Client {
    let opening = world.dial(MSGPACK).await;
    let mut body = opening.body(&who.mesh, &world.owner);
    (body.key, body.member) = (who.key.public(), who.key.public());
    with_p2p(&mut body);
    opening.say(body.sign(&who.key), None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_hellos_must_name_the_feature() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let (ana, bob_key) = (world.owner.public(), bob.public());
    let mut a = connect(&world, &world.owner, MSGPACK).await;
    let mut b = world.connect(&bob, MSGPACK).await;
    assert_eq!(refused(&mut a, step(ana, bob_key)).await.code, code::FEATURE_MISSING);
    assert_eq!(refused(&mut b, step(bob_key, ana)).await.code, code::UNSUPPORTED);
    none_came(&mut a).await;
    none_came(&mut b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_negotiates_if_its_member_lets_it_write() {
    let world = World::start().await;
    let bob = world.member("bob").await;
    let mut b = connect(&world, &bob, MSGPACK).await;
    let (mute, agent) = (world.owner.agent(), world.owner.agent());
    let word = world.owner.vouch(&world.mesh, mute.public(), |a| {
        a.capabilities = Capabilities::List(vec!["group".into()]);
    });
    let mut m = world.delegate(&world.owner, &mute, &word, with_p2p).await.unwrap();
    let forbidden = refused(&mut m, step(mute.public(), bob.public())).await;
    assert_eq!(forbidden.code, code::FORBIDDEN);
    let word = world.owner.attest(&world.mesh, agent.public());
    let mut s = world.delegate(&world.owner, &agent, &word, with_p2p).await.unwrap();
    assert_eq!(hand(&mut s, step(agent.public(), bob.public())).await, Ok(()));
    assert_eq!(came(&mut b).await.from, agent.public());
    assert_eq!(hand(&mut b, step(bob.public(), agent.public())).await, Ok(()));
    assert_eq!(came(&mut s).await.from, bob.public());
    // Its member's key is not its own.
    let error = refused(&mut s, step(world.owner.public(), bob.public())).await;
    assert_eq!(error.code, code::NOT_YOURS);
}

/// Hands out credentials that name whom they are for.
#[derive(Debug, Default)]
struct Desk(Mutex<Vec<PublicKey>>);

impl TurnDesk for Desk {
    fn credentials(&self, member: &PublicKey, now: UnixMillis) -> TurnOffer {
        self.0.lock().unwrap().push(*member);
        let server = TurnServer {
            addresses: vec!["udp:198.51.100.1:3478".into()],
            username: member.to_string(),
            password: "secret".into(),
            expires_at: now + 1_000,
        };
        TurnOffer { servers: vec![server], stun: vec!["198.51.100.1:3478".into()] }
    }
    fn stun(&self) -> Vec<String> {
        vec!["198.51.100.1:3478".into()]
    }
    fn delete_member(&self, _: &PublicKey) {}
}

async fn turn(client: &mut Client) -> Result<TurnServers, ErrorFrame> {
    let req = 77;
    client.send(TurnCredentials { req }).await;
    let pick = |f: &Frame| match f.clone() {
        Frame::TurnServers(t) if t.req == req => Some(Ok(t)),
        Frame::Error(e) if e.req == Some(req) => Some(Err(e)),
        _ => None,
    };
    client.find(pick).await
}

#[tokio::test(flavor = "multi_thread")]
async fn turn_credentials_are_the_members_own_and_not_too_many() {
    let desk = Arc::new(Desk::default());
    let world = World::with(|c| c.turn = Some(desk.clone())).await;
    for encoding in BOTH {
        let mut a = world.connect(&world.owner, encoding).await;
        let got = turn(&mut a).await.unwrap();
        assert_eq!(got.servers[0].username, world.owner.public().to_string());
        assert!(got.servers[0].expires_at > now());
        assert_eq!(got.stun, ["198.51.100.1:3478"]);
        a.close().await;
    }
    let bob = world.member("bob").await;
    let agent = bob.agent();
    let word = bob.attest(&world.mesh, agent.public());
    let mut s = world.delegate(&bob, &agent, &word, |_| {}).await.unwrap();
    let got = turn(&mut s).await.unwrap();
    assert_eq!(got.servers[0].username, bob.public().to_string(), "a session's are its member's");
    let idle = bob.agent();
    let word =
        bob.vouch(&world.mesh, idle.public(), |a| a.capabilities = Capabilities::List(Vec::new()));
    let mut i = world.delegate(&bob, &idle, &word, |_| {}).await.unwrap();
    assert_eq!(turn(&mut i).await.unwrap_err().code, code::FORBIDDEN, "it may write to nobody");
    let error = loop {
        if let Err(error) = turn(&mut s).await {
            break error;
        }
    };
    assert_eq!(error.code, code::RATE_LIMITED);
    assert!(error.retry_after_ms.is_some());
    let asked = desk.0.lock().unwrap().iter().filter(|k| **k == bob.public()).count();
    assert!((10..20).contains(&asked), "{asked}");
}
