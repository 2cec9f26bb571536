use super::*;
use meshwire_signaling::SecretKey;
use meshwire_signaling::frame::close;

const MESH: MeshId = MeshId([1; 32]);
const GRACE: u64 = 90_000;
/// When attestations here are over, Unix milliseconds; the tests start at 1,000,000.
const HOUR: u64 = 4_600_000;

fn presence(max: usize) -> Presence {
    Presence::new(max, GRACE)
}

fn now(tick: u64) -> Now {
    Now { tick, unix: 1_000_000 + tick, lease: InstanceId([9; 16]) }
}

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn at(conn: ConnId, member: u8, instance: u8) -> Attach {
    Attach {
        conn,
        mesh: MESH,
        member: key(member),
        key: key(member),
        kind: IdentityKind::Member,
        instance: InstanceId([instance; 16]),
        about: About::default(),
        attestation: None,
        attested_until: None,
        features: Vec::new(),
    }
}

/// A session with a socket of its own.
fn own(conn: ConnId, member: u8, session: u8) -> Attach {
    let kind = IdentityKind::Session;
    let attested_until = Some(HOUR);
    let attestation = Some(word());
    Attach { key: key(session), kind, attestation, attested_until, ..at(conn, member, 1) }
}

fn word() -> Signed {
    let domain = meshwire_signaling::sign::domains::ATTESTATION;
    Signed::new(&SecretKey::from_seed(&[7; 32]), domain, &"a member's word")
}

fn session(conn: ConnId, n: u8) -> Bind {
    let kind = IdentityKind::Session;
    Bind { conn, key: key(n), kind, attestation: word(), attested_until: HOUR }
}

fn of(member: u8, n: u8) -> Moved {
    let kind = if member == n { IdentityKind::Member } else { IdentityKind::Session };
    Moved { mesh: MESH, key: key(n), member: key(member), kind }
}

fn joined(member: u8, n: u8) -> Effect {
    Effect::Joined(of(member, n))
}

fn left(member: u8, n: u8) -> Effect {
    Effect::Left(of(member, n))
}

fn closed(conn: ConnId, code: u16, reason: &'static str) -> Effect {
    Effect::Close { conn, code, reason }
}

fn coming(p: &mut Presence, a: Attach, tick: u64) -> (bool, Vec<Effect>) {
    let (attached, effects) = p.attach(a, now(tick));
    (attached.unwrap().resumed, effects)
}

#[test]
fn coming_and_going_is_told_once() {
    let mut p = presence(10);
    assert_eq!(coming(&mut p, at(1, 1, 1), 0), (false, vec![joined(1, 1)]));
    assert_eq!(p.detach(1, 1_000), vec![key(1)]);
    assert!(p.is_empty() && p.is_there(&MESH, &key(1)) && p.holder(&MESH, &key(1)).is_none());
    assert_eq!(p.next_deadline(), Some(91_000));
    assert_eq!(p.poll(90_999), vec![]);
    assert_eq!(p.poll(91_000), vec![left(1, 1)]);
    assert_eq!((p.poll(1 << 40), p.detach(1, 0)), (vec![], vec![]));
    assert!(!p.is_there(&MESH, &key(1)) && p.held.is_empty() && p.of_member.is_empty());
}

#[test]
fn coming_back_in_time_is_silent_and_keeps_age_words_and_lease() {
    let mut p = presence(10);
    coming(&mut p, at(1, 1, 1), 0);
    p.bind(session(1, 5), now(5)).0.unwrap();
    let about = About { summary: Some("busy".into()), ..About::default() };
    assert!(p.set_about(&MESH, &key(5), about.clone()));
    p.detach(1, 10);
    assert_eq!(coming(&mut p, at(2, 1, 1), 90_009), (true, vec![]));
    let (bound, effects) = p.bind(session(2, 5), now(90_009));
    assert_eq!((bound.unwrap().resumed, effects), (true, vec![]));
    assert_eq!(p.about(&MESH, &key(5)), Some(&about));
    let presences = p.presences(&MESH, &key(1));
    assert_eq!(presences.iter().map(|i| i.since).collect::<Vec<_>>(), [1_000_000, 1_000_005]);
    assert_eq!((p.poll(3_000_000), p.next_deadline()), (vec![], Some(3_600_000)));
}

