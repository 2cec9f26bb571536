//! Groups: who is in one, and sends to all of it.

use std::sync::Arc;

use meshwire_signaling::frame::MessageState;
use meshwire_signaling::id::Blob;
use meshwire_signaling::limits::{MAX_CHANGED, MAX_GROUPS, SKEW, ms};
use meshwire_signaling::seal::Wrap;
use meshwire_signaling::{PublicKey, UnixMillis, codec};

use super::{
    LEASE, MESH, NEW, NOW, accept, answer, claim, claim_of, delivery, found, ids, key, member, plan,
};
use crate::core::accept::{Plan, Recipients};
use crate::store::{
    Accepted, Claim, MAX_LEAVES, MAX_QUEUE_PER_AUTHOR, MemberRow, SetGroup, Store, Swept,
};

fn wrap(to: PublicKey) -> Wrap {
    Wrap { to, key: Blob(vec![to.0[0]; 72]) }
}

fn to_group(name: &str, to: &[PublicKey]) -> Recipients {
    Recipients::Group { name: name.into(), wraps: to.iter().copied().map(wrap).collect() }
}

/// From member 1.
fn group_plan(name: &str, to: &[u8], id: u64) -> Plan {
    let to: Vec<_> = to.iter().copied().map(key).collect();
    Plan { to: to_group(name, &to), ..plan(1, 0, id) }
}

fn changed(missing: &[u8], gone: &[u8]) -> Accepted {
    let keys = |list: &[u8]| list.iter().copied().map(key).collect();
    Accepted::RecipientsChanged { missing: keys(missing), gone: keys(gone) }
}

async fn word(store: &dyn Store, of: u8, group: &str, joined: bool, at: UnixMillis) -> SetGroup {
    let statement = format!("{of} {group} {joined} {at}").into_bytes();
    let role = joined.then_some("lead");
    let mut tx = store.begin().await.unwrap();
    let set = tx.set_group(&MESH, &key(of), group, role, joined, at, &statement).await.unwrap();
    tx.commit().await.unwrap();
    set
}

async fn joins(store: &dyn Store, of: u8, group: &str) {
    assert_eq!(word(store, of, group, true, NOW).await, SetGroup::Done);
}

async fn hide(store: &dyn Store, of: u8, hidden: bool) {
    let mut tx = store.begin().await.unwrap();
    tx.set_about(&MESH, &key(of), b"about", hidden).await.unwrap();
    tx.commit().await.unwrap();
}

async fn sweep(store: &dyn Store, at: UnixMillis) -> Swept {
    let mut tx = store.begin().await.unwrap();
    let swept = tx.sweep(at).await.unwrap();
    tx.commit().await.unwrap();
    swept
}

/// Of two statements the later one counts; leaves are remembered; both are bounded.
pub async fn statements(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    assert_eq!(word(s, 2, "ops", true, 10).await, SetGroup::Done);
    assert_eq!(word(s, 2, "ops", true, 10).await, SetGroup::Done, "the very same again");
    assert_eq!(word(s, 2, "ops", false, 10).await, SetGroup::Stale, "another of the same time");
    assert_eq!(word(s, 2, "ops", true, 9).await, SetGroup::Stale);
    assert_eq!(word(s, 2, "dev/a", true, 1).await, SetGroup::Done);
    assert_eq!(word(s, 3, "ops", true, 1).await, SetGroup::Done);
    let of = async |keys: &[u8]| {
        let keys: Vec<_> = keys.iter().copied().map(key).collect();
        let found = s.groups_of(&MESH, &keys).await.unwrap();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        found.into_iter().map(|(k, w)| (k.0[0], text(w))).collect::<Vec<_>>()
    };
    let (dev, ops) = ("2 dev/a true 1".to_owned(), "2 ops true 10".to_owned());
    let other = (3, "3 ops true 1".to_owned());
    assert_eq!(of(&[3, 2, 9]).await, vec![(2, dev.clone()), (2, ops), other.clone()]);
    assert_eq!(word(s, 2, "ops", false, 11).await, SetGroup::Done);
    assert_eq!(word(s, 2, "ops", true, 10).await, SetGroup::Stale, "an old join comes back not");
    assert_eq!(of(&[2, 3]).await, vec![(2, dev), other]);
    assert_eq!(word(s, 2, "ops", true, 12).await, SetGroup::Done, "but a new one does");
    for i in 2..MAX_GROUPS {
        assert_eq!(word(s, 2, &format!("g{i}"), true, 1).await, SetGroup::Done);
    }
    assert_eq!(word(s, 2, "more", true, 1).await, SetGroup::TooMany);
    assert_eq!(word(s, 2, "g2", true, 2).await, SetGroup::Done, "it is in that one");
    assert_eq!(word(s, 2, "g2", false, 3).await, SetGroup::Done);
    assert_eq!(word(s, 2, "more", true, 1).await, SetGroup::Done);
    // The oldest leaves are forgotten.
    for i in 0..=u64::from(MAX_LEAVES) {
        assert_eq!(word(s, 3, &format!("g{i}"), false, 100 + i).await, SetGroup::Done);
    }
    assert_eq!(word(s, 3, "g1", true, 50).await, SetGroup::Stale);
    assert_eq!(word(s, 3, "g0", true, 50).await, SetGroup::Done);
    assert_eq!(of(&[3]).await.len(), 2);
}

