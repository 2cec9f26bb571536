//! Planning, and its refusals.

use super::*;
use meshwire_signaling::attest::{Capabilities, IdentityKind};
use meshwire_signaling::envelope::{Author as By, Proof, box_key_id};
use meshwire_signaling::id::Blob;
use meshwire_signaling::invite::Chain;
use meshwire_signaling::{Envelope, InstanceId, Priority, SecretKey};

const NOW: u64 = 1_700_000_000_000;
const MESH: MeshId = MeshId([1; 32]);

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

/// By member 1, or another key, to member 2.
fn send_by(by: u8, twist: impl Fn(&mut Header), body: usize) -> Send {
    let mut header = Header {
        channel: Channel::Dm,
        from: By { key: key(by).public(), instance: InstanceId([0; 16]) },
        target: Target::Member { key: key(2).public() },
        id: EnvelopeId::new(NOW, 1),
        priority: Priority::Next,
        durability: Durability::Queued,
        sent_at: NOW,
        expires_at: NOW + 1000,
        suite: Suite::Box,
        key_id: box_key_id(&key(2).public()).unwrap(),
        ephemeral: None,
    };
    twist(&mut header);
    let envelope = Envelope::sign(&MESH, &key(by), &header, vec![7; body]);
    Send { req: 1, envelope, batch: None }
}

fn send(twist: impl Fn(&mut Header), body: usize) -> Send {
    send_by(1, twist, body)
}

fn group_header(h: &mut Header) {
    h.channel = Channel::Group;
    h.target = Target::Group { name: "ops/db".into() };
    h.suite = Suite::Wrap;
    h.key_id = Blob(vec![3; 32]);
}

fn wrap(n: u8) -> Wrap {
    Wrap { to: key(n).public(), key: Blob(vec![n; WRAP]) }
}

fn group_send(twist: impl Fn(&mut Header), wraps: &[Wrap]) -> Send {
    let mut send = send(
        |h| {
            group_header(h);
            twist(h);
        },
        9,
    );
    send.envelope.wraps = wraps.to_vec();
    send
}

fn attestation(twist: impl Fn(&mut Attestation)) -> Signed {
    let mut a = Attestation {
        mesh: MESH,
        member: key(1).public(),
        key: key(4).public(),
        kind: IdentityKind::Session,
        name: "agent".into(),
        capabilities: Capabilities::All,
        issued_at: NOW - 10,
        expires_at: NOW + 1000,
    };
    twist(&mut a);
    a.sign(&key(1))
}

fn with(mut send: Send, attestation: Option<Signed>) -> Send {
    let chain = Chain::owner(self::attestation(|_| {}));
    send.envelope.proof = Some(Box::new(Proof { chain, attestation }));
    send
}

/// Key 1 is the member, key 4 its session, bound with `bound`.
fn plan_bound(mut s: Send, bound: Option<Signed>) -> Result<Plan, ErrorFrame> {
    let author = |k: &PublicKey| match *k {
        k if k == key(1).public() => Author::Member,
        k if k == key(4).public() => Author::Delegate { attestation: bound.clone() },
        _ => Author::Stranger,
    };
    plan(&mut s, &MESH, &key(1).public(), author, NOW)
}

fn try_plan(s: Send) -> Result<Plan, String> {
    plan_bound(s, None).map_err(|e| e.code)
}

#[test]
fn a_direct_message_is_planned_without_its_proof() {
    let plan = try_plan(with(send(|_| {}, 65_536), None)).unwrap();
    let to = Recipients::One { key: key(2).public(), kind: TargetKind::Member };
    assert_eq!((plan.to.keys(), plan.priority, plan.queued), (to.keys(), 1, true));
    assert_eq!((plan.to, plan.attestation), (to, None));
    let stored: Envelope = codec::from_msgpack(&plan.envelope).unwrap();
    assert_eq!((stored.hash(&MESH), stored.proof), (plan.hash, None));
}