#[test]
fn coming_back_with_another_program_is_noticed() {
    let mut p = presence(10);
    let with = |conn, word: &str| Attach { features: vec![word.into()], ..at(conn, 1, 1) };
    let mut changed = |a| p.attach(a, now(0)).0.unwrap().other_features;
    assert!(!changed(with(1, "a")), "it comes: that is told anyway");
    assert!(!changed(with(2, "a")));
    assert!(changed(with(3, "b")));
    assert_eq!(p.presences(&MESH, &key(1))[0].features, ["b"]);
}

#[test]
fn the_same_instance_replaces_silently_with_all_it_has() {
    let mut p = presence(10);
    coming(&mut p, at(1, 1, 1), 0);
    p.bind(session(1, 5), now(0)).0.unwrap();
    let replaced = closed(1, close::NORMAL, "session_replaced");
    assert_eq!(coming(&mut p, at(2, 1, 1), 0), (true, vec![replaced]));
    assert_eq!(p.bind(session(2, 5), now(1)).1, vec![], "a session moves over silently too");
    assert_eq!(p.detach(1, 0), vec![], "the old socket's end changes nothing");
    assert_eq!(p.holder(&MESH, &key(1)), Some(2));
    assert_eq!(p.poll(3_000_000), vec![]);
}

#[test]
fn another_instance_is_refused_while_one_lives_and_takes_over_in_grace() {
    let mut p = presence(10);
    coming(&mut p, at(1, 1, 1), 0);
    let refused = (Err(Refused::OtherInstance), vec![Effect::Warn { conn: 1 }]);
    assert_eq!(p.attach(at(2, 1, 9), now(0)), refused);
    p.detach(1, 0);
    assert_eq!(coming(&mut p, at(2, 1, 9), 1), (false, vec![left(1, 1), joined(1, 1)]));
}

#[test]
fn bye_and_unbind_end_at_once() {
    let mut p = presence(10);
    coming(&mut p, at(1, 1, 1), 0);
    p.bind(session(1, 5), now(0)).0.unwrap();
    p.bind(session(1, 6), now(0)).0.unwrap();
    assert_eq!(p.unbind(1, &key(5)), Some(left(1, 5)));
    assert_eq!((p.unbind(1, &key(5)), p.unbind(1, &key(1))), (None, None));
    // One that a lost connection left behind is its member's to end, not another's.
    coming(&mut p, at(2, 2, 1), 0);
    coming(&mut p, own(3, 1, 7), 0);
    assert_eq!(p.unbind(1, &key(7)), None, "it has a voice of its own");
    p.detach(3, 0);
    assert_eq!(p.unbind(2, &key(7)), None, "another member's");
    assert_eq!(p.unbind(1, &key(7)), Some(left(1, 7)));
    assert_eq!(p.bye(1), vec![left(1, 1), left(1, 6)]);
    assert_eq!((p.detach(1, 0), p.poll(1 << 40)), (vec![], vec![]));
}

#[test]
fn nobody_binds_or_attaches_what_is_anothers() {
    let mut p = presence(10);
    coming(&mut p, at(1, 1, 1), 0);
    coming(&mut p, at(2, 2, 1), 0);
    p.bind(session(1, 5), now(0)).0.unwrap();
    assert_eq!(p.bind(session(2, 5), now(0)), (Err(Refused::Foreign), vec![]));
    assert_eq!(p.attach(own(3, 2, 5), now(0)), (Err(Refused::Foreign), vec![]));
    p.detach(1, 0);
    assert_eq!(p.bind(session(2, 5), now(0)), (Err(Refused::Foreign), vec![]), "nor in grace");
    assert_eq!(p.bind(session(1, 5), now(0)), (Err(Refused::Gone), vec![]));
}

