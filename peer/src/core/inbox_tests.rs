use meshwire_signaling::attest::{Attestation, Capabilities};
use meshwire_signaling::envelope::{Author, Proof, StateHead, box_key_id};
use meshwire_signaling::invite::{Capability, Claim, Countersign, Genesis, Link, Role};
use meshwire_signaling::seal::ContentKey;
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::stream::{Secret, Suite as Sealing, TYPE};
use meshwire_signaling::{Content, Durability, Header, SecretKey, StreamId};

use super::*;

const NOW: u64 = 1_700_000_000_000;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

/// A mesh of ana (the owner, us) and bob, who writes to us.
struct World {
    mesh: MeshId,
    ana: SecretKey,
    bob: SecretKey,
    bobs_chain: Chain,
    keys: Keys,
}

fn world() -> World {
    let (broker, ana, bob, invite) = (key(1), key(2), key(3), key(77));
    let genesis = Genesis {
        name: "lab".into(),
        owner: ana.public(),
        owner_name: "ana".into(),
        broker: broker.public(),
        created_at: NOW,
        nonce: Hash([0; 32]),
    };
    let mut chain = Chain::owner(Signed::new(&ana, domains::GENESIS, &genesis));
    let mesh = chain.mesh();
    let capability = Capability {
        mesh,
        issuer: ana.public(),
        invite: invite.public(),
        role: Role::Member,
        uses: 1,
        issued_at: NOW,
        expires_at: NOW + 1000,
        broker: broker.public(),
    };
    let claim = Claim {
        mesh,
        invite: invite.public(),
        member: bob.public(),
        name: "bob".into(),
        claimed_at: NOW,
    };
    let (claim, proof) = claim.sign(&invite, &bob);
    let counter = Countersign { claim: claim.hash(domains::CLAIM), use_number: 1, at: NOW };
    chain.links.push(Link {
        capability: Signed::new(&ana, domains::CAPABILITY, &capability),
        countersign: Signed::new(&broker, domains::COUNTERSIGN, &counter),
        claim,
        proof,
    });
    let mut keys = Keys::new(mesh);
    keys.insert(IdentityKind::Member, Arc::new(PairCache::new(ana.clone(), 8)));
    World { mesh, ana, bob, bobs_chain: chain, keys }
}

impl World {
    fn known(&self) -> Known {
        Known {
            key: self.bob.public(),
            name: "bob".into(),
            fingerprint: self.bobs_chain.fingerprint(),
        }
    }

    /// An envelope by `author`, with what `twist` makes of it.
    fn envelope(
        &self,
        author: &SecretKey,
        twist: impl FnOnce(&mut Header, &mut Content),
    ) -> Envelope {
        let to = self.ana.public();
        let mut header = Header {
            channel: Channel::Dm,
            from: Author { key: author.public(), instance: InstanceId([4; 16]) },
            target: Target::Member { key: to },
            id: EnvelopeId::new(NOW, 5),
            priority: Priority::Next,
            durability: Durability::Queued,
            sent_at: NOW,
            expires_at: NOW + 10_000,
            suite: Suite::Box,
            key_id: box_key_id(&to).unwrap(),
            ephemeral: None,
        };
        let mut content = Content {
            kind: "text/plain".into(),
            reply_to: None,
            mentions: vec![],
            correlation: None,
            response: false,
            seq: 3,
            floor: 2,
            head: StateHead::origin(&self.mesh),
            content: b"hello".to_vec().into(),
        };
        twist(&mut header, &mut content);
        let pair = Pair::new(author, &to).unwrap();
        Envelope::seal_box(&self.mesh, author, &header, &pair, &[7; 24], &content)
    }

    fn proof(&self, attestation: Option<Signed>) -> Option<Box<Proof>> {
        Some(Box::new(Proof { chain: self.bobs_chain.clone(), attestation }))
    }

    fn receive(&self, envelope: &Envelope) -> Verdict {
        receive(&self.keys, envelope, Some(&self.known()), NOW)
    }

    /// An envelope by `author` to the group `ops`, with a wrap for ana.
    fn group(&self, author: &SecretKey, twist: impl FnOnce(&mut Header)) -> Envelope {
        let plain = self.envelope(author, |_, _| {});
        let content = plain.open_box(&Pair::new(&self.ana, &author.public()).unwrap()).unwrap();
        let key = ContentKey::new([9; 32]);
        let mut header = Header {
            channel: Channel::Group,
            target: Target::Group { name: "ops".into() },
            suite: Suite::Wrap,
            key_id: key.commitment().0.to_vec().into(),
            ..plain.header().unwrap()
        };
        twist(&mut header);
        let mut env = Envelope::seal_group(&self.mesh, author, &header, &key, &[8; 24], &content);
        let to = self.ana.public();
        env.wraps.push(key.wrap(&Pair::new(author, &to).unwrap(), to, &[6; 24]));
        env
    }