#[test]
fn each_fault_has_its_code() {
    let code_of = |s| try_plan(s).unwrap_err();
    assert_eq!(code_of(send(|h| h.from.key = key(3).public(), 9)), code::NOT_YOURS);
    assert_eq!(code_of(send(|_| {}, 65_537)), code::TOO_LARGE);
    assert_eq!(code_of(send(|h| h.expires_at = h.sent_at, 9)), code::BAD_ENVELOPE);
    assert_eq!(code_of(send(|h| h.sent_at = NOW - 10, 0)), code::BAD_ENVELOPE);
    let past = |h: &mut Header| (h.sent_at, h.expires_at) = (NOW - 10, NOW);
    assert_eq!(code_of(send(past, 9)), code::EXPIRED);
    let topic = |h: &mut Header| {
        h.channel = Channel::Topic;
        h.target = Target::Topic { id: Hash([0; 32]) };
    };
    assert_eq!(code_of(send(topic, 9)), code::UNSUPPORTED);
    assert_eq!(code_of(send(|h| h.suite = Suite::Wrap, 9)), code::UNSUPPORTED);
    let mut wrapped = send(|_| {}, 9);
    wrapped.envelope.wraps.push(wrap(2));
    assert_eq!(code_of(wrapped), code::UNSUPPORTED);
    let mut flipped = send(|_| {}, 9);
    flipped.envelope.body.0[0] ^= 1;
    assert_eq!(code_of(flipped), code::BAD_SIGNATURE);
}

#[test]
fn a_group_send_is_planned_with_its_wraps_in_key_order() {
    let plan = try_plan(group_send(|_| {}, &[wrap(2), wrap(3), wrap(5)])).unwrap();
    let Recipients::Group { name, wraps } = &plan.to else { panic!("{:?}", plan.to) };
    assert_eq!((name.as_str(), wraps.len()), ("ops/db", 3));
    assert!(wraps.is_sorted_by_key(|w| w.to));
    assert_eq!(plan.to.keys(), wraps.iter().map(|w| w.to).collect::<Vec<_>>());
    let stored: Envelope = codec::from_msgpack(&plan.envelope).unwrap();
    assert!(stored.wraps.is_empty());
    assert!(try_plan(group_send(|_| {}, &[])).is_ok(), "the store says who is missing");
}

#[test]
fn each_fault_of_a_group_send_has_its_code() {
    let code_of = |twist: &dyn Fn(&mut Header), wraps: &[Wrap]| {
        try_plan(group_send(twist, wraps)).unwrap_err()
    };
    let name = |h: &mut Header| h.target = Target::Group { name: "Ops".into() };
    assert_eq!(code_of(&name, &[wrap(2)]), code::BAD_GROUP);
    let live = |h: &mut Header| h.durability = Durability::Live;
    assert_eq!(code_of(&live, &[wrap(2)]), code::UNSUPPORTED);
    let boxed = |h: &mut Header| h.suite = Suite::Box;
    assert_eq!(code_of(&boxed, &[wrap(2)]), code::BAD_ENVELOPE);
    let short = |h: &mut Header| h.key_id = Blob(vec![3; 31]);
    assert_eq!(code_of(&short, &[wrap(2)]), code::BAD_ENVELOPE);
    let channel = |h: &mut Header| h.channel = Channel::Dm;
    assert_eq!(code_of(&channel, &[wrap(2)]), code::BAD_ENVELOPE);
    assert_eq!(code_of(&|_| {}, &[wrap(2), wrap(3), wrap(2)]), code::BAD_ENVELOPE);
    assert_eq!(code_of(&|_| {}, &[wrap(1)]), code::BAD_ENVELOPE, "its own member");
    let long = Wrap { key: Blob(vec![0; WRAP + 1]), ..wrap(2) };
    assert_eq!(code_of(&|_| {}, &[long]), code::BAD_ENVELOPE);
    assert_eq!(code_of(&|_| {}, &vec![wrap(2); 10_001]), code::TOO_LARGE);
}

#[test]
fn mail_by_a_session_carries_the_attestation_it_was_checked_with() {
    let (shown, bound) = (attestation(|_| {}), attestation(|a| a.expires_at += 5));
    let by_session = || send_by(4, |_| {}, 9);
    let plan = plan_bound(by_session(), Some(bound.clone())).unwrap();
    assert_eq!((plan.author, plan.member), (key(4).public(), key(1).public()));
    assert_eq!(plan.attestation, Some(codec::to_msgpack(&bound)));
    let plan = plan_bound(with(by_session(), Some(shown.clone())), Some(bound)).unwrap();
    assert_eq!(plan.attestation, Some(codec::to_msgpack(&shown)), "the envelope's own counts");
    // What a member shows of itself beside its chain means nothing.
    let plan = plan_bound(with(send(|_| {}, 9), Some(shown)), None).unwrap();
    assert_eq!(plan.attestation, None);
}