#[test]
fn a_session_moves_between_its_own_socket_and_its_members() {
    let mut p = presence(10);
    coming(&mut p, at(1, 1, 1), 0);
    assert_eq!(coming(&mut p, own(2, 1, 5), 0), (false, vec![joined(1, 5)]));
    let (bound, effects) = p.bind(session(1, 5), now(0));
    assert!(bound.unwrap().resumed);
    assert_eq!(effects, vec![closed(2, close::NORMAL, "session_replaced")]);
    assert_eq!(p.detach(2, 0), vec![]);
    assert_eq!(p.holder(&MESH, &key(5)), Some(1));
}

#[test]
fn defect_7_a_full_mesh_takes_its_own_members_back() {
    let mut p = presence(2);
    coming(&mut p, at(1, 1, 1), 0);
    coming(&mut p, at(2, 2, 1), 0);
    assert_eq!(p.attach(at(3, 3, 1), now(0)).0, Err(Refused::Capacity));
    assert!(p.attach(at(4, 1, 1), now(0)).0.is_ok(), "a reconnect is no newcomer");
    p.detach(2, 0);
    assert!(p.attach(at(5, 3, 1), now(0)).0.is_ok(), "a lease in grace takes no room");
    assert!(p.attach(at(6, 2, 1), now(0)).0.is_ok(), "and its member comes back all the same");
}

#[test]
fn who_hears_of_whom() {
    let mut p = presence(10);
    coming(&mut p, at(1, 1, 1), 0);
    coming(&mut p, at(2, 2, 1), 0);
    coming(&mut p, own(3, 1, 5), 0);
    p.bind(session(1, 6), now(0)).0.unwrap();
    let hears = |moved: Moved| {
        let mut conns = p.audience(&moved);
        conns.sort_unstable();
        conns
    };
    assert_eq!(hears(of(1, 1)), [2], "a member's coming: the other members");
    assert_eq!(hears(of(1, 6)), [2, 3], "a session's: its siblings too");
    assert_eq!(hears(of(1, 5)), [1, 2]);
}

#[test]
fn a_restored_lease_is_waited_for() {
    let mut p = presence(10);
    coming(&mut p, at(1, 1, 1), 0);
    let lease = p.lease(&MESH, &key(1)).unwrap();
    let mut next_run = presence(10);
    next_run.restore(MESH, key(1), lease, 5);
    assert_eq!(next_run.next_deadline(), Some(90_005));
    assert_eq!(coming(&mut next_run, at(1, 1, 1), 90_004), (true, vec![]));
    assert_eq!(next_run.poll(1 << 40), vec![]);
}

#[test]
fn an_attestation_that_is_over_ends_the_session() {
    let mut p = presence(10);
    coming(&mut p, at(1, 1, 1), 0);
    p.bind(session(1, 5), now(0)).0.unwrap();
    coming(&mut p, own(2, 1, 6), 0);
    assert_eq!(p.next_deadline(), Some(3_600_000));
    assert_eq!(p.poll(3_599_999), vec![]);
    let later = Bind { attested_until: HOUR + 1_000, ..session(1, 5) };
    assert!(p.bind(later, now(10)).0.unwrap().resumed, "renewed");
    let over = closed(2, close::REFUSED, "attestation_expired");
    assert_eq!(p.poll(3_600_000), vec![over, left(1, 6)]);
    let unbound = Effect::Unbound { conn: 1, key: key(5), reason: UnboundReason::Expired };
    assert_eq!(p.poll(3_601_000), vec![unbound, left(1, 5)]);
    assert_eq!((p.next_deadline(), p.holder(&MESH, &key(1))), (None, Some(1)));
}

