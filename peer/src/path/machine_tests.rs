//! The machine's life, event by event, in paused time; two machines against each other; random events.

use proptest::prelude::*;

use super::*;
use crate::path::backoff;

const A: PublicKey = PublicKey([1; 32]);
const B: PublicKey = PublicKey([2; 32]);

/// A machine with a clock and names for its tries.
struct Player {
    machine: Machine,
    start: Instant,
    at: Instant,
    names: u8,
}

impl Player {
    fn new(me: PublicKey, peer: PublicKey) -> Self {
        let at = Instant::now();
        Self { machine: Machine::new(&me, &peer, Arc::default()), start: at, at, names: 0 }
    }

    fn now(&mut self) -> Now {
        self.names += 1;
        let unix = self.at.duration_since(self.start).as_millis().try_into().unwrap();
        Now { at: self.at, unix, fresh: [self.names; 16] }
    }

    fn does(&mut self, event: Event) -> Vec<Action> {
        let now = self.now();
        self.machine.handle(now, event)
    }

    /// Waits until the deadline, which is so far away.
    fn waits(&mut self, wait: Duration) -> Vec<Action> {
        let at = self.machine.deadline().expect("a deadline");
        assert_eq!(at.duration_since(self.at), wait);
        self.at = at;
        self.does(Event::Tick)
    }

    fn offers(&mut self, event: Event) -> AttemptId {
        match self.does(event)[..] {
            [Action::Offer(id)] => id,
            ref other => panic!("{other:?}"),
        }
    }

    fn connects(&mut self, attempt: AttemptId) {
        let done = self.does(Event::Connected { attempt, relayed: false, detail: "host".into() });
        assert_eq!(done, [Action::Promote(attempt)]);
    }

    /// With a path that was just made.
    fn up(me: PublicKey, peer: PublicKey) -> Self {
        let mut p = Self::new(me, peer);
        let id = p.offers(Event::Wanted);
        p.does(Event::Answer(id));
        p.connects(id);
        p
    }

