//! What a hostile broker, or peer, can do to a negotiation: nothing but refuse service.

use proptest::prelude::*;

use super::quic::{Candidate, CandidateKind, Candidates, Content, Params, Ports};
use super::*;
use crate::attest::{Attestation, AttestationError, Capabilities, IdentityKind};
use crate::envelope::StateHead;
use crate::frame::{P2pFrame, P2pKind};
use crate::id::{AttemptId, Blob, Hash, InstanceId, MeshId, PublicKey, SecretKey};
use crate::limits::{MAX_CANDIDATES, MAX_P2P};
use crate::seal::{Pair, SealError};
use crate::sign::Signed;

const NOW: u64 = 1_750_000_000_000;
const MESH: MeshId = MeshId([7; 32]);
const ATTEMPT: AttemptId = AttemptId([5; 16]);

fn ana() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}
fn bob() -> SecretKey {
    SecretKey::from_seed(&[2; 32])
}
fn eve() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

fn pair(mine: &SecretKey, theirs: &SecretKey) -> Pair {
    Pair::new(mine, &theirs.public()).unwrap()
}

fn params() -> Params {
    Params {
        ufrag: "8hhY".into(),
        pwd: "YH75Fviy6338Vbrhrlp8Yh".into(),
        tls: Hash([4; 32]),
        candidates: vec![candidate("192.0.2.7:40000")],
        relay_only: false,
        done: false,
    }
}

fn candidate(addr: &str) -> Candidate {
    let addr = addr.parse().unwrap();
    Candidate { kind: CandidateKind::Host, addr, priority: 1, foundation: "1".into() }
}

/// Ana's offer to bob.
fn offer() -> Negotiation {
    Negotiation {
        v: VERSION,
        kind: P2pKind::Offer,
        adapter: quic::ADAPTER.into(),
        attempt: ATTEMPT,
        seq: 0,
        from: ana().public(),
        instance: InstanceId([8; 16]),
        to: bob().public(),
        at: NOW,
        head: StateHead::origin(&MESH),
        answers: None,
        content: Content::Offer(params()).encode().into(),
    }
}

/// What ana seals for bob, and the frame around it.
fn sent(step: &Negotiation) -> P2pFrame {
    let sealed = step.seal(&MESH, &ana(), None, &pair(&ana(), &bob()), &[9; 24]).unwrap();
    step.frame(sealed)
}

/// What bob makes of a frame that names `from`, the offer being `offer`.
fn read(frame: &P2pFrame, offer: Option<&Hash>, now: u64) -> Result<Opened, P2pError> {
    let pair = Pair::new(&bob(), &frame.from)?;
    open(&frame.payload, &pair, &Expected::of(frame, &MESH, &bob().public(), offer, now))
}

fn refused(frame: &P2pFrame) -> P2pError {
    read(frame, None, NOW).unwrap_err()
}

#[test]
fn a_step_arrives_whole() {
    let step = offer();
    let opened = read(&sent(&step), None, NOW + 60_000).unwrap();
    assert_eq!((&opened.step, opened.member), (&step, ana().public()));
    assert_eq!(Content::decode(P2pKind::Offer, &opened.step.content), Ok(Content::Offer(params())));
    let sealed = step.seal(&MESH, &ana(), None, &pair(&ana(), &bob()), &[1; 24]).unwrap();
    assert_eq!(opened.hash, sealed.hash, "the nonce is none of what was signed");
}

#[test]
fn what_the_broker_rewrites_outside_is_noticed() {
    let good = sent(&offer());
    let with = |f: &dyn Fn(&mut P2pFrame)| {
        let mut frame = good.clone();
        f(&mut frame);
        refused(&frame)
    };
    let undecryptable = P2pError::Seal(SealError::Undecryptable);
    assert_eq!(with(&|f| f.from = eve().public()), undecryptable);
    assert_eq!(with(&|f| f.from = PublicKey([0; 32])), P2pError::Seal(SealError::BadKey));
    assert_eq!(with(&|f| f.adapter = "webrtc".into()), P2pError::Mismatch(Part::Adapter));
    assert_eq!(with(&|f| f.attempt.0[0] ^= 1), P2pError::Mismatch(Part::Attempt));
    for kind in [P2pKind::Answer, P2pKind::Candidate, P2pKind::Bye] {
        assert_eq!(with(&|f| f.kind = kind), P2pError::Mismatch(Part::Kind));
    }
    let huge = with(&|f| f.payload.0.resize(MAX_P2P + 1, 0));
    assert_eq!(huge, P2pError::TooLarge { len: MAX_P2P + 1, max: MAX_P2P });
    for byte in 0..good.payload.len() {
        assert_eq!(with(&|f| f.payload.0[byte] ^= 1), undecryptable, "byte {byte}");
    }
    for cut in [0, 24, 39, good.payload.len() - 1] {
        assert_eq!(with(&|f| f.payload.0.truncate(cut)), undecryptable, "cut at {cut}");
    }
}