#[test]
fn a_member_has_a_bounded_number_of_identities_also_over_reconnects() {
    let mut p = presence(10);
    coming(&mut p, at(1, 1, 1), 0);
    let fresh = |n: u8| Bind { key: PublicKey([n; 32]), ..session(1, n) };
    for n in 100..163 {
        p.bind(fresh(n), now(0)).0.unwrap();
    }
    assert_eq!(p.bind(fresh(200), now(0)).0, Err(Refused::Capacity));
    coming(&mut p, at(2, 1, 1), 1);
    let again = Bind { conn: 2, ..fresh(200) };
    assert_eq!(p.bind(again.clone(), now(1)).0, Err(Refused::Capacity), "those in grace count");
    assert!(p.bind(Bind { conn: 2, ..fresh(100) }, now(1)).0.is_ok(), "what is there comes back");
    assert_eq!(p.attach(own(3, 1, 201), now(1)).0, Err(Refused::Capacity));
    p.poll(1 << 40);
    assert!(p.bind(again, now(1 << 40)).0.is_ok());
}

/// Every row of the table in `admin`, by connection, binding and grace.
#[test]
fn kick_and_disconnect_have_their_truth_table() {
    let there = || {
        let mut p = presence(10);
        coming(&mut p, at(1, 1, 1), 0);
        p.bind(session(1, 5), now(0)).0.unwrap();
        coming(&mut p, own(2, 1, 6), 0);
        coming(&mut p, at(3, 2, 1), 0);
        p.bind(session(3, 7), now(0)).0.unwrap();
        p.detach(3, 0);
        p
    };
    let unbound = |conn, n, reason| Effect::Unbound { conn, key: key(n), reason };
    let run = |n: u8, kick| there().disconnect(&MESH, &Who::Keys(vec![key(n)]), kick, 10);
    let soft = run(1, false);
    assert_eq!(soft.affected, [key(1), key(5), key(6)]);
    assert_eq!(
        soft.effects,
        [
            closed(1, close::NORMAL, "disconnected"),
            unbound(1, 5, UnboundReason::Disconnected),
            closed(2, close::NORMAL, "disconnected"),
        ]
    );
    let hard = run(1, true);
    assert_eq!((hard.affected, hard.skipped), (vec![key(5), key(6)], vec![key(1)]));
    assert_eq!(hard.ended, [(key(5), key(1)), (key(6), key(1))]);
    assert_eq!(
        hard.effects,
        [
            unbound(1, 5, UnboundReason::Kicked),
            left(1, 5),
            closed(2, close::KICKED, "kicked"),
            left(1, 6),
        ]
    );
    assert_eq!(run(5, false).affected, [key(5)], "one session alone");
    let graced = run(2, false);
    assert_eq!((graced.affected.len(), graced.skipped.len(), graced.effects.len()), (0, 0, 0));
    let graced = run(2, true);
    assert_eq!((graced.affected, graced.skipped), (vec![key(7)], vec![key(2)]));
    assert_eq!(graced.effects, [left(2, 7)]);
    let all = there().disconnect(&MESH, &Who::AllBut(key(1)), true, 0);
    assert_eq!((all.affected, all.skipped), (vec![key(7)], vec![key(2)]));
    assert_eq!(run(99, true), Disconnected::default());
    let elsewhere = Who::Keys(vec![key(1)]);
    assert_eq!(there().disconnect(&MeshId([2; 32]), &elsewhere, true, 0), Disconnected::default());
}

#[test]
fn defect_6_the_kicked_and_the_replaced_leave_no_count_behind_and_are_told() {
    let mut p = presence(3);
    for round in 0..50 {
        coming(&mut p, at(10 * round + 1, 1, 1), round);
        coming(&mut p, own(10 * round + 2, 2, 5), round);
        let kicked = p.disconnect(&MESH, &Who::Keys(vec![key(5)]), true, round);
        assert!(kicked.effects.contains(&left(2, 5)));
        p.detach(10 * round + 2, round);
        assert_eq!(p.per_mesh.get(&MESH).map_or(0, |c| c.len()), 1);
    }
    assert_eq!((p.len(), p.held.len(), p.of_member.len()), (1, 1, 1));
}