/// The wraps must be for those who are in the group now; a refusal leaves nothing behind.
pub async fn group_recipients(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    let mut tx = s.begin().await.unwrap();
    tx.add_member(&member(4)).await.unwrap();
    tx.commit().await.unwrap();
    let send = async |name: &str, to: &[u8], id: u64| accept(s, &group_plan(name, to, id)).await;
    assert_eq!(send("all", &[2, 3], 1).await, changed(&[4], &[]));
    assert_eq!(send("all", &[2, 4, 9], 1).await, changed(&[3], &[9]));
    assert_eq!(send("all", &[], 1).await, changed(&[2, 3, 4], &[]));
    hide(s, 3, true).await;
    assert_eq!(send("all", &[2, 3, 4], 1).await, changed(&[], &[3]), "hidden");
    assert_eq!(send("all", &[2, 4], 1).await, NEW);
    hide(s, 3, false).await;
    let again = Accepted::Duplicate(MessageState::Relayed);
    assert_eq!(send("all", &[2, 4], 1).await, again, "whoever is there since");
    assert_eq!(send("ops", &[], 2).await, Accepted::UnknownTarget);
    assert_eq!(send("ops", &[2], 2).await, Accepted::UnknownTarget);
    joins(s, 1, "ops").await;
    assert_eq!(send("ops", &[], 2).await, Accepted::UnknownTarget, "the author alone");
    joins(s, 3, "ops").await;
    assert_eq!(send("ops", &[3], 2).await, NEW);
    // A session's member is left out, whatever its own key is.
    let by_session = |to: &[u8]| Plan { author: key(50), ..group_plan("all", to, 3) };
    assert_eq!(accept(s, &by_session(&[1, 2, 3, 4])).await, changed(&[], &[1]));
    assert_eq!(accept(s, &by_session(&[2, 3, 4])).await, NEW);
    assert_eq!(s.queue_depth().await.unwrap(), 6);
}

/// Inventory appendix 7, defect 1: members that are away get theirs.
pub async fn defect_1_offline_recipients_of_a_group_send_keep_theirs(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    let send = group_plan("all", &[2, 3], 1);
    assert_eq!(accept(s, &send).await, NEW);
    let of_2 = claim(s, claim_of(2, 1, NOW, 9)).await;
    assert_eq!(of_2[0].wrap, Some(codec::to_msgpack(&wrap(key(2)))), "its own wrap");
    assert!(answer(s, delivery(1, 2, 1), Some(b"r2")).await);
    assert_eq!(accept(s, &send).await, Accepted::Duplicate(MessageState::Relayed));
    // Much later.
    let of_3 = claim(s, claim_of(3, 2, NOW + 3 * LEASE, 9)).await;
    assert_eq!((of_3.len(), &of_3[0].envelope), (1, &send.envelope));
    assert_eq!(of_3[0].wrap, Some(codec::to_msgpack(&wrap(key(3)))));
    assert!(answer(s, delivery(1, 3, 1), Some(b"r3")).await);
    assert_eq!(accept(s, &send).await, Accepted::Duplicate(MessageState::Delivered));
    let receipts = s.receipts(&MESH, &key(1), None, 9).await.unwrap();
    let receipts: Vec<_> = receipts.iter().map(|r| r.receipt.as_slice()).collect();
    assert_eq!(receipts, [b"r2", b"r3"], "one of each");
    assert_eq!(s.queue_depth().await.unwrap(), 0);
}

