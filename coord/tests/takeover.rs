//! Nobody takes over another member's lease, presence or session key, whatever frames it sends in
//! whatever order (inventory appendix 7, defect 8).
//!
//! Honest actors and an attacker, who is a member too, drive the broker's checks with real signed
//! frames: hellos, binds, resumes, ends. The attacker has a copy of every hello, bind, attestation,
//! challenge and resume token that was ever made, and plays and mixes them as it likes, on its own
//! connections and into those of others. It lacks the others' secret keys and nothing else.
//!
//! The model is one line: whoever speaks for an identity made the hello of its connection with that
//! identity owner's key. Beside it: what the attacker does on connections of its own changes nothing of
//! what others hold.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, not in their helpers

use std::collections::{BTreeMap, HashMap};

use meshwire_coord::core::hello::{Expected, Known, admit, check_bind, read};
use meshwire_coord::core::presence::{Attach, Bind as Held, ConnId, Effect, Now, Presence};
use meshwire_signaling::attest::{Attestation, Capabilities, IdentityKind};
use meshwire_signaling::frame::{About, Bind, Features, Hello, HelloBody, ResumeToken};
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{Hash, InstanceId, MeshId, PublicKey, SecretKey};
use proptest::prelude::*;
use proptest::sample::Index;

const MESH: MeshId = MeshId([5; 32]);
const START: u64 = 1_700_000_000_000;
const GRACE: u64 = 90_000;
/// Actors: two honest members, and the attacker, the last.
const ACTORS: u8 = 3;
const EVE: u8 = ACTORS - 1;
/// Sessions of each.
const SESSIONS: u8 = 2;
/// Connections of one mesh.
const ROOM: usize = 12;

/// A key by its number: members first, then their sessions.
fn secret(n: u8) -> SecretKey {
    KEY.with(|keys| keys[usize::from(n)].0.clone())
}

fn public(n: u8) -> PublicKey {
    KEY.with(|keys| keys[usize::from(n)].1)
}

thread_local! {
    static KEY: Vec<(SecretKey, PublicKey)> = (0..KEYS)
        .map(|n| SecretKey::from_seed(&[n + 1; 32]))
        .map(|key| (key.clone(), key.public()))
        .collect();
}

fn session(actor: u8, n: u8) -> u8 {
    ACTORS + actor * SESSIONS + n % SESSIONS
}

/// Whose key it is.
fn owner(key: u8) -> u8 {
    if key < ACTORS { key } else { (key - ACTORS) / SESSIONS }
}

const KEYS: u8 = ACTORS * (1 + SESSIONS);

/// What an actor does on a connection of its own, or where it likes, for the attacker.
#[derive(Clone, Debug)]
enum Op {
    /// Opens a connection: it is challenged.
    Open { by: u8 },
    /// An honest hello on one's own connection, as member or session, from one of two instances. What
    /// is lost on the way reaches nobody but the attacker, and its connection ends.
    Greet { conn: Index, as_session: Option<u8>, instance: u8, resume: bool, lost: bool },
    /// An honest bind.
    Bind { conn: Index, n: u8, lost: bool },
    /// The connection unbinds a session of its actor's.
    Unbind { conn: Index, n: u8 },
    /// The connection leaves on purpose.
    Bye { conn: Index },
    /// The connection ends.
    End { conn: Index },
    /// Time passes.
    Wait { ms: u64 },
    /// The attacker plays a hello that was made before, perhaps beside another attestation.
    Replay { conn: Index, hello: Index, attestation: Option<Index> },
    /// … with the payload of one under the signature of another.
    Splice { conn: Index, hello: Index, sig: Index },
    /// The attacker makes a hello in any words, signed with one of its own keys.
    Forge { conn: Index, words: Words, attestation: Option<Index> },
    /// The attacker plays a bind that was made before, perhaps with another attestation or proof.
    Rebind { conn: Index, bind: Index, attestation: Option<Index>, proof: Option<Index> },
    /// The attacker binds the key of any attestation, or any other, proven with one of its own keys over
    /// any hello.
    ForgeBind { conn: Index, key: Option<u8>, attestation: Index, hello: Option<Index>, with: u8 },
    /// The attacker vouches for any key, its own or others', as whatever kind.
    Vouch { key: u8, member: u8, service: bool },
    /// The attacker unbinds any key on a connection of its own, or leaves there.
    Drop { conn: Index, key: u8 },
}

