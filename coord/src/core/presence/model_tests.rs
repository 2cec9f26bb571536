//! Presence against a model that keeps less: who holds what, and who was told what.

use std::collections::HashMap;

use super::*;
use proptest::prelude::*;

const MESH: MeshId = MeshId([1; 32]);
const GRACE: u64 = 100;
const MEMBERS: u8 = 3;
/// Sessions 10, 11 belong to member 0, and so on; the model knows, the machine is told.
const SESSIONS: u8 = 2;

#[derive(Clone, Debug)]
enum Op {
    Attach { member: u8, instance: u8 },
    Own { session: u8, claims: u8 },
    Bind { conn: u8, session: u8 },
    Unbind { conn: u8, session: u8 },
    Bye { conn: u8 },
    Detach { conn: u8 },
    Kick { key: u8, kick: bool },
    Wait { ms: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let session = 10..10 + MEMBERS * SESSIONS;
    prop_oneof![
        4 => (0..MEMBERS, 0..2u8).prop_map(|(member, instance)| Op::Attach { member, instance }),
        2 => (session.clone(), 0..MEMBERS).prop_map(|(session, claims)| Op::Own { session, claims }),
        4 => (any::<u8>(), session.clone()).prop_map(|(conn, session)| Op::Bind { conn, session }),
        2 => (any::<u8>(), session.clone()).prop_map(|(conn, session)| Op::Unbind { conn, session }),
        1 => any::<u8>().prop_map(|conn| Op::Bye { conn }),
        4 => any::<u8>().prop_map(|conn| Op::Detach { conn }),
        1 => (prop_oneof![0..MEMBERS, session], any::<bool>())
            .prop_map(|(key, kick)| Op::Kick { key, kick }),
        3 => (0..150u64).prop_map(|ms| Op::Wait { ms }),
    ]
}

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

/// Whose key it is, by the world's word.
fn owner(n: u8) -> u8 {
    if n < 10 { n } else { (n - 10) / SESSIONS }
}

#[derive(Default)]
struct Model {
    /// Who is told to be there.
    there: HashSet<PublicKey>,
    /// Live connections and the member behind each.
    live: Vec<(ConnId, u8)>,
    /// When each identity that nobody speaks for is given up.
    until: HashMap<PublicKey, u64>,
}

impl Model {
    fn pick(&self, n: u8) -> Option<(ConnId, u8)> {
        (!self.live.is_empty()).then(|| self.live[usize::from(n) % self.live.len()])
    }