/// Inventory appendix 7, defect 4: who is in a group below is reached, and nobody else.
pub async fn defect_4_a_group_reaches_those_below_it(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    let groups = ["ops/db/backup", "ops", "opsen", "ops-x/db", "ops.a", "ops0", "dev/ops"];
    for (n, group) in (2..).zip(groups) {
        if n > 3 {
            let mut tx = s.begin().await.unwrap();
            tx.add_member(&member(n)).await.unwrap();
            tx.commit().await.unwrap();
        }
        joins(s, n, group).await;
    }
    joins(s, 2, "ops/x").await;
    assert_eq!(accept(s, &group_plan("ops", &[], 1)).await, changed(&[2, 3], &[]));
    assert_eq!(accept(s, &group_plan("ops/db", &[], 1)).await, changed(&[2], &[]));
    assert_eq!(accept(s, &group_plan("ops/d", &[], 1)).await, Accepted::UnknownTarget);
    assert_eq!(accept(s, &group_plan("ops", &[2, 3], 1)).await, NEW);
    assert_eq!(ids(&claim(s, claim_of(2, 1, NOW, 9)).await), vec![1], "once");
    assert_eq!(word(s, 2, "ops/db/backup", false, NOW + 1).await, SetGroup::Done);
    assert_eq!(accept(s, &group_plan("ops", &[2, 3], 2)).await, NEW, "still in ops/x");
    assert_eq!(word(s, 2, "ops/x", false, NOW + 1).await, SetGroup::Done);
    assert_eq!(accept(s, &group_plan("ops", &[2, 3], 3)).await, changed(&[], &[2]));
}

/// Inventory appendix 7, defect 16: an answer ends the answerer's own delivery, no other.
pub async fn defect_16_an_answer_ends_one_recipients_delivery(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    assert_eq!(accept(s, &group_plan("all", &[2, 3], 1)).await, NEW);
    assert_eq!(accept(s, &group_plan("all", &[2, 3], 2)).await, NEW);
    for stranger in [1, 9] {
        assert!(!answer(s, delivery(1, stranger, 1), Some(b"x")).await);
    }
    assert!(answer(s, delivery(1, 2, 1), Some(b"r")).await);
    assert!(!answer(s, delivery(1, 2, 1), None).await, "the first verdict stands");
    assert_eq!(ids(&claim(s, claim_of(2, 1, NOW, 9)).await), vec![2]);
    assert_eq!(ids(&claim(s, claim_of(3, 2, NOW, 9)).await), vec![1, 2]);
    // Nor does a confirmation take another's receipt along.
    assert!(answer(s, delivery(1, 3, 1), Some(b"r")).await);
    let mut tx = s.begin().await.unwrap();
    tx.confirm(&delivery(1, 2, 1)).await.unwrap();
    tx.commit().await.unwrap();
    let left = s.receipts(&MESH, &key(1), None, 9).await.unwrap();
    assert_eq!(left.iter().map(|r| r.place.1).collect::<Vec<_>>(), vec![key(3)]);
}

/// A group send goes past full mailboxes, and says whose they are.
pub async fn group_sends_pass_full_mailboxes(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    let mut tx = s.begin().await.unwrap();
    // By the member and by a session of it: they share.
    for id in 0..MAX_QUEUE_PER_AUTHOR as u64 {
        let author = key(if id % 2 == 0 { 1 } else { 50 });
        assert_eq!(tx.accept(&Plan { author, ..plan(1, 2, id + 1) }, NOW).await.unwrap(), NEW);
    }
    tx.commit().await.unwrap();
    let send = group_plan("all", &[2, 3], 1 << 20);
    assert_eq!(accept(s, &send).await, Accepted::New { full: vec![key(2)] });
    assert_eq!(accept(s, &send).await, Accepted::Duplicate(MessageState::Relayed));
    let all = MAX_QUEUE_PER_AUTHOR as u64 + 1;
    assert_eq!(s.queue_depth().await.unwrap(), all, "one more, for 3");
    assert!(!answer(s, delivery(1, 2, 1 << 20), Some(b"r")).await, "it waits not for 2");
    assert!(answer(s, delivery(1, 3, 1 << 20), Some(b"r")).await);
    assert_eq!(accept(s, &send).await, Accepted::Duplicate(MessageState::Failed));
    assert_eq!(s.receipts(&MESH, &key(1), None, 9).await.unwrap().len(), 1, "no receipt by 2");
    // Nobody would get it: a refusal, with nothing left behind.
    joins(s, 2, "ops").await;
    let send = group_plan("ops", &[2], 1 << 21);
    assert_eq!(accept(s, &send).await, Accepted::QueueFull);
    assert!(answer(s, delivery(1, 2, 1), None).await);
    assert_eq!(accept(s, &send).await, NEW);
    // What has expired but was not swept yet takes no room.
    let later = Plan { expires_at: NOW + 900_000, ..group_plan("all", &[2, 3], 1 << 22) };
    let mut tx = s.begin().await.unwrap();
    assert_eq!(tx.accept(&later, NOW + 100_000).await.unwrap(), NEW);
    tx.commit().await.unwrap();
}