    /// Whether `receipt` convinces the author of `envelope`.
    fn convinces(&self, receipt: &Receipt, author: &SecretKey, envelope: &Envelope) -> bool {
        let (sender, recipient) = (author.public(), self.ana.public());
        let ends = Ends { mesh: &self.mesh, sender: &sender, recipient: &recipient };
        let pair = Pair::new(author, &recipient).unwrap();
        receipt.verify(&pair, ends, &envelope.hash(&self.mesh))
    }
}

/// Judges without an ended session.
fn receive(keys: &Keys, envelope: &Envelope, known: Option<&Known>, now: u64) -> Verdict {
    super::receive(Desk { keys, known, ended: false, now }, envelope)
}

fn accepted(verdict: Verdict) -> Accepted {
    let Verdict::Accept(a) = verdict else { panic!("{verdict:?}") };
    *a
}

fn refused(verdict: Verdict) -> Refusal {
    let Verdict::Refuse(r) = verdict else { panic!("{verdict:?}") };
    *r
}

#[test]
fn mail_of_a_known_member_is_accepted_whole() {
    let w = world();
    let reply = EnvelopeId::new(NOW - 5, 1);
    let env = w.envelope(&w.bob, |_, c| c.reply_to = Some(reply));
    let a = accepted(w.receive(&env));
    assert_eq!(a.item.author_name, "bob");
    assert_eq!((a.item.author, a.item.member), (w.bob.public(), w.bob.public()));
    assert_eq!((a.item.seq, a.item.floor, a.item.received_at), (3, 2, NOW));
    assert_eq!((a.item.kind.as_str(), a.item.content.as_slice()), ("text/plain", &b"hello"[..]));
    assert_eq!(a.item.reply_to, Some(reply));
    assert_eq!(a.item.hash, env.hash(&w.mesh));
    assert_eq!(a.keep_until, NOW + 10_000 + 60_000);
    assert!(a.proven.is_none());
    assert!(w.convinces(&a.answer.delivered(), &w.bob, &env));
    let conflict = a.answer.refused(reason::CONFLICT);
    assert!(w.convinces(&conflict, &w.bob, &env) && conflict.verdict == Outcome::Refused);
    assert_eq!(a.item.counter().target, Target::Member { key: w.ana.public() });
}

#[test]
fn a_proof_stands_in_for_the_roster_and_is_handed_on() {
    let w = world();
    let mut env = w.envelope(&w.bob, |_, _| {});
    assert!(matches!(receive(&w.keys, &env, None, NOW), Verdict::NeedChain(a)
        if a.author == w.bob.public()));
    env.proof = w.proof(None);
    let a = accepted(receive(&w.keys, &env, None, NOW));
    let (member, chain) = *a.proven.unwrap();
    assert_eq!((member.name.as_str(), &chain), ("bob", &w.bobs_chain));
    // Known already: nothing new.
    assert!(accepted(w.receive(&env)).proven.is_none());
    // Known under an older chain: the change is handed on, to be made loud.
    let older = Known { fingerprint: Hash([0; 32]), name: "rob".into(), ..w.known() };
    let a = accepted(receive(&w.keys, &env, Some(&older), NOW));
    assert_eq!(a.item.author_name, "bob");
    assert!(a.proven.is_some());
}

#[test]
fn a_spoilt_proof_harms_strangers_only() {
    let w = world();
    let mut env = w.envelope(&w.bob, |_, _| {});
    env.proof = w.proof(None);
    env.proof.as_mut().unwrap().chain.links[0].proof.0[0] ^= 1;
    assert_eq!(accepted(w.receive(&env)).item.author_name, "bob");
    let r = refused(receive(&w.keys, &env, None, NOW));
    assert_eq!(r.reason, reason::UNTRUSTED_SENDER);
    // Somebody else's chain proves nothing for this key.
    let eve = key(66);
    let mut env = w.envelope(&eve, |_, _| {});
    env.proof = w.proof(None);
    let r = refused(receive(&w.keys, &env, None, NOW));
    assert_eq!(r.reason, reason::UNTRUSTED_SENDER);
    assert!(w.convinces(&r.receipt.unwrap(), &eve, &env));
    assert_eq!(refused(w.receive(&env)).reason, reason::UNTRUSTED_SENDER);
}