#[test]
fn a_session_writes_only_what_its_attestation_allows() {
    let refusal = |send: Send, a| plan_bound(send, Some(a)).unwrap_err();
    let code_of =
        |twist: &dyn Fn(&mut Attestation)| refusal(send_by(4, |_| {}, 9), attestation(twist)).code;
    assert_eq!(try_plan(send_by(4, |_| {}, 9)).unwrap_err(), code::ATTESTATION_MALFORMED);
    assert_eq!(code_of(&|a| a.expires_at = NOW), code::ATTESTATION_EXPIRED);
    assert_eq!(code_of(&|a| a.expires_at = NOW + 90_000_000), code::ATTESTATION_TTL);
    assert_eq!(code_of(&|a| a.member = key(2).public()), code::ATTESTATION_MISMATCH);
    assert_eq!(code_of(&|a| a.key = key(5).public()), code::ATTESTATION_MISMATCH);
    assert_eq!(code_of(&|a| a.mesh = MeshId([9; 32])), code::ATTESTATION_MALFORMED);
    let only = |word: &str| {
        let words = vec![word.to_owned()];
        attestation(|a| a.capabilities = Capabilities::List(words.clone()))
    };
    let to_group = || send_by(4, group_header, 9);
    let refused = refusal(send_by(4, |_| {}, 9), only(capability::GROUP));
    assert_eq!(refused.code, code::FORBIDDEN);
    assert!(refused.message.contains("`dm`"), "{}", refused.message);
    let refused = refusal(to_group(), only(capability::DM));
    assert_eq!(refused.code, code::FORBIDDEN);
    assert!(refused.message.contains("`group`"), "{}", refused.message);
    assert!(plan_bound(to_group(), Some(only(capability::GROUP))).is_ok());
    assert!(plan_bound(send_by(4, |_| {}, 9), Some(only(capability::DM))).is_ok());
}

/// An open of a stream.
fn stream_header(h: &mut Header) {
    (h.channel, h.durability) = (Channel::Stream, Durability::Live);
}

#[test]
fn an_open_of_a_stream_is_carried_to_one_who_is_there() {
    let plan = try_plan(send(stream_header, 9)).unwrap();
    let to = Recipients::One { key: key(2).public(), kind: TargetKind::Member };
    assert_eq!((plan.to, plan.queued), (to, false));
    let session = |h: &mut Header| {
        stream_header(h);
        h.target = Target::Session { key: key(3).public() };
    };
    let plan = try_plan(send(session, 9)).unwrap();
    assert_eq!(plan.to, Recipients::One { key: key(3).public(), kind: TargetKind::Delegate });
    let code_of = |twist: &dyn Fn(&mut Header)| {
        let header = |h: &mut Header| {
            stream_header(h);
            twist(h);
        };
        try_plan(send(header, 9)).unwrap_err()
    };
    assert_eq!(code_of(&|h| h.durability = Durability::Queued), code::UNSUPPORTED);
    assert_eq!(code_of(&|h| h.suite = Suite::Wrap), code::UNSUPPORTED);
    assert_eq!(code_of(&|h| h.suite = Suite::Topic), code::UNSUPPORTED);
    assert_eq!(code_of(&|h| h.expires_at = h.sent_at + 60_001), code::UNSUPPORTED);
    let group = |h: &mut Header| h.target = Target::Group { name: "ops".into() };
    assert_eq!(code_of(&group), code::BAD_ENVELOPE);
    let mut wrapped = send(stream_header, 9);
    wrapped.envelope.wraps.push(wrap(2));
    assert_eq!(try_plan(wrapped).unwrap_err(), code::UNSUPPORTED);
    let only = |word: &str| {
        let words = vec![word.to_owned()];
        attestation(|a| a.capabilities = Capabilities::List(words.clone()))
    };
    let by = |word| plan_bound(send_by(4, stream_header, 9), Some(only(word)));
    assert!(by(capability::DM).is_ok());
    assert_eq!(by(capability::GROUP).unwrap_err().code, code::FORBIDDEN);
}
