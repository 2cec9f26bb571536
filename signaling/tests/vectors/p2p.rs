//! `p2p.json`: steps of negotiations, and what the adapter `quic` puts into them.

use meshwire_signaling::codec;
use meshwire_signaling::frame::P2pKind;
use meshwire_signaling::limits::MAX_P2P;
use meshwire_signaling::p2p::quic::{Bye, Candidates, Content, Params, initial_id};
use meshwire_signaling::p2p::{Expected, Negotiation, SignedStep, open};
use meshwire_signaling::seal::Pair;
use meshwire_signaling::sign::{Signed, domains, layout};
use meshwire_signaling::{Hash, MeshId};

use super::{Case, file};

fn vectors() -> Case {
    file(include_str!("../../vectors/p2p.json"))
}

fn kind(case: &Case) -> P2pKind {
    case.object("kind")
}

#[test]
fn steps_are_sealed_and_opened_as_they_stand() {
    let mut offer = None;
    let mut kinds = std::collections::HashSet::new();
    for case in vectors().cases("steps") {
        let (a, b) = (case.secret("sender_seed"), case.secret("recipient_seed"));
        let mesh = MeshId(case.array("mesh"));
        let step: Negotiation = case.object("object");
        assert_eq!(codec::to_msgpack(&step), case.bytes("payload"), "{}", case.name());
        let signed = layout(domains::P2P, &[&mesh.0, &case.bytes("payload")]);
        assert_eq!(signed, case.bytes("layout"), "{}", case.name());
        let attestation: Option<Signed> = case.optional("attestation");
        let pair = Pair::new(&a, &b.public()).unwrap();
        let nonce = case.array("nonce");
        let sealed = step.seal(&mesh, &a, attestation.as_ref(), &pair, &nonce).unwrap();
        assert_eq!(sealed.hash, Hash(case.array("hash")), "{}", case.name());
        assert_eq!(*sealed.payload, *case.bytes("sealed"), "{}", case.name());
        let outer: SignedStep = codec::from_msgpack(&case.bytes("plain")).unwrap();
        assert_eq!(*outer.payload, *case.bytes("payload"));

        let (me, now, hash) = (b.public(), step.at + 20, sealed.hash);
        let theirs = Pair::new(&b, &a.public()).unwrap();
        let frame = step.frame(sealed);
        assert!(frame.payload.len() <= MAX_P2P);
        let named = if step.kind == P2pKind::Offer { None } else { offer.as_ref() };
        let expected = Expected::of(&frame, &mesh, &me, named, now);
        let opened = open(&frame.payload, &theirs, &expected).unwrap();
        assert_eq!((&opened.step, opened.hash), (&step, hash), "{}", case.name());
        let by_member = attestation.is_none();
        assert_eq!(opened.member == step.from, by_member, "{}", case.name());
        let content = Content::decode(step.kind, &step.content).unwrap();
        assert_eq!(content.kind(), step.kind);
        if case.text("name") == "offer" {
            offer = Some(hash);
        }
        kinds.insert(step.kind);
    }
    assert_eq!(kinds.len(), P2pKind::ALL.len());
}

#[test]
fn contents_of_quic_read_and_write() {
    for case in vectors().cases("quic") {
        let content = Content::decode(kind(&case), &case.bytes("bytes")).unwrap();
        let object = match kind(&case) {
            P2pKind::Offer => Content::Offer(case.object::<Params>("object")),
            P2pKind::Answer => Content::Answer(case.object::<Params>("object")),
            P2pKind::Candidate => Content::Candidate(case.object::<Candidates>("object")),
            P2pKind::Bye => Content::Bye(case.object::<Bye>("object")),
        };
        assert_eq!(content, object, "{}", case.name());
        assert_eq!(content.encode(), case.bytes("bytes"), "{}", case.name());
    }
    let later = Case(vectors().get("quic_unknown_field").clone());
    let read = |key| Content::decode(kind(&later), &later.bytes(key)).unwrap();
    assert_eq!(read("bytes"), read("without"));
}

#[test]
fn first_packets_are_addressed_to_their_attempt() {
    fn said(side: &[String; 2]) -> [&str; 2] {
        side.each_ref().map(String::as_str)
    }
    for case in vectors().cases("quic_initial") {
        let [client, server] = ["client", "server"].map(|side| case.object::<[String; 2]>(side));
        assert_eq!(initial_id(said(&client), said(&server)), case.array("id"), "{}", case.name());
    }
}

#[test]
fn contents_of_quic_that_must_be_refused_are() {
    for case in vectors().cases("quic_refused") {
        let got = Content::decode(kind(&case), &case.bytes("bytes"));
        assert!(got.is_err(), "{got:?} from {}", case.name());
    }
}