fn attestation(w: &World, session: &SecretKey, by: &SecretKey) -> Attestation {
    Attestation {
        mesh: w.mesh,
        member: by.public(),
        key: session.public(),
        kind: IdentityKind::Session,
        name: "ana".into(),
        capabilities: Capabilities::All,
        issued_at: NOW - 1000,
        expires_at: NOW + 1,
    }
}

#[test]
fn a_session_is_its_member_by_an_attestation_valid_when_it_sent() {
    let w = world();
    let session = key(40);
    let mut env = w.envelope(&session, |_, _| {});
    env.proof = w.proof(Some(attestation(&w, &session, &w.bob).sign(&w.bob)));
    // It is over by now, but was not when the message was frozen.
    let a = accepted(receive(&w.keys, &env, Some(&w.known()), NOW + 5_000));
    assert_eq!((a.item.author, a.item.member), (session.public(), w.bob.public()));
    assert_eq!(a.item.author_name, "bob/ana", "its own name comes after its member's");

    let untrusted = |signed: Option<Signed>| {
        let mut env = env.clone();
        env.proof = w.proof(signed);
        assert_eq!(refused(w.receive(&env)).reason, reason::UNTRUSTED_SENDER);
    };
    untrusted(None);
    untrusted(Some(attestation(&w, &session, &w.bob).sign(&session)));
    untrusted(Some(attestation(&w, &key(41), &w.bob).sign(&w.bob)));
    untrusted(Some(attestation(&w, &session, &w.ana).sign(&w.ana)));
    let over = Attestation { expires_at: NOW, ..attestation(&w, &session, &w.bob) };
    untrusted(Some(over.sign(&w.bob)));
    // Without the roster the chain in the proof is verified and handed on.
    let a = accepted(receive(&w.keys, &env, None, NOW));
    assert_eq!(a.proven.unwrap().0.key, w.bob.public());
}

#[test]
fn a_session_writes_only_what_its_member_allows() {
    let w = world();
    let session = key(40);
    let allows = |words: &[&str], group: bool| {
        let mut env =
            if group { w.group(&session, |_| {}) } else { w.envelope(&session, |_, _| {}) };
        let words = words.iter().map(|&word| word.to_owned()).collect();
        let capabilities = Capabilities::List(words);
        let attestation = Attestation { capabilities, ..attestation(&w, &session, &w.bob) };
        env.proof = w.proof(Some(attestation.sign(&w.bob)));
        match w.receive(&env) {
            Verdict::Accept(_) => true,
            verdict => {
                assert_eq!(refused(verdict).reason, reason::UNTRUSTED_SENDER);
                false
            }
        }
    };
    assert!(allows(&["dm"], false) && allows(&["group"], true) && allows(&["x", "dm"], false));
    assert!(!allows(&["dm"], true) && !allows(&["group"], false));
    assert!(!allows(&[], false) && !allows(&["inbox", "presence"], true));
}

#[test]
fn a_groups_mail_opens_with_our_wrap_alone() {
    let w = world();
    let env = w.group(&w.bob, |_| {});
    let a = accepted(w.receive(&env));
    assert_eq!((a.item.channel, a.item.recipient), (Channel::Group, w.ana.public()));
    assert_eq!(a.item.target, Target::Group { name: "ops".into() });
    assert_eq!(a.item.content, b"hello");
    assert!(w.convinces(&a.answer.delivered(), &w.bob, &env), "the receipt is by the member");

    let undecryptable = |env: Envelope| {
        assert_eq!(refused(w.receive(&env)).reason, reason::UNDECRYPTABLE);
    };
    undecryptable(Envelope { wraps: vec![], ..env.clone() });
    let mut other = env.clone();
    other.wraps[0].to = w.bob.public();
    undecryptable(other);
    // A wrap of another key than the one that the signature commits to.
    let mut swapped = env.clone();
    let pair = Pair::new(&w.bob, &w.ana.public()).unwrap();
    swapped.wraps[0] = ContentKey::new([1; 32]).wrap(&pair, w.ana.public(), &[6; 24]);
    undecryptable(swapped);
    undecryptable(w.group(&w.bob, |h| h.key_id = vec![1, 2].into()));
    // Suites and channels do not mix.
    let mixed = w.group(&w.bob, |h| h.suite = Suite::Box);
    assert_eq!(refused(w.receive(&mixed)).reason, reason::UNSUPPORTED);
}