#[test]
fn a_step_is_no_other_ones() {
    let good = sent(&offer());
    // Handed to somebody else.
    let expected = Expected::of(&good, &MESH, &good.to, None, NOW);
    let elsewhere = open(&good.payload, &pair(&eve(), &ana()), &expected);
    assert_eq!(elsewhere.unwrap_err(), P2pError::Seal(SealError::Undecryptable));
    // Handed back to its author, as by bob: the box of a pair opens on both sides.
    let back = P2pFrame { from: bob().public(), to: ana().public(), ..good.clone() };
    let me = ana().public();
    let expected = Expected::of(&back, &MESH, &me, None, NOW);
    let reflected = open(&back.payload, &pair(&ana(), &bob()), &expected);
    assert_eq!(reflected.unwrap_err(), P2pError::Mismatch(Part::Sender));
    // Shown in another mesh of the same two keys.
    let mesh = MeshId([6; 32]);
    let expected = Expected { mesh: &mesh, ..Expected::of(&good, &MESH, &good.to, None, NOW) };
    let moved = open(&good.payload, &pair(&bob(), &ana()), &expected);
    assert_eq!(moved.unwrap_err(), P2pError::BadSignature);
    // Said to be for another of bob's identities.
    let other = eve().public();
    let expected = Expected { me: &other, ..Expected::of(&good, &MESH, &good.to, None, NOW) };
    let readdressed = open(&good.payload, &pair(&bob(), &ana()), &expected);
    assert_eq!(readdressed.unwrap_err(), P2pError::Mismatch(Part::Recipient));
}

/// Bob has the pair's key too: what he or anybody seals needs ana's signature to be hers.
#[test]
fn a_foreign_signature_or_changed_words_are_refused() {
    let step = offer();
    let boxed = |outer: &SignedStep| {
        let payload = pair(&bob(), &ana()).seal(&[9; 24], &codec::to_msgpack(outer));
        P2pFrame { payload: Blob(payload), ..sent(&step) }
    };
    let sealed = step.seal(&MESH, &eve(), None, &pair(&ana(), &bob()), &[9; 24]).unwrap();
    assert_eq!(refused(&step.frame(sealed)), P2pError::BadSignature);

    let outer = pair(&bob(), &ana()).open(&sent(&step).payload).unwrap();
    let outer: SignedStep = codec::from_msgpack(&outer).unwrap();
    assert!(read(&boxed(&outer), None, NOW).is_ok());
    let rewritten = |f: &dyn Fn(&mut Negotiation)| {
        let mut step = step.clone();
        f(&mut step);
        let mut outer = outer.clone();
        outer.payload = Blob(codec::to_msgpack(&step));
        refused(&boxed(&outer))
    };
    assert_eq!(rewritten(&|s| s.seq = 1), P2pError::BadSignature);
    assert_eq!(rewritten(&|s| s.at += 1), P2pError::BadSignature);
    assert_eq!(rewritten(&|s| s.instance.0[0] ^= 1), P2pError::BadSignature);
    assert_eq!(rewritten(&|s| s.head.version = 1), P2pError::BadSignature);
    assert_eq!(rewritten(&|s| s.content.0.push(0)), P2pError::BadSignature);
    assert_eq!(rewritten(&|s| s.attempt.0[0] ^= 1), P2pError::BadSignature);
    assert_eq!(rewritten(&|s| s.kind = P2pKind::Bye), P2pError::BadSignature);
    assert_eq!(rewritten(&|s| s.adapter = "webrtc".into()), P2pError::BadSignature);
    assert_eq!(rewritten(&|s| s.answers = Some(Hash([0; 32]))), P2pError::BadSignature);
    assert_eq!(rewritten(&|s| s.from = eve().public()), P2pError::Mismatch(Part::Sender));
    assert_eq!(rewritten(&|s| s.to = eve().public()), P2pError::Mismatch(Part::Recipient));
    assert_eq!(rewritten(&|s| s.v = 2), P2pError::Version(2));
    let mut garbage = outer;
    garbage.payload = Blob(b"\x80".to_vec());
    assert!(matches!(refused(&boxed(&garbage)), P2pError::Malformed(_)));
}

