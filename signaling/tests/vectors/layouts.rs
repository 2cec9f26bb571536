//! `layouts.json`: signed objects, chains, invites and the other layouts that are not messages.

use meshwire_signaling::attest::Attestation;
use meshwire_signaling::codec;
use meshwire_signaling::envelope::box_key_id;
use meshwire_signaling::frame::{Bind, HelloAckBody, HelloBody, Limits, ResumeToken};
use meshwire_signaling::group::{GroupError, GroupStatement, check_group_name, reaches};
use meshwire_signaling::id::{Blob, Hash, MeshId, PublicKey, safety_number};
use meshwire_signaling::invite::{
    AdminToken, Capability, Chain, Claim, Countersign, Genesis, InviteLink, mesh_id,
};
use meshwire_signaling::sign::{Domain, Signed, domains, layout};
use serde::{Serialize, de::DeserializeOwned};

use super::{Case, file};

pub(super) fn vectors() -> Case {
    file(include_str!("../../vectors/layouts.json"))
}

const DOMAINS: [Domain; 18] = [
    domains::GENESIS,
    domains::CAPABILITY,
    domains::CLAIM,
    domains::CLAIM_PROOF,
    domains::COUNTERSIGN,
    domains::ATTESTATION,
    domains::HELLO,
    domains::HELLO_ACK,
    domains::BIND,
    domains::ENVELOPE,
    domains::RECEIPT,
    domains::RECEIPT_KEY,
    domains::CONTENT_KEY,
    domains::GROUP,
    domains::RESUME,
    domains::P2P,
    domains::P2P_INITIAL,
    domains::STREAM_KEY,
];

fn domain(text: &str) -> Domain {
    *DOMAINS.iter().find(|d| d.as_str() == text).unwrap_or_else(|| panic!("no domain {text}"))
}

#[test]
fn the_layout_in_every_domain() {
    let mut seen = std::collections::HashSet::new();
    for case in vectors().cases("layouts") {
        let fields: Vec<String> = case.object("fields");
        let fields: Vec<Vec<u8>> = fields.iter().map(|f| hex::decode(f).unwrap()).collect();
        let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        let got = layout(domain(case.text("domain")), &fields);
        assert_eq!(got, case.bytes("layout"), "{}", case.name());
        assert_eq!(Hash::of(&got).0, case.array("sha256"));
        seen.insert(case.text("domain").to_owned());
    }
    assert_eq!(seen.len(), DOMAINS.len());
}

/// Opens the Python-made bytes, compares the object, and makes the same bytes and signature.
fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(case: &Case) {
    let domain = domain(case.text("domain"));
    let key = case.secret("seed");
    let (signed, sig) = (signed(case), meshwire_signaling::Signature(case.array("sig")));
    assert_eq!(key.public().0, case.array("public"));
    let object: T = signed.open(&key.public(), domain).unwrap();
    assert_eq!(object, case.object::<T>("object"), "{}", case.name());
    assert_eq!(layout(domain, &[&signed.payload]), case.bytes("layout"));
    assert_eq!(signed.hash(domain).0, case.array("hash"));
    assert_eq!(key.sign(domain, &[&signed.payload]), sig, "{}", case.name());
    // Field order is the author's choice; most of these authors chose this crate's.
    let same_order = case.object::<bool>("rust_order");
    assert_eq!(Signed::new(&key, domain, &object) == signed, same_order, "{}", case.name());
}

#[test]
fn signed_objects() {
    for case in vectors().cases("signed") {
        match case.text("type") {
            "genesis" => check::<Genesis>(&case),
            "capability" => check::<Capability>(&case),
            "claim" => check::<Claim>(&case),
            "countersign" => check::<Countersign>(&case),
            "attestation" => check::<Attestation>(&case),
            "hello" => check::<HelloBody>(&case),
            "hello_ack" => check::<HelloAckBody>(&case),
            "group" => check::<GroupStatement>(&case),
            "resume" => check::<ResumeToken>(&case),
            other => panic!("an object that this test does not know: {other}"),
        }
    }
}

fn signed(case: &Case) -> Signed {
    let sig = meshwire_signaling::Signature(case.array("sig"));
    Signed { payload: Blob(case.bytes("payload")), sig }
}

#[test]
fn group_statements_hold_for_their_member_alone() {
    let v = vectors();
    let mesh = MeshId(v.array("mesh"));
    for case in v.cases("signed").iter().filter(|c| c.text("type") == "group") {
        let (signed, member) = (signed(case), PublicKey(case.array("public")));
        let want = case.object("object");
        assert_eq!(GroupStatement::verify(&signed, &mesh, &member), Ok(want));
        let mut other = signed.clone();
        other.sig.0[0] ^= 1;
        let got = GroupStatement::verify(&other, &mesh, &member);
        assert!(matches!(got, Err(GroupError::Signature(_))), "{got:?}");
    }
}

#[test]
fn group_names_and_whom_they_reach() {
    for case in vectors().cases("group_names") {
        let valid = check_group_name(case.text("text")).is_ok();
        assert_eq!(valid, case.object::<bool>("valid"), "{}", case.name());
    }
    for case in vectors().cases("group_reach") {
        let got = reaches(case.text("target"), case.text("joined"));
        assert_eq!(got, case.object::<bool>("reaches"), "{}", case.name());
    }
}