#[test]
fn mail_for_an_ended_session_is_answered_by_its_member() {
    let w = world();
    let session = key(50).public();
    let to_session = |h: &mut Header, _: &mut Content| {
        h.target = Target::Session { key: session };
        h.key_id = box_key_id(&session).unwrap();
    };
    let env = w.envelope(&w.bob, to_session);
    let known = w.known();
    let judge = |known, now, env: &Envelope| {
        super::receive(Desk { keys: &w.keys, known, ended: true, now }, env)
    };
    let Verdict::Gone { session: by, answer } = judge(Some(&known), NOW, &env) else {
        panic!("not gone");
    };
    assert_eq!((answer.author, by), (w.bob.public(), session));
    let receipt = answer.gone();
    assert_eq!((receipt.verdict, receipt.by), (Outcome::Gone, w.ana.public()));
    assert!(w.convinces(&receipt, &w.bob, &env));
    // Strangers do not learn of it, and nobody gets a receipt that the member may not make.
    assert!(matches!(judge(None, NOW, &env), Verdict::NeedChain(_)));
    let stranger = w.envelope(&key(66), to_session);
    let mut stranger = stranger;
    stranger.proof = w.proof(None);
    let r = refused(judge(None, NOW, &stranger));
    assert_eq!((r.reason, r.receipt), (reason::UNTRUSTED_SENDER, None));
    let r = refused(judge(Some(&known), NOW + 10_000, &env));
    assert_eq!((r.reason, r.receipt), (reason::EXPIRED, None));
    let mut forged = env.clone();
    forged.sig.0[3] ^= 1;
    assert_eq!(refused(judge(Some(&known), NOW, &forged)).receipt, None);
}

#[test]
fn defect_12_undecryptable_mail_is_refused_never_surfaced() {
    let w = world();
    // Sealed to somebody else, but signed and addressed to us.
    let good = w.envelope(&w.bob, |_, _| {});
    let header = good.header().unwrap();
    let other = Pair::new(&w.bob, &key(9).public()).unwrap();
    for body in [other.seal(&[1; 24], b"secret"), b"aGVsbG8=".to_vec(), vec![], vec![0; 41]] {
        let env = Envelope::sign(&w.mesh, &w.bob, &header, body);
        let r = refused(w.receive(&env));
        assert_eq!(r.reason, reason::UNDECRYPTABLE);
        assert!(w.convinces(&r.receipt.unwrap(), &w.bob, &env));
    }
    // Opens, but is no content.
    let pair = Pair::new(&w.bob, &w.ana.public()).unwrap();
    let env = Envelope::sign(&w.mesh, &w.bob, &header, pair.seal(&[1; 24], b"plain text"));
    assert_eq!(refused(w.receive(&env)).reason, reason::UNDECRYPTABLE);
}

#[test]
fn content_that_makes_no_sense_is_refused() {
    let w = world();
    let by = |twist: fn(&mut Content)| {
        let env = w.envelope(&w.bob, |_, c| twist(c));
        refused(w.receive(&env)).reason
    };
    assert_eq!(by(|c| c.seq = 0), reason::UNDECRYPTABLE);
    assert_eq!(by(|c| c.floor = 0), reason::UNDECRYPTABLE);
    assert_eq!(by(|c| c.floor = 4), reason::UNDECRYPTABLE);
    assert_eq!(by(|c| c.kind = String::new()), reason::UNDECRYPTABLE);
    assert_eq!(by(|c| c.kind = "x".repeat(128)), reason::UNDECRYPTABLE);
    assert_eq!(by(|c| c.kind = "text/\u{1b}[2J".into()), reason::UNDECRYPTABLE);
    assert_eq!(by(|c| c.kind = "text/é".into()), reason::UNDECRYPTABLE);
}

#[test]
fn a_broken_signature_gets_no_receipt() {
    let w = world();
    let mut env = w.envelope(&w.bob, |_, _| {});
    env.sig.0[3] ^= 1;
    let r = refused(w.receive(&env));
    assert_eq!((r.reason, r.receipt), (reason::UNTRUSTED_SENDER, None));
    // A good one, of another mesh.
    let mut elsewhere = Keys::new(MeshId([9; 32]));
    elsewhere.insert(IdentityKind::Member, Arc::new(PairCache::new(w.ana.clone(), 8)));
    let env = w.envelope(&w.bob, |_, _| {});
    let r = refused(receive(&elsewhere, &env, Some(&w.known()), NOW));
    assert_eq!((r.reason, r.receipt), (reason::UNTRUSTED_SENDER, None));
}