    fn hear(&mut self, effects: &[Effect]) -> Result<(), TestCaseError> {
        for effect in effects {
            match effect {
                Effect::Joined(m) => prop_assert!(self.there.insert(m.key), "joined twice"),
                Effect::Left(m) => prop_assert!(self.there.remove(&m.key), "left twice"),
                _ => {}
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the order of hellos, binds, ends and kicks: joined and left alternate, an identity is
    /// spoken for only by a connection of its own member, nothing outlives its lease and nothing ends
    /// before it without a reason, and no count leaks.
    #[test]
    fn nobody_takes_over_and_nothing_leaks(ops in prop::collection::vec(op(), 0..120)) {
        let mut p = Presence::new(4, GRACE);
        let mut model = Model::default();
        let (mut tick, mut next) = (0, 0);
        for op in ops {
            let now = Now { tick, unix: tick, lease: InstanceId([0; 16]) };
            match op {
                Op::Attach { member, instance } => {
                    next += 1;
                    let attach = Attach {
                        conn: next, mesh: MESH, member: key(member), key: key(member),
                        kind: IdentityKind::Member, instance: InstanceId([instance; 16]),
                        about: About::default(), attestation: None, attested_until: None, features: vec![],
                    };
                    let before = p.holder(&MESH, &key(member));
                    let (result, effects) = p.attach(attach, now);
                    if result.is_ok() {
                        model.live.retain(|(c, _)| Some(*c) != before);
                        model.live.push((next, member));
                    }
                    model.hear(&effects)?;
                }
                Op::Own { session, claims } => {
                    next += 1;
                    // `core::hello` lets through only what the member has attested: the claimed
                    // member is then the owner. Anything else must be refused here at the latest,
                    // once the key is known to be somebody's.
                    let attach = Attach {
                        conn: next, mesh: MESH, member: key(claims), key: key(session),
                        kind: IdentityKind::Session, instance: InstanceId([0; 16]),
                        about: About::default(), attestation: None, attested_until: None, features: vec![],
                    };
                    let known = p.is_there(&MESH, &key(session));
                    if claims != owner(session) && !known {
                        continue;
                    }
                    let before = p.holder(&MESH, &key(session));
                    let (result, effects) = p.attach(attach, now);
                    if claims != owner(session) {
                        prop_assert_eq!(result, Err(Refused::Foreign));
                        prop_assert!(effects.is_empty());
                    } else if result.is_ok() {
                        let replaced = effects.iter().find_map(|e| match e {
                            Effect::Close { conn, .. } => Some(*conn),
                            _ => None,
                        });
                        model.live.retain(|(c, _)| before.is_none() || Some(*c) != replaced);
                        model.live.push((next, claims));
                    }
                    model.hear(&effects)?;
                }
                Op::Bind { conn, session } => {
                    let Some((conn, member)) = model.pick(conn) else { continue };
                    let known = p.is_there(&MESH, &key(session));
                    if member != owner(session) && !known {
                        continue;
                    }
                    let word = Signed {
                        payload: vec![].into(),
                        sig: meshwire_signaling::Signature([0; 64]),
                    };
                    let bind = Bind {
                        conn, key: key(session), kind: IdentityKind::Session, attestation: word, attested_until: 1 << 50,
                    };
                    let (result, effects) = p.bind(bind, now);
                    prop_assert_eq!(result.is_ok(), member == owner(session));
                    model.hear(&effects)?;
                }
                Op::Unbind { conn, session } => {
                    let Some((conn, _)) = model.pick(conn) else { continue };
                    let effect = p.unbind(conn, &key(session));
                    model.hear(effect.as_slice())?;
                }
                Op::Bye { conn } => {
                    let Some((conn, _)) = model.pick(conn) else { continue };
                    let effects = p.bye(conn);
                    model.hear(&effects)?;
                }
                Op::Detach { conn } => {
                    let Some((conn, _)) = model.pick(conn) else { continue };
                    model.live.retain(|(c, _)| *c != conn);
                    p.detach(conn, tick);
                }
                Op::Kick { key: n, kick } => {
                    let done = p.disconnect(&MESH, &Who::Keys(vec![key(n)]), kick, tick);
                    prop_assert!(!kick || done.affected.iter().all(|k| k.0[0] >= 10));
                    model.hear(&done.effects)?;
                }
                Op::Wait { ms } => {
                    tick += ms;
                    let effects = p.poll(tick);
                    for effect in &effects {
                        let Effect::Left(m) = effect else { panic!("{effect:?}") };
                        prop_assert!(model.until.get(&m.key).is_some_and(|u| *u <= tick));
                    }
                    model.hear(&effects)?;
                }
            }
            // The machine against the model.
            let held: HashSet<PublicKey> = p.held.keys().map(|i| i.1).collect();
            prop_assert_eq!(&held, &model.there);
            let of_member: usize = p.of_member.values().map(BTreeSet::len).sum();
            prop_assert_eq!(of_member, held.len());
            model.until.clear();
            for ((_, k), h) in &p.held {
                prop_assert_eq!(h.member, key(owner(k.0[0])), "an identity is its owner's");
                match h.holder {
                    Some(conn) => {
                        let live = model.live.iter().find(|(c, _)| *c == conn);
                        prop_assert_eq!(live.map(|l| l.1), Some(owner(k.0[0])), "held by its owner");
                        prop_assert!(p.speaks_for(conn, k));
                    }
                    None => {
                        prop_assert!(h.until > tick || p.next_deadline() <= Some(tick));
                        model.until.insert(*k, h.until);
                    }
                }
            }
            prop_assert_eq!(p.deadlines.len(), model.until.len());
            for (conn, _) in &model.live {
                for k in p.identities(*conn) {
                    prop_assert_eq!(p.holder(&MESH, &k), Some(*conn), "no stale voice");
                }
            }
            let count = p.per_mesh.get(&MESH).map_or(0, |c| c.len());
            prop_assert_eq!(count, p.conns.len());
        }
    }
}