/// What a forged hello says. Key, member and kind are those of the attestation beside it, if there is
/// one, but for what is changed here.
#[derive(Clone, Debug)]
struct Words {
    key: Option<u8>,
    member: Option<u8>,
    kind: Option<IdentityKind>,
    instance: Index,
    resume: Option<Index>,
    /// This connection's challenge, or any that was ever given.
    challenge: Option<Index>,
    signed_by: u8,
}

fn rarely<T: Clone + std::fmt::Debug>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.3, value)
}

fn words() -> impl Strategy<Value = Words> {
    const KINDS: [IdentityKind; 3] =
        [IdentityKind::Member, IdentityKind::Session, IdentityKind::Service];
    (
        rarely(0..KEYS),
        rarely(0..KEYS),
        rarely(prop::sample::select(&KINDS[..])),
        any::<Index>(),
        any::<Option<Index>>(),
        rarely(any::<Index>()),
        0..=SESSIONS,
    )
        .prop_map(|(key, member, kind, instance, resume, challenge, signed_by)| Words {
            key,
            member,
            kind,
            instance,
            resume,
            challenge,
            signed_by,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<Index>;
    let lost = || prop::bool::weighted(0.3);
    prop_oneof![
        // More often by the attacker, who needs connections to attack from.
        6 => (0..2 * ACTORS).prop_map(|by| Op::Open { by: by.min(EVE) }),
        8 => (index(), rarely(0..SESSIONS), 0..2u8, any::<bool>(), lost()).prop_map(
            |(conn, as_session, instance, resume, lost)| {
                Op::Greet { conn, as_session, instance, resume, lost }
            }
        ),
        6 => (index(), 0..SESSIONS, lost()).prop_map(|(conn, n, lost)| Op::Bind { conn, n, lost }),
        2 => (index(), 0..SESSIONS).prop_map(|(conn, n)| Op::Unbind { conn, n }),
        1 => index().prop_map(|conn| Op::Bye { conn }),
        3 => index().prop_map(|conn| Op::End { conn }),
        2 => (0..2 * GRACE).prop_map(|ms| Op::Wait { ms }),
        5 => (index(), index(), rarely(index()))
            .prop_map(|(conn, hello, attestation)| Op::Replay { conn, hello, attestation }),
        2 => (index(), index(), index())
            .prop_map(|(conn, hello, sig)| Op::Splice { conn, hello, sig }),
        8 => (index(), words(), any::<Option<Index>>())
            .prop_map(|(conn, words, attestation)| Op::Forge { conn, words, attestation }),
        5 => (index(), index(), rarely(index()), rarely(index())).prop_map(
            |(conn, bind, attestation, proof)| Op::Rebind { conn, bind, attestation, proof }
        ),
        6 => (index(), rarely(0..KEYS), index(), rarely(index()), 0..=SESSIONS).prop_map(
            |(conn, key, attestation, hello, with)| Op::ForgeBind {
                conn, key, attestation, hello, with
            }
        ),
        3 => (0..KEYS, prop::option::weighted(0.7, Just(EVE)), any::<bool>()).prop_map(
            |(key, member, service)| Op::Vouch { key, member: member.unwrap_or(0), service }
        ),
        1 => (index(), 0..KEYS).prop_map(|(conn, key)| Op::Drop { conn, key }),
    ]
}

/// A connection, before or after its hello.
struct Conn {
    id: ConnId,
    opened_by: u8,
    challenge: Hash,
    /// Whose key made its hello, the member that it was for, and its hash.
    greeted: Option<(u8, PublicKey, Hash)>,
}

/// All that was ever made, for the attacker to take from; tagged with whose key made it.
#[derive(Default)]
struct Loot {
    hellos: Vec<(u8, Hello)>,
    binds: Vec<Bind>,
    attestations: Vec<Signed>,
    tokens: Vec<Signed>,
    challenges: Vec<Hash>,
    hashes: Vec<Hash>,
    instances: Vec<InstanceId>,
}

struct World {
    broker: SecretKey,
    presence: Presence,
    conns: Vec<Conn>,
    loot: Loot,
    /// The store's part: counters of instances, and whose session a key is.
    counters: HashMap<(PublicKey, InstanceId), u64>,
    delegates: HashMap<PublicKey, PublicKey>,
    next: u64,
    tick: u64,
}

fn pick<T: Clone>(from: &[T], index: &Index) -> Option<T> {
    (!from.is_empty()).then(|| index.get(from).clone())
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            broker: SecretKey::from_seed(&[200; 32]),
            presence: Presence::new(ROOM, GRACE),
            conns: Vec::new(),
            loot: Loot::default(),
            counters: HashMap::new(),
            delegates: HashMap::new(),
            next: 1,
            tick: 0,
        };
        for actor in 0..ACTORS {
            for n in 0..2 {
                world.loot.instances.push(instance(actor, n));
            }
        }
        world
    }

    fn unix(&self) -> u64 {
        START + self.tick
    }

    fn now(&mut self) -> Now {
        self.next += 1;
        let mut lease = [0; 16];
        lease[..8].copy_from_slice(&self.next.to_be_bytes());
        Now { tick: self.tick, unix: self.unix(), lease: InstanceId(lease) }
    }

    /// A connection of an actor's own.
    fn own(&self, index: &Index, greeted: bool) -> Option<usize> {
        let all: Vec<usize> =
            (0..self.conns.len()).filter(|i| self.conns[*i].greeted.is_some() == greeted).collect();
        pick(&all, index)
    }

    fn any(&self, index: &Index) -> Option<usize> {
        (!self.conns.is_empty()).then(|| index.index(self.conns.len()))
    }

    fn attest(&mut self, by: u8, key: u8, kind: IdentityKind, member: u8) -> Signed {
        let at = self.unix();
        let signed = Attestation {
            mesh: MESH,
            member: public(member),
            key: public(key),
            kind,
            name: "agent".into(),
            capabilities: Capabilities::All,
            issued_at: at,
            expires_at: at + 3_600_000,
        }
        .sign(&secret(by));
        self.loot.attestations.push(signed.clone());
        signed
    }

    fn body(&mut self, challenge: Hash, key: PublicKey, member: PublicKey) -> HelloBody {
        self.next += 1;
        HelloBody {
            mesh: MESH,
            key,
            kind: IdentityKind::Member,
            member,
            instance: InstanceId([0; 16]),
            counter: self.next,
            features: Features::new(),
            requires: Vec::new(),
            client_nonce: Hash([9; 32]),
            challenge,
            at: self.unix(),
            broker: self.broker.public(),
            binding: None,
            resume: None,
            agent: "test".into(),
        }
    }

    /// What the broker does with a hello on a connection. Whether it was welcome.
    fn greet(&mut self, at: usize, made_by: u8, hello: &Hello) -> bool {
        if self.conns[at].greeted.is_some() {
            // A second hello on a connection is `no_hello`.
            return false;
        }
        let expected = Expected {
            challenge: self.conns[at].challenge,
            broker: self.broker.public(),
            binding: None,
            now: self.unix(),
        };
        let Ok(greeting) = read(hello, &expected) else { return false };
        let b = &greeting.body;
        let (key, member) = (b.key, b.member);
        let is_member = |key: &PublicKey| (0..ACTORS).any(|n| public(n) == *key);
        let counter = self.counters.get(&(key, b.instance)).copied();
        let known = Known { mesh: b.mesh == MESH, member: is_member(&member), counter };
        if admit(&greeting, known, &[]).is_err() {
            return false;
        }
        if b.kind != IdentityKind::Member && (is_member(&key) || !self.delegate(key, member)) {
            return false;
        }
        self.counters.insert((key, b.instance), b.counter);
        let (id, now) = (self.conns[at].id, self.now());
        let attach = Attach {
            conn: id,
            mesh: MESH,
            member,
            key,
            kind: greeting.body.kind,
            instance: greeting.body.instance,
            about: About::default(),
            attestation: greeting.attestation.clone(),
            attested_until: greeting.attested_until,
            features: Vec::new(),
        };
        let (result, effects) = self.presence.attach(attach, now);
        self.carry_out(&effects);
        // Others may have been closed in between.
        let at = self.conns.iter().position(|c| c.id == id).unwrap();
        let Ok(attached) = result else {
            self.end(at);
            return false;
        };
        self.conns[at].greeted = Some((made_by, member, greeting.hash));
        self.loot.hashes.push(greeting.hash);
        let token = ResumeToken {
            mesh: MESH,
            key,
            instance: greeting.body.instance,
            lease: attached.lease,
            expires_at: self.unix() + GRACE,
        };
        self.loot.tokens.push(Signed::new(&self.broker, domains::RESUME, &token));
        true
    }

    /// What the broker does with a bind on a connection.
    fn bind(&mut self, at: usize, bind: &Bind) {
        let Some((_, member, hello)) = self.conns[at].greeted else { return };
        let Ok(word) = check_bind(bind, &hello, &MESH, &member, self.unix()) else { return };
        let kind = word.kind;
        if (0..ACTORS).any(|n| public(n) == bind.key) || !self.delegate(bind.key, member) {
            return;
        }
        let (conn, now) = (self.conns[at].id, self.now());
        let attestation = bind.attestation.clone();
        let attested_until = word.expires_at;
        let held = Held { conn, key: bind.key, kind, attestation, attested_until };
        let (_, effects) = self.presence.bind(held, now);
        self.carry_out(&effects);
    }

    /// Notes a session in the store; false if it is another member's.
    fn delegate(&mut self, key: PublicKey, member: PublicKey) -> bool {
        *self.delegates.entry(key).or_insert(member) == member
    }

    /// Closes what the broker closes.
    fn carry_out(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Close { conn, .. } = effect
                && let Some(at) = self.conns.iter().position(|c| c.id == *conn)
            {
                self.end(at);
            }
        }
    }

    fn end(&mut self, at: usize) {
        let conn = self.conns.remove(at);
        self.presence.detach(conn.id, self.tick);
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Open { by } => {
                self.next += 1;
                let challenge = Hash::of(&self.next.to_be_bytes());
                self.loot.challenges.push(challenge);
                self.conns.push(Conn { id: self.next, opened_by: by, challenge, greeted: None });
            }
            Op::Greet { conn, as_session, instance: n, resume, lost } => {
                let Some(at) = self.own(&conn, false) else { return };
                let (by, challenge) = (self.conns[at].opened_by, self.conns[at].challenge);
                let key = as_session.map_or(by, |n| session(by, n));
                let mut body = self.body(challenge, public(key), public(by));
                body.instance = instance(by, n);
                body.resume = resume.then(|| self.loot.tokens.last().cloned()).flatten();
                let attestation = as_session.map(|_| {
                    body.kind = IdentityKind::Session;
                    self.attest(by, key, IdentityKind::Session, by)
                });
                let hello = Hello { hello: body.sign(&secret(key)), attestation };
                self.loot.hellos.push((by, hello.clone()));
                if lost {
                    self.end(at);
                } else {
                    self.greet(at, by, &hello);
                }
            }
            Op::Bind { conn, n, lost } => {
                let Some(at) = self.own(&conn, true) else { return };
                let (by, _, hash) = self.conns[at].greeted.unwrap();
                let key = session(by, n);
                let attestation = self.attest(by, key, IdentityKind::Session, by);
                let proof = Bind::prove(&hash, &secret(key), &attestation);
                let bind = Bind { req: 1, key: public(key), attestation, proof };
                self.loot.binds.push(bind.clone());
                if lost {
                    self.end(at);
                } else {
                    self.bind(at, &bind);
                }
            }
            Op::Unbind { conn, n } => {
                let Some(at) = self.own(&conn, true) else { return };
                let key = public(session(self.conns[at].opened_by, n));
                self.presence.unbind(self.conns[at].id, &key);
            }
            Op::Bye { conn } => {
                let Some(at) = self.own(&conn, true) else { return };
                self.presence.bye(self.conns[at].id);
            }
            Op::End { conn } => {
                let Some(at) = self.any(&conn) else { return };
                self.end(at);
            }
            Op::Wait { ms } => {
                self.tick += ms;
                self.presence.poll(self.tick);
            }
            attack => self.attack(attack),
        }
    }

    fn attack(&mut self, op: Op) {
        match op {
            Op::Replay { conn, hello, attestation } => {
                let Some(at) = self.any(&conn) else { return };
                let Some((by, mut hello)) = pick(&self.loot.hellos, &hello) else { return };
                if let Some(other) = attestation {
                    hello.attestation = pick(&self.loot.attestations, &other);
                }
                self.greet(at, by, &hello);
            }
            Op::Splice { conn, hello, sig } => {
                let Some(at) = self.any(&conn) else { return };
                let Some((by, mut hello)) = pick(&self.loot.hellos, &hello) else { return };
                let Some((_, other)) = pick(&self.loot.hellos, &sig) else { return };
                let own = hello.hello.sig == other.hello.sig;
                hello.hello.sig = other.hello.sig;
                self.greet(at, if own { by } else { EVE }, &hello);
            }
            Op::Forge { conn, words, attestation } => {
                let Some(at) = self.any(&conn) else { return };
                let own = self.conns[at].challenge;
                let challenge = words.challenge.and_then(|i| pick(&self.loot.challenges, &i));
                let challenge = challenge.unwrap_or(own);
                let attestation = attestation.and_then(|i| pick(&self.loot.attestations, &i));
                let with = hers(words.signed_by);
                let mut body = match &attestation {
                    None => self.body(challenge, public(with), public(with)),
                    Some(signed) => {
                        let a: Attestation = signed.peek().unwrap();
                        let body = self.body(challenge, a.key, a.member);
                        HelloBody { kind: a.kind, ..body }
                    }
                };
                body.key = words.key.map_or(body.key, public);
                body.member = words.member.map_or(body.member, public);
                body.kind = words.kind.unwrap_or(body.kind);
                body.instance = pick(&self.loot.instances, &words.instance).unwrap();
                body.resume = words.resume.and_then(|i| pick(&self.loot.tokens, &i));
                let hello = Hello { hello: body.sign(&secret(with)), attestation };
                self.loot.hellos.push((EVE, hello.clone()));
                self.greet(at, EVE, &hello);
            }
            Op::Rebind { conn, bind, attestation, proof } => {
                let Some(at) = self.any(&conn) else { return };
                let Some(mut bind) = pick(&self.loot.binds, &bind) else { return };
                if let Some(other) = attestation.and_then(|i| pick(&self.loot.attestations, &i)) {
                    bind.attestation = other;
                }
                if let Some(other) = proof.and_then(|i| pick(&self.loot.binds, &i)) {
                    bind.proof = other.proof;
                }
                self.bind(at, &bind);
            }
            Op::ForgeBind { conn, key, attestation, hello, with } => {
                let Some(at) = self.any(&conn) else { return };
                let Some(attestation) = pick(&self.loot.attestations, &attestation) else { return };
                let this = self.conns[at].greeted.map(|g| g.2);
                let other = hello.and_then(|i| pick(&self.loot.hashes, &i));
                let Some(hash) = other.or(this) else { return };
                let proof = Bind::prove(&hash, &secret(hers(with)), &attestation);
                let own = attestation.peek::<Attestation>().unwrap().key;
                let bind = Bind { req: 1, key: key.map_or(own, public), attestation, proof };
                self.loot.binds.push(bind.clone());
                self.bind(at, &bind);
            }
            Op::Vouch { key, member, service } => {
                let kind = if service { IdentityKind::Service } else { IdentityKind::Session };
                self.attest(EVE, key, kind, member);
            }
            Op::Drop { conn, key } => {
                let Some(at) = self.any(&conn) else { return };
                // Into connections of others she cannot say that they leave: that is no takeover, but
                // nothing would be left to compare.
                if self.conns[at].opened_by == EVE {
                    let id = self.conns[at].id;
                    self.presence.unbind(id, &public(key));
                    if key == EVE {
                        self.presence.bye(id);
                    }
                }
            }
            honest => unreachable!("{honest:?}"),
        }
    }

    /// What the honest members' identities stand at: who speaks for each, under which lease.
    fn honest(&self) -> BTreeMap<u8, (Option<ConnId>, InstanceId)> {
        (0..KEYS)
            .filter(|k| owner(*k) != EVE)
            .filter_map(|k| {
                let lease = self.presence.lease(&MESH, &public(k))?.lease;
                Some((k, (self.presence.holder(&MESH, &public(k)), lease)))
            })
            .collect()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for k in 0..KEYS {
            let key = public(k);
            if let Some(held) = self.presence.lease(&MESH, &key) {
                prop_assert_eq!(held.member, public(owner(k)), "key {} is its owner's", k);
            }
            let voices = self.conns.iter().filter(|c| self.presence.speaks_for(c.id, &key));
            for conn in voices {
                let (made_by, member, _) = conn.greeted.unwrap();
                prop_assert_eq!(made_by, owner(k), "key {} is spoken for by another", k);
                prop_assert_eq!(member, public(owner(k)));
                prop_assert_eq!(self.presence.holder(&MESH, &key), Some(conn.id), "one voice");
            }
            if let Some(holder) = self.presence.holder(&MESH, &key) {
                prop_assert!(self.conns.iter().any(|c| c.id == holder), "held by a live socket");
            }
        }
        Ok(())
    }
}