#[test]
fn what_is_not_for_us_or_not_supported_is_refused() {
    let w = world();
    let by = |twist: fn(&mut Header)| refused(w.receive(&w.envelope(&w.bob, |h, _| twist(h))));
    let stranger = by(|h| h.target = Target::Member { key: PublicKey([9; 32]) });
    assert_eq!((stranger.reason, stranger.receipt), (reason::UNSUPPORTED, None));
    // Our key, but not as a session's.
    let as_session = |h: &mut Header, _: &mut Content| {
        h.target = Target::Session { key: h.target.key().unwrap() };
    };
    assert_eq!(refused(w.receive(&w.envelope(&w.bob, as_session))).reason, reason::UNSUPPORTED);
    for r in [
        by(|h| h.channel = Channel::Rpc),
        by(|h| h.channel = Channel::Group),
        by(|h| h.suite = Suite::Wrap),
        by(|h| h.expires_at = h.sent_at),
        by(|h| h.expires_at = h.sent_at + 31 * 86_400_000),
    ] {
        assert_eq!(r.reason, reason::UNSUPPORTED, "{}", r.detail);
        assert!(r.receipt.is_some());
    }
    assert_eq!(by(|h| h.key_id = vec![0; 8].into()).reason, reason::UNDECRYPTABLE);
}

#[test]
fn times_decide_between_late_later_and_now() {
    let w = world();
    let env = w.envelope(&w.bob, |_, _| {});
    let known = w.known();
    let at = |now| receive(&w.keys, &env, Some(&known), now);
    let Verdict::Late(answer) = at(NOW + 10_000) else { panic!() };
    assert!(w.convinces(&answer.delivered(), &w.bob, &env));
    assert!(w.convinces(&answer.refused(reason::EXPIRED), &w.bob, &env));
    assert!(matches!(at(NOW + 9_999), Verdict::Accept(_)));
    assert!(matches!(at(NOW - 60_000), Verdict::Accept(_)));
    assert!(matches!(at(NOW - 60_001), Verdict::Later { .. }));
}

#[test]
fn what_cannot_be_read_cannot_be_answered() {
    let w = world();
    let env = w.envelope(&w.bob, |_, _| {});
    for bad in [
        Envelope { v: 3, ..env.clone() },
        Envelope { header: vec![0xc1].into(), ..env.clone() },
        Envelope { body: vec![0; 70_000].into(), ..env },
    ] {
        assert!(matches!(w.receive(&bad), Verdict::Discard { .. }));
    }
}

#[test]
fn sessions_of_ours_receive_under_their_own_key() {
    let mut w = world();
    let mine = key(50);
    w.keys.insert(IdentityKind::Session, Arc::new(PairCache::new(mine.clone(), 8)));
    let to = mine.public();
    let pair = Pair::new(&w.bob, &to).unwrap();
    let mut header = w.envelope(&w.bob, |_, _| {}).header().unwrap();
    header.target = Target::Session { key: to };
    header.key_id = box_key_id(&to).unwrap();
    let content = w.envelope(&w.bob, |_, _| {});
    let content = content.open_box(&Pair::new(&w.ana, &w.bob.public()).unwrap()).unwrap();
    let env = Envelope::seal_box(&w.mesh, &w.bob, &header, &pair, &[7; 24], &content);
    assert_eq!(accepted(w.receive(&env)).item.recipient, to);
    w.keys.remove(&to);
    assert_eq!(refused(w.receive(&env)).reason, reason::UNSUPPORTED);
}

/// An open of a stream by `author`, with what `twist` makes of its header and content.
fn stream(
    w: &World,
    author: &SecretKey,
    twist: impl FnOnce(&mut Header, &mut Content),
) -> Envelope {
    let open = Open {
        stream: StreamId([8; 16]),
        secret: Secret::new([9; 32]),
        name: "backup".into(),
        suites: vec![Sealing::Aes256Gcm],
        limit: 1 << 20,
    };
    w.envelope(author, |h, c| {
        (h.channel, h.durability) = (Channel::Stream, Durability::Live);
        (c.kind, c.seq, c.floor) = (TYPE.into(), 0, 0);
        c.content = open.encode().to_vec().into();
        twist(h, c);
    })
}