#[test]
fn what_an_older_broker_does_not_say_has_its_default() {
    let v = vectors();
    let acks = v.cases("signed").into_iter().filter(|c| c.text("type") == "hello_ack");
    let acks: Vec<HelloAckBody> = acks.map(|c| c.object("object")).collect();
    let [new, old] = acks.as_slice() else { panic!("{} acks", acks.len()) };
    assert!(new.lease.is_some() && old.lease.is_none());
    assert_eq!((&old.limits, &new.limits), (&Limits::default(), &Limits::default()));
}

#[test]
fn attestations_hold_while_they_last() {
    let v = vectors();
    let mesh = MeshId(v.array("mesh"));
    for case in v.cases("signed").iter().filter(|c| c.text("type") == "attestation") {
        let signed = signed(case);
        let want: Attestation = case.object("object");
        let by = PublicKey(case.array("public"));
        assert_eq!(Attestation::verify(&signed, &mesh, &by, want.issued_at).as_ref(), Ok(&want));
        assert!(Attestation::verify(&signed, &mesh, &by, want.expires_at).is_err());
    }
}

#[test]
fn claim_proofs() {
    for case in vectors().cases("claim_proofs") {
        let sig = case.secret("seed").sign(domains::CLAIM_PROOF, &[&case.bytes("payload")]);
        assert_eq!(sig.0, case.array("proof"));
    }
}

#[test]
fn chains_prove_what_they_say_and_broken_ones_nothing() {
    let v = vectors();
    let mesh = MeshId(v.array("mesh"));
    for case in v.cases("chains") {
        let bytes = case.bytes("chain");
        let chain: Chain = codec::from_msgpack(&bytes).unwrap();
        assert_eq!(chain, case.object("json"));
        assert_eq!(codec::to_msgpack(&chain), bytes);
        assert_eq!(chain.fingerprint().0, case.array("fingerprint"));
        assert_eq!((chain.mesh(), mesh_id(&chain.genesis)), (mesh, mesh));
        let got = chain.verify(&mesh).unwrap();
        let want = Case(case.get("member").clone());
        assert_eq!(got.key, want.object("key"));
        assert_eq!(got.name, want.text("name"));
        assert_eq!(got.role, want.object("role"));
        assert_eq!(got.joined_at, want.object::<u64>("joined_at"));
        assert_eq!(got.invited_by, want.optional("invited_by"));
        assert_eq!(got.mesh_name, want.text("mesh_name"));
        assert_eq!(got.broker, want.object("broker"));
    }
    for case in v.cases("chains_refused") {
        let chain: Chain = codec::from_msgpack(&case.bytes("chain")).unwrap();
        assert!(chain.verify(&mesh).is_err(), "{}", case.text("reason"));
    }
}

#[test]
fn bind_proofs() {
    for case in vectors().cases("binds") {
        let (hello, key) = (Hash(case.array("hello_hash")), case.secret("seed"));
        let attestation: Signed = case.object("attestation");
        assert_eq!(attestation.hash(domains::ATTESTATION).0, case.array("attestation_hash"));
        let proof = Bind::prove(&hello, &key, &attestation);
        assert_eq!(proof.0, case.array("proof"));
        let bind = Bind { req: 1, key: key.public(), attestation, proof };
        assert!(bind.proven(&hello));
        assert!(!bind.proven(&Hash([0; 32])));
    }
}

#[test]
fn box_key_ids() {
    for case in vectors().cases("box_key_ids") {
        let id = box_key_id(&PublicKey(case.array("public"))).unwrap();
        assert_eq!(*id, *case.bytes("key_id"));
    }
}

#[test]
fn safety_numbers() {
    for case in vectors().cases("safety_numbers") {
        let (a, b) = (PublicKey(case.array("a")), PublicKey(case.array("b")));
        assert_eq!(safety_number(&a, &b), case.text("text"));
    }
}

#[test]
fn invite_links() {
    for case in vectors().cases("invite_links") {
        let text = case.text("text");
        let link: InviteLink = text.parse().unwrap();
        assert_eq!(link.base, case.text("base"));
        assert_eq!(*link.secret.seed(), case.array::<32>("seed"));
        assert_eq!((link.mesh.0, link.broker.0), (case.array("mesh"), case.array("broker")));
        assert_eq!(link.pin, case.optional("pin"));
        assert_eq!(link.to_string(), text);
    }
}

#[test]
fn admin_tokens() {
    for case in vectors().cases("admin_tokens") {
        let (broker, pin) = (PublicKey(case.array("broker")), case.optional("pin"));
        let token = AdminToken::new(case.array("secret"), broker, pin);
        assert_eq!(token.to_string(), case.text("text"));
        assert_eq!(*token.bearer(), case.text("bearer"));
        assert_eq!(token.digest().0, case.array("digest"));
        let again: AdminToken = case.text("text").parse().unwrap();
        assert_eq!((again.broker, again.pin, again.digest()), (broker, pin, token.digest()));
    }
}