/// An envelope stands where its least advanced recipient does.
pub async fn group_states(store: Arc<dyn Store>) {
    let s = store.as_ref();
    found(s).await;
    for id in 1..=3 {
        assert_eq!(accept(s, &group_plan("all", &[2, 3], id)).await, NEW);
    }
    let state = async |id: u64| {
        let id = group_plan("all", &[], id).id;
        s.accepted(&MESH, &key(1), &id).await.unwrap().map(|(_, state)| state)
    };
    for (id, receipt) in [(1, Some(&b"r"[..])), (2, None), (3, Some(b"r"))] {
        assert!(answer(s, delivery(1, 2, id), receipt).await);
        assert_eq!(state(id).await, Some(MessageState::Relayed));
    }
    for id in [1, 2] {
        assert!(answer(s, delivery(1, 3, id), Some(b"r")).await);
    }
    assert_eq!(state(1).await, Some(MessageState::Delivered));
    assert_eq!(state(2).await, Some(MessageState::Failed));
    assert_eq!(sweep(s, NOW + 100_000).await.expired, 1);
    assert_eq!(state(3).await, Some(MessageState::Expired));
    assert_eq!(sweep(s, NOW + 100_000 + ms(SKEW)).await.forgotten, 3);
    assert_eq!(state(1).await, None);
}

/// Recipients by the thousand: all get theirs, changes are named by the page, sweeps come to an end.
pub async fn big_groups(store: Arc<dyn Store>) {
    const MANY: u16 = 1_500;
    let s = store.as_ref();
    found(s).await;
    let big = |n: u16| {
        let mut bytes = [100; 32];
        bytes[1..3].copy_from_slice(&n.to_be_bytes());
        PublicKey(bytes)
    };
    let mut tx = s.begin().await.unwrap();
    for n in 0..MANY {
        let row = MemberRow { key: big(n), name: format!("b{n}"), ..member(9) };
        tx.add_member(&row).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut all: Vec<_> = [key(2), key(3)].into_iter().chain((0..MANY).map(big)).collect();
    all.sort_unstable();
    let send = |to: &[PublicKey]| Plan { to: to_group("all", to), ..plan(1, 0, 1) };
    let missing = all[..MAX_CHANGED].to_vec();
    let page = Accepted::RecipientsChanged { missing, gone: vec![] };
    assert_eq!(accept(s, &send(&[])).await, page);
    let rest = Accepted::RecipientsChanged { missing: all[1_000..].to_vec(), gone: vec![] };
    assert_eq!(accept(s, &send(&all[..1_000])).await, rest);
    assert_eq!(accept(s, &send(&all)).await, NEW);
    assert_eq!(s.queue_depth().await.unwrap(), all.len() as u64);
    let last = *all.last().unwrap();
    let got = claim(s, Claim { recipient: last, ..claim_of(2, 1, NOW, 9) }).await;
    assert_eq!(got[0].wrap, Some(codec::to_msgpack(&wrap(last))));
    let id = send(&[]).id;
    let over = NOW + 100_000 + ms(SKEW);
    let mut expired = 0;
    for _ in 0..10 {
        let swept = sweep(s, over).await;
        expired += swept.expired;
        if !swept.more {
            assert_eq!(s.accepted(&MESH, &key(1), &id).await.unwrap(), None);
            break;
        }
    }
    assert_eq!((expired, s.queue_depth().await.unwrap()), (all.len() as u64, 0));
}