fn opening(verdict: Verdict) -> Opening {
    let Verdict::Stream(o) = verdict else { panic!("{verdict:?}") };
    *o
}

#[test]
fn an_open_of_a_stream_is_handed_on_whole_and_gets_no_receipt() {
    let w = world();
    let env = stream(&w, &w.bob, |_, _| {});
    let o = opening(w.receive(&env));
    assert_eq!((o.author, o.member, o.recipient), (w.bob.public(), w.bob.public(), w.ana.public()));
    assert_eq!((o.author_name.as_str(), o.open.name.as_str()), ("bob", "backup"));
    assert_eq!((o.hash, o.keep_until), (env.hash(&w.mesh), NOW + 10_000 + 60_000));
    assert_eq!((o.id, o.open.stream), (env.header().unwrap().id, StreamId([8; 16])));
    assert!(!format!("{:?}", Verdict::Stream(Box::new(o))).contains("secret"));
    // As mail it makes no sense, and mail makes no sense as an open.
    let as_mail = stream(&w, &w.bob, |h, _| h.channel = Channel::Dm);
    assert_eq!(refused(w.receive(&as_mail)).reason, reason::UNDECRYPTABLE);
    let as_open = stream(&w, &w.bob, |_, c| c.kind = "text/plain".into());
    let r = refused(w.receive(&as_open));
    assert_eq!((r.reason, r.receipt), (reason::UNDECRYPTABLE, None));
}

#[test]
fn opens_of_streams_have_their_own_rules() {
    let w = world();
    let by = |twist: fn(&mut Header)| {
        let r = refused(w.receive(&stream(&w, &w.bob, |h, _| twist(h))));
        assert!(r.receipt.is_none(), "{}", r.detail);
        r.reason
    };
    assert_eq!(by(|h| h.durability = Durability::Queued), reason::UNSUPPORTED);
    assert_eq!(by(|h| h.expires_at = h.sent_at + 60_001), reason::UNSUPPORTED);
    assert_eq!(by(|h| h.suite = Suite::Wrap), reason::UNSUPPORTED);
    assert_eq!(by(|h| h.key_id = vec![0; 8].into()), reason::UNDECRYPTABLE);
    let (env, known) = (stream(&w, &w.bob, |_, _| {}), w.known());
    let at = |now| receive(&w.keys, &env, Some(&known), now);
    assert_eq!(refused(at(NOW + 10_000)).reason, reason::EXPIRED);
    assert!(matches!(at(NOW - 60_001), Verdict::Later { .. }));
    assert!(matches!(at(NOW + 9_999), Verdict::Stream(_)));
    assert!(matches!(receive(&w.keys, &env, None, NOW), Verdict::NeedChain(_)));
    let mut broken = env.clone();
    broken.sig.0[3] ^= 1;
    assert_eq!(refused(w.receive(&broken)).reason, reason::UNTRUSTED_SENDER);
    // For a session that has ended nobody takes it.
    let desk = Desk { keys: &w.keys, known: Some(&known), ended: true, now: NOW };
    let r = refused(super::receive(desk, &env));
    assert_eq!((r.reason, r.receipt), (reason::UNSUPPORTED, None));
    // Unreadable, or of suites that nobody knows.
    let nonsense = stream(&w, &w.bob, |_, c| c.content = b"no open".to_vec().into());
    assert_eq!(refused(w.receive(&nonsense)).reason, reason::UNDECRYPTABLE);
}

#[test]
fn a_session_opens_streams_if_it_may_write() {
    let w = world();
    let session = key(60);
    let by = |twist: &dyn Fn(&mut Attestation)| {
        let mut a = attestation(&w, &session, &w.bob);
        twist(&mut a);
        let mut env = stream(&w, &session, |_, _| {});
        env.proof = w.proof(Some(a.sign(&w.bob)));
        w.receive(&env)
    };
    let o = opening(by(&|_| {}));
    assert_eq!((o.author, o.member), (session.public(), w.bob.public()));
    assert!(o.author_name.starts_with("bob/"), "{}", o.author_name);
    let only = |word: &str| {
        let words = vec![word.to_owned()];
        by(&move |a| a.capabilities = Capabilities::List(words.clone()))
    };
    assert!(matches!(only(capability::DM), Verdict::Stream(_)));
    let r = refused(only(capability::GROUP));
    assert_eq!((r.reason, r.receipt), (reason::UNTRUSTED_SENDER, None));
}
