//! Life on a connection: sends, events, requests, silence, garbage, closing.

use meshwire_signaling::AttemptId;
use meshwire_signaling::envelope::StateHead;
use meshwire_signaling::frame::{
    Bound, Drained, ErrorFrame, Invites, MessageFrame, Ok as OkFrame, P2pKind, ReceiptFrame,
    TurnServer, code,
};
use meshwire_signaling::receipt::{Receipt, Verdict};
use tokio::time::Instant;

use super::*;

const LOST: LinkError = LinkError::Down;

fn peers(req: u64) -> Peers {
    Peers { req, peers: vec![], next: None, head: StateHead::origin(&MeshId([3; 32])) }
}

#[tokio::test(start_paused = true)]
async fn sends_leave_in_order_and_each_ticket_gets_its_own_answer() {
    let (bench, mut broker) = Bench::up().await;
    let mut tickets = Vec::new();
    for n in 0..3 {
        tickets.push(bench.link.send(envelope(n)).await.unwrap());
    }
    let mut reqs = Vec::new();
    for n in 0..3 {
        let (req, got) = broker.sent().await;
        assert_eq!(got, n);
        reqs.push(req);
    }
    let refusal = ErrorFrame::permanent(code::UNKNOWN_TARGET, "who?").to_req(Some(reqs[1]));
    broker.send(refusal.clone()).await;
    broker.send(peers(reqs[2])).await;
    broker.send(Accepted { duplicate: true, ..accepted(reqs[0]) }).await;
    broker.send(accepted(999)).await;
    let mut answers = Vec::new();
    for ticket in tickets {
        answers.push(ticket.await);
    }
    let handed = Handed { state: MessageState::Relayed, duplicate: true, full: Vec::new() };
    let other = LinkError::Unexpected("peers".into());
    assert_eq!(answers, [Ok(handed), Err(LinkError::Refused(Box::new(refusal))), Err(other)]);
    assert!(bench.link.is_up());
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_resolves_its_tickets_and_comes_back() {
    let (mut bench, mut broker) = Bench::up().await;
    let ticket = bench.link.send(envelope(1)).await.unwrap();
    broker.sent().await;
    let link = bench.link.clone();
    let asking = tokio::spawn(async move { link.invite_list().await });
    assert!(matches!(broker.next().await, Frame::InviteList(_)));
    drop(broker);
    assert_eq!(ticket.await, Err(LOST));
    assert_eq!(asking.await.unwrap(), Err(LOST));
    assert!(!bench.link.is_up());
    let (_, _, retry) = bench.down().await;
    assert!(retry.unwrap() <= Duration::from_secs(1));
    let mut broker = bench.welcome().await;
    assert!(matches!(bench.event().await, LinkEvent::Up(_)));
    let again = bench.link.send(envelope(1)).await.unwrap();
    let (req, _) = broker.sent().await;
    broker.send(accepted(req)).await;
    assert!(again.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_comes_in_becomes_events_and_answers_go_out() {
    let (mut bench, mut broker) = Bench::up().await;
    let (me, you) = (member().public(), SecretKey::from_seed(&[5; 32]).public());
    let id = EnvelopeId::new(NOW, 3);
    let receipt =
        Receipt { verdict: Verdict::Delivered, reason: None, by: you, mac: Hash([1; 32]) };
    let message = MessageFrame { to: me, envelope: envelope(4), accepted_at: NOW, attempt: 2 };
    broker.send(message).await;
    broker.send(ReceiptFrame { from: me, id, receipt: receipt.clone() }).await;
    broker.send(Drained {}).await;
    let LinkEvent::Envelope(inbound) = bench.event().await else { panic!() };
    let want = Inbound { to: me, envelope: envelope(4), accepted_at: NOW, attempt: 2 };
    assert_eq!(*inbound, want);
    let LinkEvent::Receipt { from, receipt: got, .. } = bench.event().await else { panic!() };
    assert_eq!((from, &got), (me, &receipt));
    assert!(matches!(bench.event().await, LinkEvent::Drained));

    bench.link.answer(Answer::Final { from: you, id, receipt: receipt.clone() }).await.unwrap();
    assert_eq!(broker.next().await, ClientAck { from: you, id, receipt }.into());
    let nack = |permanent| {
        let reason = "blocked".to_owned();
        Frame::from(ClientNack { from: you, id, by: me, reason, permanent, receipt: None })
    };
    let reason = "blocked".to_owned();
    bench.link.answer(Answer::Refused { from: you, id, by: me, reason }).await.unwrap();
    assert_eq!(broker.next().await, nack(true));
    let reason = "blocked".to_owned();
    bench.link.answer(Answer::Later { from: you, id, by: me, reason }).await.unwrap();
    assert_eq!(broker.next().await, nack(false));
    // For an ended session, by the member.
    let reason = Some(code::TARGET_GONE.to_owned());
    let gone = Receipt { verdict: Verdict::Gone, reason, by: me, mac: Hash([2; 32]) };
    let session = SecretKey::from_seed(&[8; 32]).public();
    let answer = Answer::Gone { from: you, id, by: session, receipt: gone.clone() };
    bench.link.answer(answer).await.unwrap();
    let reason = gone.reason.clone().unwrap();
    let want =
        ClientNack { from: you, id, by: session, reason, permanent: true, receipt: Some(gone) };
    assert_eq!(broker.next().await, want.into());
    bench.link.confirm(me, id, you).await.unwrap();
    assert_eq!(broker.next().await, ReceiptAck { from: me, id, by: you }.into());
}

#[tokio::test(start_paused = true)]
async fn requests_get_their_answers() {
    let (bench, mut broker) = Bench::up().await;
    let link = &bench.link;
    let key = SecretKey::from_seed(&[5; 32]);
    let signed = Signed::new(&member(), domains::CAPABILITY, &"terms");

    let (got, ()) = tokio::join!(link.list_peers(None, Some(key.public())), async {
        let Frame::ListPeers(ask) = broker.next().await else { panic!() };
        assert_eq!(ask.key, Some(key.public()));
        broker.send(peers(ask.req)).await;
    });
    assert!(got.unwrap().peers.is_empty());

    let (got, ()) = tokio::join!(link.invite_create(signed.clone()), async {
        let Frame::InviteCreate(ask) = broker.next().await else { panic!() };
        assert_eq!(ask.capability, signed);
        broker.send(OkFrame { req: ask.req }).await;
    });
    assert_eq!(got, Ok(()));

    let (got, ()) = tokio::join!(link.invite_list(), async {
        let Frame::InviteList(ask) = broker.next().await else { panic!() };
        broker.send(Invites { req: ask.req, invites: vec![] }).await;
    });
    assert_eq!(got, Ok(vec![]));

    let refusal = ErrorFrame::permanent(code::INVITE_NOT_FOUND, "no such invite");
    let (got, ()) = tokio::join!(link.invite_revoke(key.public()), async {
        let Frame::InviteRevoke(ask) = broker.next().await else { panic!() };
        broker.send(refusal.clone().to_req(Some(ask.req))).await;
    });
    assert!(matches!(got, Err(LinkError::Refused(e)) if e.code == code::INVITE_NOT_FOUND));
}

#[tokio::test(start_paused = true)]
async fn steps_of_negotiations_go_both_ways() {
    let (mut bench, mut broker) = Bench::up().await;
    let step = |kind| P2pFrame {
        loopback: false,
        kind,
        to: SecretKey::from_seed(&[5; 32]).public(),
        from: member().public(),
        adapter: "quic".into(),
        attempt: AttemptId([6; 16]),
        payload: vec![7; 9].into(),
    };
    for kind in P2pKind::ALL {
        let (got, ()) = tokio::join!(bench.link.p2p(step(kind)), async {
            let frame = broker.next().await;
            let req = 1 + P2pKind::ALL.iter().position(|k| *k == kind).unwrap() as u64;
            assert_eq!(frame, step(kind).into_frame(Some(req)));
            broker.send(OkFrame { req }).await;
        });
        assert_eq!(got, Ok(()));
        broker.send(step(kind).into_frame(None)).await;
        let LinkEvent::P2p(came) = bench.event().await else { panic!() };
        assert_eq!(*came, step(kind));
    }
    let large = P2pFrame { payload: vec![0; MAX_P2P + 1].into(), ..step(P2pKind::Offer) };
    let (len, max) = (MAX_P2P + 1, MAX_P2P);
    assert_eq!(bench.link.p2p(large).await, Err(LinkError::TooLarge { len, max }));
    let (got, ()) = tokio::join!(bench.link.p2p(step(P2pKind::Offer)), async {
        let Frame::P2pOffer(offer) = broker.next().await else { panic!() };
        let offline = ErrorFrame::permanent(code::OFFLINE, "away");
        broker.send(offline.to_req(offer.req)).await;
    });
    assert!(matches!(got, Err(LinkError::Refused(e)) if e.code == code::OFFLINE));
}

#[tokio::test(start_paused = true)]
async fn turn_credentials_are_asked_for() {
    let (bench, mut broker) = Bench::up().await;
    let server = TurnServer {
        addresses: vec!["udp:198.51.100.1:3478".into()],
        username: "u".into(),
        password: "secret".into(),
        expires_at: NOW,
    };
    let stun = vec!["198.51.100.1:3478".to_owned()];
    let (got, ()) = tokio::join!(bench.link.turn_credentials(), async {
        let Frame::TurnCredentials(TurnCredentials { req }) = broker.next().await else { panic!() };
        let (servers, stun) = (vec![server.clone()], stun.clone());
        broker.send(TurnServers { req, servers, stun }).await;
    });
    let got = got.unwrap();
    assert_eq!((&got.servers[..], &got.stun), (&[server][..], &stun));
    assert!(!format!("{got:?}").contains("secret"), "passwords are not for logs");
}

#[tokio::test(start_paused = true)]
async fn bind_proves_the_key_for_this_connections_hello() {
    let mut bench = Bench::new(Encoding::MsgPack);
    let mut broker = bench.accept().await;
    broker.challenge(&broker_key()).await;
    let (hello, _) = broker.hello().await;
    broker.ack(hello, Limits::default()).await;
    assert!(matches!(bench.event().await, LinkEvent::Up(_)));
    let key = SecretKey::from_seed(&[5; 32]);
    let attestation = Signed::new(&member(), domains::ATTESTATION, &"mine");
    let (got, ()) = tokio::join!(bench.link.bind(&key, attestation), async {
        let Frame::Bind(bind) = broker.next().await else { panic!() };
        assert!(bind.proven(&hello));
        broker.send(Bound { req: bind.req, key: bind.key, resumed: true }).await;
    });
    assert_eq!(got, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_request_times_out_and_is_forgotten() {
    let (bench, mut broker) = Bench::up().await;
    let start = Instant::now();
    assert_eq!(bench.link.invite_list().await, Err(LinkError::TimedOut));
    assert_eq!(start.elapsed(), Duration::from_secs(15));
    let Frame::InviteList(ask) = broker.next().await else { panic!() };
    broker.send(Invites { req: ask.req, invites: vec![] }).await;
    assert!(bench.link.is_up());
    assert_eq!(format!("{:?}", bench.link.shared.up().unwrap().pending), "Pending(0)");
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_never_leaves() {
    let mut bench = Bench::new(Encoding::MsgPack);
    let mut broker = bench.accept().await;
    broker.challenge(&broker_key()).await;
    let (hello, _) = broker.hello().await;
    broker.ack(hello, Limits { body: 1_000, frame: 1_200, ..Limits::default() }).await;
    assert!(matches!(bench.event().await, LinkEvent::Up(_)));
    let mut large = envelope(1);
    large.body = vec![0; 1_001].into();
    let refused = bench.link.send(large.clone()).await.unwrap_err();
    assert_eq!(refused, LinkError::TooLarge { len: 1_001, max: 1_000 });
    large.body = vec![0; 900].into();
    large.header = vec![0; 500].into();
    let refused = bench.link.send(large).await.unwrap().await.unwrap_err();
    assert!(matches!(refused, LinkError::TooLarge { max: 1_200, .. }), "{refused:?}");
    let ticket = bench.link.send(envelope(2)).await.unwrap();
    let (req, n) = broker.sent().await;
    assert_eq!(n, 2);
    broker.send(accepted(req)).await;
    assert!(ticket.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn unknown_and_senseless_frames_are_ignored_and_garbage_ends_the_connection() {
    let (mut bench, mut broker) = Bench::up().await;
    let unknown = b"\x82\xa4type\xa8teleport\xa1x\x01".to_vec();
    broker.ws.send(Message::binary(unknown)).await.unwrap();
    broker.send(ListPeers { req: 1, after: None, key: None }).await;
    broker.send(ErrorFrame::permanent(code::MALFORMED, "unasked")).await;
    broker.send(Drained {}).await;
    assert!(matches!(bench.event().await, LinkEvent::Drained));
    for garbage in [Message::binary(b"\xc1\xff".to_vec()), Message::text("{}")] {
        broker.ws.send(garbage).await.unwrap();
        let (reason, _, retry) = bench.down().await;
        assert!(reason.starts_with("the connection broke"), "{reason}");
        assert!(retry.is_some());
        broker = bench.welcome().await;
        assert!(matches!(bench.event().await, LinkEvent::Up(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_is_pinged_and_then_given_up() {
    let (mut bench, mut broker) = Bench::up().await;
    let start = Instant::now();
    let raw = broker.ws.get_mut();
    let mut head = [0; 2];
    tokio::io::AsyncReadExt::read_exact(raw, &mut head).await.unwrap();
    assert_eq!(head[0], 0x89, "a ping (RFC 6455 section 5.2)");
    assert_eq!(start.elapsed(), Duration::from_secs(15));
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("nothing heard for 75 s"), "{reason}");
    assert_eq!(start.elapsed(), Duration::from_secs(75));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_answers_pings_but_not_sends_is_given_up() {
    let (mut bench, mut broker) = Bench::up().await;
    let ticket = bench.link.send(envelope(1)).await.unwrap();
    let start = Instant::now();
    let alive = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(10)).await;
            if broker.ws.send(Message::Ping(Bytes::new())).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(ticket.await, Err(LOST));
    assert_eq!(start.elapsed(), Duration::from_secs(30));
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("unanswered"), "{reason}");
    alive.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_reads_no_events_can_still_send() {
    const N: u8 = 250;
    let (mut bench, broker) = Bench::up().await;
    let (mut out, mut incoming) = broker.ws.split();
    // More than the event queue and both pipes hold.
    let flood = tokio::spawn(async move {
        for n in 0..N {
            for _ in 0..4 {
                let to = member().public();
                let m = MessageFrame { to, envelope: envelope(n), accepted_at: NOW, attempt: 1 };
                out.send(wire::encode(Encoding::MsgPack, &m.into())).await.unwrap();
            }
        }
        out
    });
    let counting = tokio::spawn(async move {
        for n in 0..N {
            let next = wire::next(&mut incoming, Encoding::MsgPack).await;
            let wire::Incoming::Frame(frame) = next else { panic!() };
            let Frame::Send(sent) = *frame else { panic!() };
            assert_eq!(sent.envelope.header.0[0], n);
        }
        incoming
    });
    let mut tickets = Vec::new();
    for n in 0..N {
        tickets.push(bench.link.send(envelope(n)).await.unwrap());
    }
    let _incoming = counting.await.unwrap();
    assert_eq!(bench.events.len(), EVENTS, "the events are full and stay bounded");
    assert!(!flood.is_finished(), "and hold the broker back");
    for n in 0..N {
        for _ in 0..4 {
            let LinkEvent::Envelope(e) = bench.event().await else { panic!() };
            assert_eq!(e.envelope.header.0[0], n, "nothing lost, nothing reordered");
        }
    }
    drop(flood.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_reads_costs_the_connection_not_the_link() {
    let (mut bench, mut broker) = Bench::up().await;
    let start = Instant::now();
    let ticket = bench.link.send(envelope(0)).await.unwrap();
    let (req, _) = broker.sent().await;
    for _ in 0..=EVENTS {
        broker.send(Drained {}).await;
    }
    broker.send(accepted(req)).await;
    // The answer is behind an event for which there is no room.
    assert_eq!(ticket.await, Err(LOST));
    assert_eq!(start.elapsed(), Duration::from_secs(75));
    for _ in 0..EVENTS {
        assert!(matches!(bench.event().await, LinkEvent::Drained));
    }
    let (reason, ..) = bench.down().await;
    assert!(reason.contains("did not read"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn close_lets_out_what_was_handed_over_and_waits_for_its_answers() {
    let (mut bench, mut broker) = Bench::up().await;
    let answered = bench.link.send(envelope(1)).await.unwrap();
    let unanswered = bench.link.send(envelope(2)).await.unwrap();
    let link = bench.link.clone();
    let closing = tokio::spawn(async move { link.close().await });
    let (req, n) = broker.sent().await;
    assert_eq!((n, broker.sent().await.1), (1, 2));
    assert_eq!(bench.link.send(envelope(3)).await.unwrap_err(), LinkError::Closed);
    broker.send(accepted(req)).await;
    let goodbye = broker.ws.next().await;
    let Some(Ok(Message::Close(Some(frame)))) = goodbye else { panic!("{goodbye:?}") };
    assert_eq!(u16::from(frame.code), close::NORMAL);
    while broker.ws.next().await.is_some() {}
    drop(broker);
    assert!(answered.await.is_ok());
    assert_eq!(unanswered.await, Err(LinkError::Closed));
    closing.await.unwrap();
    assert!(bench.events.recv().await.is_none(), "no Down after a close of our own");
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_a_broker_that_does_not_read() {
    let (bench, broker) = Bench::up().await;
    let mut large = envelope(1);
    large.body = vec![0; 60_000].into();
    let ticket = bench.link.send(large).await.unwrap();
    let start = Instant::now();
    bench.link.close().await;
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert_eq!(ticket.await, Err(LinkError::Closed));
    drop(broker);
}

#[tokio::test(start_paused = true)]
async fn a_link_closes_while_it_waits_and_when_its_last_handle_goes() {
    let (mut bench, broker) = Bench::up().await;
    drop(broker);
    bench.down().await;
    let start = Instant::now();
    bench.link.close().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let (bench, mut broker) = Bench::up().await;
    let Bench { link, mut events, .. } = bench;
    drop(link);
    let goodbye = broker.ws.next().await;
    assert!(matches!(goodbye, Some(Ok(Message::Close(Some(_))))), "{goodbye:?}");
    drop(broker);
    assert!(events.recv().await.is_none());
}
