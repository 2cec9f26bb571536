//! `layouts.json`: envelopes, wraps and receipts.

use meshwire_signaling::attest::{Attestation, capability};
use meshwire_signaling::codec::{self, Encoding};
use meshwire_signaling::id::Blob;
use meshwire_signaling::receipt::{Ends, Receipt, Verdict};
use meshwire_signaling::seal::{ContentKey, Pair, Wrap};
use meshwire_signaling::sign::{domains, layout};
use meshwire_signaling::{Content, Envelope, Hash, Header, MeshId};

use super::Case;
use super::layouts::vectors;

/// Everything that does not depend on the suite; `made` is the crate's own envelope.
fn check(case: &Case, made: &Envelope) {
    let mesh = MeshId(case.array("mesh"));
    let bytes = case.bytes("envelope");
    let env: Envelope = codec::from_msgpack(&bytes).unwrap();
    assert_eq!(env, case.object("json"), "{}", case.name());
    let json = codec::encode(Encoding::Json, &env);
    assert_eq!(codec::decode::<Envelope>(Encoding::Json, &json).as_ref(), Ok(&env));

    let checked = env.check(&mesh).unwrap();
    assert_eq!(checked.header, case.object::<Header>("header"));
    assert_eq!(checked.hash.0, case.array("hash"));
    checked.header.check(checked.header.sent_at).unwrap();
    let body_hash = Hash::of(&env.body);
    assert_eq!(body_hash.0, case.array("body_sha256"));
    let signed = layout(domains::ENVELOPE, &[&mesh.0, &env.header, &body_hash.0]);
    assert_eq!(signed, case.bytes("layout"));

    assert_eq!(*made.header, *case.bytes("header_bytes"), "{}", case.name());
    assert_eq!(*made.body, *case.bytes("body"), "{}", case.name());
    assert_eq!(made, &env, "{}", case.name());
    assert_eq!(codec::to_msgpack(made), bytes, "{}", case.name());
}

#[test]
fn box_envelopes() {
    for case in vectors().cases("envelopes_box") {
        let (a, b) = (case.secret("author_seed"), case.secret("recipient_seed"));
        let pair = Pair::new(&a, &b.public()).unwrap();
        let (header, content): (Header, Content) = (case.object("header"), case.object("content"));
        assert_eq!(codec::to_msgpack(&content), case.bytes("content_bytes"));
        let mesh = MeshId(case.array("mesh"));
        let mut made =
            Envelope::seal_box(&mesh, &a, &header, &pair, &case.array("nonce"), &content);
        made.proof = case.object::<Envelope>("json").proof;
        check(&case, &made);
        let theirs = Pair::new(&b, &a.public()).unwrap();
        assert_eq!(made.open_box(&theirs).unwrap(), content);
    }
}

#[test]
fn the_proof_of_a_sessions_mail_holds_when_it_was_sent() {
    let v = vectors();
    let mesh = MeshId(v.array("mesh"));
    let envelopes = v.cases("envelopes_box").into_iter().map(|c| c.object::<Envelope>("json"));
    let proven: Vec<_> = envelopes.filter(|e| e.proof.is_some()).collect();
    assert!(!proven.is_empty());
    for env in proven {
        let header = env.check(&mesh).unwrap().header;
        let proof = env.proof.unwrap();
        let member = proof.chain.verify(&mesh).unwrap().key;
        let said = proof.attestation.unwrap();
        let said = Attestation::verify(&said, &mesh, &member, header.sent_at).unwrap();
        assert_eq!(said.key, header.from.key);
        assert!(said.capabilities.allow(capability::DM));
    }
}

#[test]
fn group_envelopes_and_wraps() {
    for case in vectors().cases("envelopes_group") {
        let a = case.secret("author_seed");
        let key = ContentKey::new(case.array("content_key"));
        assert_eq!(key.commitment().0, case.array("commitment"));
        let (header, content): (Header, Content) = (case.object("header"), case.object("content"));
        assert_eq!(*header.key_id, key.commitment().0);
        let (mesh, nonce) = (MeshId(case.array("mesh")), case.array("nonce"));
        let mut made = Envelope::seal_group(&mesh, &a, &header, &key, &nonce, &content);
        for wrap in case.cases("wraps") {
            let b = wrap.secret("recipient_seed");
            assert_eq!(b.public().0, wrap.array("to"));
            let pair = Pair::new(&a, &b.public()).unwrap();
            made.wraps.push(key.wrap(&pair, b.public(), &wrap.array("nonce")));
            let theirs = Wrap { to: b.public(), key: Blob(wrap.bytes("wrap")) };
            let opened =
                theirs.open(&Pair::new(&b, &a.public()).unwrap(), &key.commitment()).unwrap();
            assert_eq!(made.open_with(&opened).unwrap(), content);
        }
        check(&case, &made);
    }
}

#[test]
fn receipts_of_every_verdict() {
    let mut seen = std::collections::HashSet::new();
    for case in vectors().cases("receipts") {
        let (sender, recipient) = (case.secret("sender_seed"), case.secret("recipient_seed"));
        let (mesh, envelope) = (MeshId(case.array("mesh")), Hash(case.array("envelope_hash")));
        let (s, r) = (sender.public(), recipient.public());
        let ends = Ends { mesh: &mesh, sender: &s, recipient: &r };
        let verdict: Verdict = case.object("verdict");
        let reason: Option<String> = case.optional("reason");
        let pair = Pair::new(&recipient, &s).unwrap();
        let made = Receipt::new(&pair, ends, &envelope, verdict, reason.as_deref());
        assert_eq!(made.mac.0, case.array("mac"), "{}", case.name());
        assert_eq!(codec::to_msgpack(&made), case.bytes("receipt"));
        let read: Receipt = codec::from_msgpack(&case.bytes("receipt")).unwrap();
        assert!(read.verify(&Pair::new(&sender, &r).unwrap(), ends, &envelope));
        seen.insert(verdict);
    }
    assert_eq!(seen.len(), 3, "one case for every verdict at least");
}