/// An instance of an actor's.
fn instance(actor: u8, n: u8) -> InstanceId {
    InstanceId([actor * 2 + n + 1; 16])
}

/// One of the attacker's own keys.
fn hers(n: u8) -> u8 {
    if n == 0 { EVE } else { session(EVE, n) }
}

/// Which connection an attack goes to, if it is one.
fn attacked(op: &Op) -> Option<&Index> {
    match op {
        Op::Replay { conn, .. }
        | Op::Splice { conn, .. }
        | Op::Forge { conn, .. }
        | Op::Rebind { conn, .. }
        | Op::ForgeBind { conn, .. }
        | Op::Drop { conn, .. } => Some(conn),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nobody_takes_over_by_any_order_of_frames(ops in prop::collection::vec(op(), 1..100)) {
        let mut world = World::new();
        for op in ops {
            let on_her_own = attacked(&op).and_then(|index| world.any(index)).is_some_and(|at| {
                world.conns[at].opened_by == EVE
            });
            let before = world.honest();
            let what = format!("{op:?}");
            world.run(op);
            if on_her_own {
                prop_assert_eq!(world.honest(), before, "by {}", what);
            }
            world.check()?;
        }
    }
}

/// The attacks of the property come through the honest part of the broker's checks: without any of
/// this the property would hold because nobody ever gets in.
#[test]
fn the_actors_of_the_property_do_get_in() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut welcome, mut bound, mut eves) = (0, 0, 0);
    for _ in 0..32 {
        let ops = prop::collection::vec(op(), 100).new_tree(&mut runner).unwrap().current();
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
        welcome += world.loot.hashes.len();
        let of = |k: u8| world.presence.is_there(&MESH, &public(k));
        bound += (ACTORS..KEYS).filter(|k| of(*k)).count();
        eves += (0..KEYS).filter(|k| owner(*k) == EVE && of(*k)).count();
    }
    assert!(welcome > 100 && bound > 32 && eves > 16, "{welcome} {bound} {eves}");
}