#[test]
fn an_answer_belongs_to_one_offer() {
    let (this, other) = (Hash([1; 32]), Hash([2; 32]));
    for kind in [P2pKind::Answer, P2pKind::Candidate, P2pKind::Bye] {
        let step = |answers| Negotiation { kind, answers, ..offer() };
        let named = sent(&step(Some(this)));
        assert!(read(&named, Some(&this), NOW).is_ok());
        for (frame, offer) in [(&named, Some(&other)), (&named, None), (&sent(&step(None)), None)] {
            let error = read(frame, offer, NOW).unwrap_err();
            assert_eq!(error, P2pError::Mismatch(Part::Offer), "{kind:?}");
        }
    }
    let answering = sent(&Negotiation { answers: Some(this), ..offer() });
    let error = read(&answering, Some(&this), NOW).unwrap_err();
    assert_eq!(error, P2pError::Mismatch(Part::Offer), "an offer answers nothing");
}

#[test]
fn what_was_held_back_is_too_old() {
    let frame = sent(&offer());
    for now in [NOW - 60_000, NOW, NOW + 60_000] {
        assert!(read(&frame, None, now).is_ok(), "{now}");
    }
    for now in [NOW - 60_001, NOW + 60_001] {
        let error = read(&frame, None, now).unwrap_err();
        assert_eq!(error, P2pError::Skew { off_ms: 60_001 });
    }
    assert!(matches!(read(&frame, None, 0), Err(P2pError::Skew { .. })));
    assert!(matches!(read(&frame, None, u64::MAX), Err(P2pError::Skew { .. })));
}

/// An agent's offer, vouched for by ana as `twist` would have it.
fn by_agent(twist: impl FnOnce(&mut Attestation)) -> P2pFrame {
    let agent = eve();
    let mut word = Attestation {
        mesh: MESH,
        member: ana().public(),
        key: agent.public(),
        kind: IdentityKind::Session,
        name: "agent".into(),
        capabilities: Capabilities::All,
        issued_at: NOW,
        expires_at: NOW + 1_000,
    };
    twist(&mut word);
    let word: Signed = word.sign(&ana());
    let step = Negotiation { from: agent.public(), ..offer() };
    let pair = pair(&agent, &bob());
    let sealed = step.seal(&MESH, &agent, Some(&word), &pair, &[9; 24]).unwrap();
    step.frame(sealed)
}

#[test]
fn a_session_is_vouched_for_by_its_member() {
    let opened = read(&by_agent(|_| {}), None, NOW).unwrap();
    assert_eq!((opened.step.from, opened.member), (eve().public(), ana().public()));
    let refused = |twist: fn(&mut Attestation)| refused(&by_agent(twist));
    let attestation = P2pError::Attestation;
    assert_eq!(refused(|a| a.expires_at = NOW), attestation(AttestationError::Expired));
    assert_eq!(refused(|a| a.key = bob().public()), attestation(AttestationError::Mismatch));
    let foreign = refused(|a| a.member = bob().public());
    assert_eq!(foreign, attestation(AttestationError::BadSignature));
    assert!(matches!(
        refused(|a| a.mesh = MeshId([0; 32])),
        P2pError::Attestation(AttestationError::Malformed(_))
    ));
    let group_only = refused(|a| a.capabilities = Capabilities::List(vec!["group".into()]));
    assert_eq!(group_only, P2pError::NotAllowed);
    assert!(
        read(&by_agent(|a| a.capabilities = Capabilities::List(vec!["dm".into()])), None, NOW)
            .is_ok()
    );
}

#[test]
fn the_largest_offer_fits_and_a_larger_one_is_not_made() {
    let long = Candidate {
        foundation: "f".repeat(32),
        priority: (1 << 31) - 1,
        kind: CandidateKind::Relayed,
        ..candidate("[2001:db8:1111:2222:3333:4444:5555:6666]:65535")
    };
    let params = Params {
        ufrag: "u".repeat(256),
        pwd: "p".repeat(256),
        candidates: vec![long; MAX_CANDIDATES],
        ..params()
    };
    let content = Content::Offer(params);
    assert_eq!(content.check(), Ok(()));
    let step = Negotiation { content: content.encode().into(), ..offer() };
    assert!(sent(&step).payload.len() < MAX_P2P / 2);
    let step = Negotiation { content: vec![0; MAX_P2P].into(), ..offer() };
    let error = step.seal(&MESH, &ana(), None, &pair(&ana(), &bob()), &[9; 24]).unwrap_err();
    assert!(matches!(error, P2pError::TooLarge { max: MAX_P2P, .. }));
}

#[test]
fn passwords_are_not_for_logs() {
    let text = format!("{:?}", Content::Offer(params()));
    assert!(!text.contains(&params().pwd) && text.contains("8hhY"), "{text}");
}