    fn fails(&mut self, attempt: AttemptId) {
        let cause = Cause::NoPair;
        assert_eq!(self.does(Event::Failed { attempt, cause, detail: String::new() }), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wish_makes_one_try_and_a_connection_makes_a_path() {
    let mut p = Player::new(A, B);
    let id = p.offers(Event::Wanted);
    assert_eq!(p.does(Event::Wanted), [], "one negotiation per pair");
    assert_eq!(p.machine.direct(), Direct::Negotiating);
    p.does(Event::Answer(id));
    p.connects(id);
    assert_eq!(p.machine.phase(), Phase::Up { renewing: false });
    let told: Vec<_> = p.machine.history().entries().map(|e| e.what).collect();
    assert_eq!(told, [What::Offered, What::Up]);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_answered_waits_and_tries_again_while_wanted() {
    let mut p = Player::new(A, B);
    let id = p.offers(Event::Wanted);
    let done = p.waits(TRY);
    assert_eq!(done, [Action::Abandon { attempt: id, cause: Cause::NoAnswer, tell: true }]);
    assert_eq!(p.machine.direct(), Direct::BackingOff);
    assert_eq!(p.does(Event::Wanted), [], "not before its time");
    let Phase::Waiting(until) = p.machine.phase() else { panic!("{:?}", p.machine) };
    let wait = until - p.at;
    assert!(wait >= backoff::FIRST / 2 && wait <= backoff::FIRST, "{wait:?}");
    let second = p.waits(wait);
    assert!(matches!(second[..], [Action::Offer(_)]));
    // Nobody wants it any more: it ends with the try's failure.
    p.at += WANTED;
    let done = p.does(Event::Tick);
    assert!(matches!(done[..], [Action::Abandon { .. }]), "{done:?}");
    let Phase::Waiting(until) = p.machine.phase() else { panic!("{:?}", p.machine) };
    p.at = until;
    assert_eq!(p.does(Event::Tick), []);
    assert!(p.machine.is_idle());
}

#[tokio::test(start_paused = true)]
async fn of_two_offers_the_lower_key_s_goes_on() {
    let (mut a, mut b) = (Player::new(A, B), Player::new(B, A));
    b.names = 100;
    let (of_a, of_b) = (a.offers(Event::Wanted), b.offers(Event::Wanted));
    assert_eq!(a.does(Event::Offer(of_b)), [], "the lower key goes on");
    let done = b.does(Event::Offer(of_a));
    let given_up = Action::Abandon { attempt: of_b, cause: Cause::Glare, tell: false };
    assert_eq!(done, [given_up, Action::Answer(of_a)]);
    a.does(Event::Answer(of_a));
    a.connects(of_a);
    b.connects(of_a);
}

#[tokio::test(start_paused = true)]
async fn a_later_offer_of_the_peer_replaces_its_earlier_one() {
    let mut p = Player::new(A, B);
    assert_eq!(p.does(Event::Offer([50; 16])), [Action::Answer([50; 16])]);
    assert_eq!(p.does(Event::Offer([50; 16])), [], "the same again is nothing");
    let replaced = Action::Abandon { attempt: [50; 16], cause: Cause::Replaced, tell: false };
    assert_eq!(p.does(Event::Offer([51; 16])), [replaced, Action::Answer([51; 16])]);
    let late =
        p.does(Event::Connected { attempt: [50; 16], relayed: false, detail: String::new() });
    assert!(matches!(late[..], [Action::Abandon { .. }]), "too late: {late:?}");
}

#[tokio::test(start_paused = true)]
async fn offers_beyond_the_rate_are_not_taken_up() {
    let mut p = Player::new(A, B);
    let taken = |p: &mut Player| {
        (0..50u8).filter(|n| !p.does(Event::Offer([100 + n; 16])).is_empty()).count()
    };
    assert_eq!(taken(&mut p), OFFER_BURST as usize);
    p.at += OFFER_EVERY * 3;
    p.machine.current = None;
    assert_eq!(taken(&mut p), 3);
}

#[tokio::test(start_paused = true)]
async fn five_quiet_minutes_end_a_path_and_traffic_keeps_it() {
    let mut p = Player::up(A, B);
    p.at += IDLE - Duration::from_secs(1);
    p.does(Event::Traffic);
    assert_eq!(p.waits(IDLE), [Action::Close(Cause::Idle)]);
    assert!(p.machine.is_idle(), "nobody seeks it before it is wanted");
    p.offers(Event::Wanted);
}

/// With a path through a TURN server, on which something is said every second.
struct Detour(Player);

impl Detour {
    /// Lets time pass and says what is to be done, at the latest then.
    fn talks(&mut self, at_most: Duration) -> (Duration, Vec<Action>) {
        let begin = self.0.at;
        while self.0.at < begin + at_most {
            self.0.at += Duration::from_secs(1);
            // One try at a time: names may come again.
            self.0.names %= 100;
            assert_eq!(self.0.does(Event::Traffic), []);
            let done = self.0.does(Event::Tick);
            if !done.is_empty() {
                return (self.0.at - begin, done);
            }
        }
        (at_most, vec![])
    }
}

fn moves(p: &mut Player, relayed: bool) -> Vec<Action> {
    p.does(Event::Moved { relayed, detail: String::new() })
}

#[tokio::test(start_paused = true)]
async fn a_better_path_than_a_detour_is_sought_while_it_is_used() {
    let (mut a, mut b) = (Detour(Player::up(A, B)), Detour(Player::up(B, A)));
    a.0.at += Duration::from_secs(60);
    b.0.at = a.0.at;
    assert_eq!((moves(&mut a.0, true), moves(&mut b.0, true)), (vec![], vec![]));
    assert_eq!(b.talks(RENEW / 2).1, [], "the higher key leaves it to the lower");
    let mut waits = Vec::new();
    for _ in 0..60 {
        let (waited, done) = a.talks(MAX_AGE);
        waits.push(waited.as_secs());
        let [Action::Seek(id)] = done[..] else { panic!("{done:?}") };
        assert_eq!(a.0.machine.direct(), Direct::Up, "messages go by the detour meanwhile");
        a.0.fails(id);
    }
    assert!(waits[..50].iter().all(|wait| *wait <= 4), "{waits:?}");
    let (waited, _) = a.talks(RENEW);
    assert!(waited <= Duration::from_secs(301), "{waited:?}");
    // It is direct again by itself: the one that is sought is not needed.
    let done = moves(&mut a.0, false);
    assert!(matches!(done[..], [Action::Abandon { tell: true, .. }]), "{done:?}");
    assert_eq!(a.talks(Duration::from_secs(600)).1, []);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_comes_back_does_not_end_the_seeking() {
    let mut a = Detour(Player::up(A, B));
    assert_eq!(moves(&mut a.0, true), []);
    for _ in 0..3 {
        let (waited, done) = a.talks(MAX_AGE);
        assert!(matches!(done[..], [Action::Seek(_)]) && waited <= Duration::from_secs(4));
        let done = a.0.does(Event::RelayUp);
        assert!(matches!(done[..], [Action::Abandon { tell: false, .. }]), "{done:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_seeks_a_better_path_for_nothing() {
    let mut a = Player::up(A, B);
    assert_eq!(moves(&mut a, true), []);
    a.at += WANTED;
    let mut ticks = 0;
    while a.at < a.start + IDLE {
        assert_eq!(a.does(Event::Tick), []);
        ticks += 1;
        let next = a.machine.deadline().expect("a deadline");
        assert!(next > a.at, "it would spin");
        a.at = next;
    }
    assert!(ticks < 8, "{ticks}");
    assert_eq!(a.does(Event::Tick), [Action::Close(Cause::Idle)]);
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_begins_by_a_detour_seeks_as_after_a_failure() {
    let mut a = Player::new(A, B);
    let id = a.offers(Event::Wanted);
    let up = Event::Connected { attempt: id, relayed: true, detail: "relayed".into() };
    assert_eq!(a.does(up), [Action::Promote(id)]);
    let mut a = Detour(a);
    let mut before = 0;
    for longest in [11, 21, 41, 81, 161, 301, 301] {
        let (waited, done) = a.talks(MAX_AGE);
        let [Action::Seek(id)] = done[..] else { panic!("{done:?}") };
        assert!(waited.as_secs() <= longest && waited.as_secs() >= before / 2, "{waited:?}");
        before = longest;
        a.0.fails(id);
    }
}

#[tokio::test(start_paused = true)]
async fn the_lower_key_renews_before_the_hour_and_the_old_path_stays_meanwhile() {
    let busy = |p: &mut Player, until: Duration| {
        while p.at + Duration::from_secs(100) < p.start + until {
            p.at += Duration::from_secs(100);
            p.does(Event::Traffic);
        }
        p.at = p.start + until;
        p.does(Event::Traffic);
        p.does(Event::Tick)
    };
    let (mut a, mut b) = (Player::up(A, B), Player::up(B, A));
    assert_eq!(busy(&mut b, RENEW), [], "the higher key leaves it to the lower");
    let done = busy(&mut a, RENEW);
    let [Action::Offer(id)] = done[..] else { panic!("{done:?}") };
    assert_eq!(a.machine.phase(), Phase::Up { renewing: true });
    assert_eq!(a.machine.direct(), Direct::Up);
    a.fails(id);
    assert_eq!(a.machine.phase(), Phase::Up { renewing: false }, "it stays");
    let done = a.waits(RENEW_AGAIN);
    let [Action::Offer(id)] = done[..] else { panic!("{done:?}") };
    assert_eq!(b.does(Event::Offer(id)), [Action::Answer(id)]);
    a.connects(id);
    // The other never got there: the old one ends at the hour.
    let done = busy(&mut b, MAX_AGE);
    assert!(done.contains(&Action::Close(Cause::TooOld)), "{done:?}");
    // The renewed one has a new hour.
    let done = busy(&mut a, MAX_AGE + Duration::from_secs(60));
    assert_eq!(done, []);
}

#[tokio::test(start_paused = true)]
async fn a_lost_path_is_sought_at_once_and_again_within_seconds() {
    let mut p = Player::up(A, B);
    p.does(Event::Traffic);
    let mut id = p.offers(Event::Lost(Cause::Silent));
    for wait in [1, 2, 3, 3] {
        p.fails(id);
        assert_eq!(p.machine.direct(), Direct::BackingOff);
        let done = p.waits(Duration::from_secs(wait));
        let [Action::Offer(next)] = done[..] else { panic!("{done:?}") };
        id = next;
    }
    p.connects(id);
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_did_not_arrive_gives_way_to_the_peers() {
    let mut p = Player::new(A, B);
    let id = p.offers(Event::Wanted);
    assert_eq!(p.does(Event::Offer([9; 16])), [], "they cross, and the lower key's goes on");
    p.at += CROSSING;
    let done = p.does(Event::Offer([8; 16]));
    let over = Action::Abandon { attempt: id, cause: Cause::Glare, tell: false };
    assert_eq!(done, [over, Action::Answer([8; 16])]);
}

#[tokio::test(start_paused = true)]
async fn late_acks_close_the_path_and_seek_another() {
    let mut p = Player::up(A, B);
    let done = p.does(Event::Demote);
    assert!(matches!(done[..], [Action::Close(Cause::LateAcks), Action::Offer(_)]), "{done:?}");
    assert_eq!(p.does(Event::Demote), [], "there is none");
}

#[tokio::test(start_paused = true)]
async fn the_peer_s_own_end_is_respected() {
    let mut p = Player::up(A, B);
    assert_eq!(p.does(Event::Lost(Cause::PeerEnded)), []);
    assert!(p.machine.is_idle());
}

#[tokio::test(start_paused = true)]
async fn another_network_starts_at_once() {
    let mut p = Player::new(A, B);
    let id = p.offers(Event::Wanted);
    p.fails(id);
    assert_eq!(p.machine.direct(), Direct::BackingOff);
    let id = p.offers(Event::NetworkChanged);
    let done = p.does(Event::NetworkChanged);
    let over = Action::Abandon { attempt: id, cause: Cause::NetworkChanged, tell: true };
    assert!(matches!(&done[..], [first, Action::Offer(_)] if *first == over), "{done:?}");
    // A path stays up while another one is made.
    let mut p = Player::up(A, B);
    p.offers(Event::NetworkChanged);
    assert_eq!(p.machine.phase(), Phase::Up { renewing: true });
    // Nobody has spoken for long: nothing to seek.
    let mut p = Player::new(A, B);
    assert_eq!(p.does(Event::NetworkChanged), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_forbidden_ends_at_once() {
    let mut p = Player::up(A, B);
    assert_eq!(p.does(Event::Forbid(Cause::Revoked)), [Action::Close(Cause::Revoked)]);
    assert!(p.machine.is_idle() && p.machine.deadline().is_none());
}

fn events() -> impl Strategy<Value = Event> {
    let id = (0..4u8).prop_map(|n| [n; 16]);
    prop_oneof![
        4 => Just(Event::Wanted),
        2 => Just(Event::Traffic),
        2 => id.clone().prop_map(Event::Offer),
        2 => id.clone().prop_map(Event::Answer),
        3 => (id.clone(), any::<bool>()).prop_map(|(attempt, relayed)| {
            Event::Connected { attempt, relayed, detail: String::new() }
        }),
        1 => any::<bool>().prop_map(|relayed| Event::Moved { relayed, detail: String::new() }),
        2 => id.prop_map(|attempt| {
            Event::Failed { attempt, cause: Cause::Handshake, detail: String::new() }
        }),
        1 => Just(Event::Lost(Cause::Silent)),
        1 => Just(Event::Demote),
        1 => Just(Event::NetworkChanged),
        1 => Just(Event::RelayUp),
        1 => Just(Event::Forbid(Cause::Forbidden)),
        4 => Just(Event::Tick),
    ]
}

proptest! {
    /// Whatever happens: at most one try, every try that began ends or is promoted, a deadline that has
    /// come is gone after a tick, and closed is only what was up.
    #[test]
    fn tries_and_paths_are_kept_in_pairs(
        lower: bool,
        steps in proptest::collection::vec((events(), 0..400u64), 1..120),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let _guard = runtime.enter();
        let (me, peer) = if lower { (A, B) } else { (B, A) };
        let mut p = Player::new(me, peer);
        let (mut running, mut up) = (None, false);
        for (event, wait) in steps {
            p.at += Duration::from_secs(wait);
            p.names %= 4;
            let ends_itself = matches!(&event, Event::Failed { attempt, .. } if running == Some(*attempt));
            let was_lost = matches!(event, Event::Lost(_));
            let ticked = event == Event::Tick;
            let done = p.does(event);
            if ends_itself { running = None; }
            if was_lost { up = false; }
            for action in done {
                match action {
                    Action::Offer(id) | Action::Seek(id) | Action::Answer(id) => {
                        prop_assert_eq!(running, None);
                        running = Some(id);
                    }
                    Action::Abandon { attempt, .. } => {
                        if running == Some(attempt) { running = None; }
                    }
                    Action::Promote(id) => {
                        prop_assert_eq!(running.take(), Some(id));
                        up = true;
                    }
                    Action::Close(_) => prop_assert!(std::mem::take(&mut up)),
                }
            }
            prop_assert_eq!(p.machine.current.map(|t| t.id), running);
            prop_assert_eq!(p.machine.path.is_some(), up);
            if ticked {
                let due = p.machine.deadline().is_some_and(|at| at <= p.at);
                prop_assert!(!due, "{:?}", p.machine);
            }
        }
    }
}