#[test]
fn zones_do_not_leave_the_machine() {
    let mut c = candidate("[fe80::1%3]:9");
    c.addr = "[fe80::1%3]:9".parse().unwrap();
    let content = Content::Candidate(Candidates { candidates: vec![c], ..Candidates::default() });
    let Content::Candidate(read) = Content::decode(P2pKind::Candidate, &content.encode()).unwrap()
    else {
        panic!("another kind");
    };
    assert_eq!(read.candidates[0].addr, "[fe80::1]:9".parse().unwrap());
}

#[test]
fn words_about_ports_may_be_of_a_later_version() {
    #[derive(serde::Serialize)]
    struct Later {
        ports: &'static str,
    }
    for (said, expected) in
        [("kept", Ports::Kept), ("opened", Ports::Opened), ("painted", Ports::Unknown)]
    {
        let bytes = codec::to_msgpack(&Later { ports: said });
        let read = Content::decode(P2pKind::Candidate, &bytes).unwrap();
        let ports = Some(expected);
        assert_eq!(read, Content::Candidate(Candidates { ports, ..Candidates::default() }));
    }
}

fn content() -> impl Strategy<Value = Content> {
    let kinds = [
        CandidateKind::Host,
        CandidateKind::Srflx,
        CandidateKind::Prflx,
        CandidateKind::Mapped,
        CandidateKind::Relayed,
    ];
    let addr = (any::<std::net::IpAddr>(), any::<u16>()).prop_map(std::net::SocketAddr::from);
    let kind = proptest::sample::select(kinds.to_vec());
    let candidate = (kind, addr, 1..=i32::MAX.unsigned_abs(), "[a-zA-Z0-9+/]{1,32}").prop_map(
        |(kind, addr, priority, foundation)| Candidate { kind, addr, priority, foundation },
    );
    let candidates = proptest::collection::vec(candidate, 0..=MAX_CANDIDATES);
    let ice = "[a-zA-Z0-9+/]{4,256}";
    let pwd = "[a-zA-Z0-9+/]{22,256}";
    let params = (ice, pwd, any::<[u8; 32]>(), candidates.clone(), any::<bool>(), any::<bool>())
        .prop_map(|(ufrag, pwd, tls, candidates, relay_only, done)| Params {
            ufrag,
            pwd,
            tls: Hash(tls),
            candidates,
            relay_only,
            done,
        });
    let ports = [None, Some(Ports::Kept), Some(Ports::Opened), Some(Ports::Unknown)];
    let ports = proptest::sample::select(ports.to_vec());
    prop_oneof![
        params.clone().prop_map(Content::Offer),
        params.prop_map(Content::Answer),
        (candidates, any::<bool>(), ports).prop_map(|(candidates, done, ports)| {
            Content::Candidate(Candidates { candidates, done, ports })
        }),
        "[a-z0-9_]{1,64}".prop_map(|reason| Content::Bye(quic::Bye { reason })),
    ]
}

proptest! {
    #[test]
    fn contents_round_trip(content in content()) {
        prop_assert_eq!(content.check(), Ok(()));
        let read = Content::decode(content.kind(), &content.encode());
        prop_assert_eq!(read, Ok(content));
    }

    #[test]
    fn any_bytes_give_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz(&bytes);
        let frame = P2pFrame { payload: Blob(bytes.clone()), ..sent(&offer()) };
        prop_assert!(read(&frame, None, NOW).is_err());
        // Also where the box itself is good: bob's own peer may send what it likes.
        let payload = pair(&ana(), &bob()).seal(&[1; 24], &bytes);
        let frame = P2pFrame { payload: Blob(payload), ..frame };
        prop_assert!(read(&frame, None, NOW).is_err());
    }

    #[test]
    fn flipped_bytes_never_panic(
        content in content(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..8),
    ) {
        let mut bytes = content.encode();
        for (at, xor) in &flips {
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
        }
        fuzz(&bytes);
    }
}

#[test]
fn addresses_of_another_machines_loopback_are_left_out() {
    let all = ["127.0.0.1:9", "192.168.1.2:9", "[::1]:9", "[::ffff:127.0.0.1]:9", "[fd00::1]:9"];
    let candidates: Vec<_> = all.into_iter().map(candidate).collect();
    let there = vec![candidates[1].clone(), candidates[4].clone()];
    let some = Candidates { candidates: candidates.clone(), ..Default::default() };
    let kept = Candidates { candidates: there.clone(), ..Default::default() };
    assert_eq!(Content::Candidate(some).without_loopback(), Content::Candidate(kept));
    let offer = Params { candidates, ..params() };
    let kept = Params { candidates: there, ..params() };
    assert_eq!(Content::Offer(offer.clone()).without_loopback(), Content::Offer(kept.clone()));
    assert_eq!(Content::Answer(offer).without_loopback(), Content::Answer(kept));
}
