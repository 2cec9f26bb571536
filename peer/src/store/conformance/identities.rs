//! Sessions, presence, groups.

use meshwire_signaling::attest::Capabilities;
use meshwire_signaling::frame::{Profile, Status};
use meshwire_signaling::group::{GroupAction, GroupStatement};

use super::super::{
    GroupRow, InboxFilter, MAX_LEFT_GROUPS, PresenceRow, Pruned, RETENTION_MS, SessionRow, Viewer,
};
use super::*;

fn session(n: u8) -> SessionRow {
    SessionRow {
        mesh: mesh(1),
        key: public(n),
        name: format!("agent{n}"),
        capabilities: Capabilities::List(vec!["dm".into()]),
        pid: 4_000_000_000 + u32::from(n),
        process_start: 77,
        token_hash: Hash([n; 32]),
        started_at: NOW + u64::from(n),
    }
}

fn presence(n: u8) -> PresenceRow {
    PresenceRow {
        mesh: mesh(1),
        key: public(n),
        status: Status::Dnd,
        status_until: Some(NOW + 5),
        summary: Some("moves the backups".into()),
        profile: Some(Profile { title: Some("ops".into()), ..Profile::default() }),
        visible: false,
    }
}

pub async fn sessions_come_and_go_with_what_they_said_and_read(store: Subject) {
    seed(&store).await;
    let all = SessionRow { capabilities: Capabilities::All, mesh: mesh(2), ..session(30) };
    for row in [&session(32), &session(31), &all] {
        store.session_insert(row).await.unwrap();
    }
    let changed = SessionRow { name: "other".into(), ..session(31) };
    store.session_insert(&changed).await.unwrap();
    assert_eq!(store.session_list(Some(&mesh(1))).await.unwrap(), [changed.clone(), session(32)]);
    assert_eq!(store.session_list(None).await.unwrap(), [all, changed, session(32)]);
    let nowhere = store.session_insert(&SessionRow { mesh: mesh(9), ..session(33) }).await;
    assert!(matches!(nowhere, Err(StoreError::UnknownMesh(m)) if m == mesh(9)));

    let row = arrive(&store, item(60, 1)).await;
    store.surface(&[row], NOW).await.unwrap();
    let unread = InboxFilter {
        viewer: Viewer::Session(public(31)),
        unread: true,
        limit: 9,
        ..Default::default()
    };
    assert_eq!(store.inbox_list(&unread, Some(NOW)).await.unwrap().len(), 1);
    assert!(store.inbox_list(&unread, None).await.unwrap().is_empty());
    store.presence_put(&presence(31)).await.unwrap();
    assert!(store.session_remove(&mesh(1), &public(31)).await.unwrap());
    assert!(!store.session_remove(&mesh(1), &public(31)).await.unwrap());
    assert_eq!(store.presence_get(&mesh(1), &public(31)).await.unwrap(), None);
    assert_eq!(store.inbox_list(&unread, None).await.unwrap().len(), 1);
    assert_eq!(store.session_list(Some(&mesh(1))).await.unwrap(), [session(32)]);
    store.mesh_remove(&mesh(1)).await.unwrap();
    assert_eq!(store.session_list(None).await.unwrap().len(), 1);
}

pub async fn ended_sessions_are_remembered_for_their_time(store: Subject) {
    seed(&store).await;
    store.session_end(&mesh(1), &public(31), NOW).await.unwrap();
    store.session_end(&mesh(1), &public(31), NOW + 1).await.unwrap();
    store.session_end(&mesh(2), &public(32), NOW + 5).await.unwrap();
    assert!(store.session_end(&mesh(9), &public(31), NOW).await.is_err());
    assert_eq!(store.ended_list(&mesh(1)).await.unwrap(), [(public(31), NOW + 1)]);
    store.prune(NOW + 2 + RETENTION_MS).await.unwrap();
    assert!(store.ended_list(&mesh(1)).await.unwrap().is_empty());
    assert_eq!(store.ended_list(&mesh(2)).await.unwrap(), [(public(32), NOW + 5)]);
    // One whose row is still there has not ended for good.
    store.session_insert(&session(33)).await.unwrap();
    store.presence_put(&PresenceRow { key: public(33), ..presence(33) }).await.unwrap();
    store.session_end(&mesh(1), &public(33), NOW).await.unwrap();
    assert_eq!(store.presence_get(&mesh(1), &public(33)).await.unwrap(), None);
    store.prune(NOW + 1 + RETENTION_MS).await.unwrap();
    assert_eq!(store.ended_list(&mesh(1)).await.unwrap(), [(public(33), NOW)]);
    assert_eq!(store.session_list(Some(&mesh(1))).await.unwrap(), [session(33)]);
    store.session_remove(&mesh(1), &public(33)).await.unwrap();
    store.prune(NOW + 1 + RETENTION_MS).await.unwrap();
    assert!(store.ended_list(&mesh(1)).await.unwrap().is_empty());
    store.mesh_remove(&mesh(2)).await.unwrap();
    assert!(store.ended_list(&mesh(2)).await.unwrap().is_empty());
}

pub async fn presence_comes_back_as_it_was(store: Subject) {
    seed(&store).await;
    assert_eq!(store.presence_get(&mesh(1), &public(1)).await.unwrap(), None);
    store.presence_put(&presence(1)).await.unwrap();
    assert_eq!(store.presence_get(&mesh(1), &public(1)).await.unwrap(), Some(presence(1)));
    let plain = PresenceRow {
        status: Status::Idle,
        status_until: None,
        summary: None,
        profile: None,
        visible: true,
        ..presence(1)
    };
    store.presence_put(&plain).await.unwrap();
    assert_eq!(store.presence_get(&mesh(1), &public(1)).await.unwrap(), Some(plain));
    assert_eq!(store.presence_get(&mesh(2), &public(1)).await.unwrap(), None);
    let nowhere = store.presence_put(&PresenceRow { mesh: mesh(9), ..presence(1) }).await;
    assert!(matches!(nowhere, Err(StoreError::UnknownMesh(_))));
    store.mesh_remove(&mesh(1)).await.unwrap();
    store.mesh_insert(&mesh_row(1), instance(1)).await.unwrap();
    assert_eq!(store.presence_get(&mesh(1), &public(1)).await.unwrap(), None);
}

fn group(n: u8, name: &str, joined: bool, at: u64) -> GroupRow {
    let action = if joined { GroupAction::Join } else { GroupAction::Leave };
    let role = joined.then(|| format!("role{at}"));
    let statement = GroupStatement {
        mesh: mesh(1),
        member: public(n),
        group: name.into(),
        action,
        role: role.clone(),
        at,
    };
    GroupRow {
        mesh: mesh(1),
        member: public(n),
        name: name.into(),
        role,
        joined,
        at,
        statement: statement.sign(&key(n)),
    }
}

pub async fn the_newest_group_statement_counts(store: Subject) {
    seed(&store).await;
    assert!(store.group_put(&group(60, "ops", true, 5)).await.unwrap());
    assert!(!store.group_put(&group(60, "ops", false, 5)).await.unwrap(), "as new is not newer");
    assert!(!store.group_put(&group(60, "ops", false, 4)).await.unwrap());
    assert!(store.group_put(&group(60, "dev", true, 1)).await.unwrap());
    assert!(store.group_put(&group(61, "ops", true, 1)).await.unwrap());
    let mut expected =
        vec![group(60, "dev", true, 1), group(60, "ops", true, 5), group(61, "ops", true, 1)];
    expected.sort_by(|a, b| (&a.name, a.member).cmp(&(&b.name, b.member)));
    assert_eq!(store.groups(&mesh(1)).await.unwrap(), expected);
    assert!(store.group_put(&group(60, "ops", false, 6)).await.unwrap());
    let left = store.groups(&mesh(1)).await.unwrap();
    let left = left.iter().find(|g| g.member == public(60) && g.name == "ops").unwrap();
    assert_eq!(*left, group(60, "ops", false, 6), "who has left is remembered");
    assert!(!store.group_put(&group(60, "ops", true, 5)).await.unwrap(), "and does not come back");
    assert!(store.groups(&mesh(2)).await.unwrap().is_empty());
    let nowhere = store.group_put(&GroupRow { mesh: mesh(9), ..group(60, "ops", true, 9) }).await;
    assert!(matches!(nowhere, Err(StoreError::UnknownMesh(_))));
    store.mesh_remove(&mesh(1)).await.unwrap();
    assert!(store.groups(&mesh(1)).await.unwrap().is_empty());
}

pub async fn groups_follow_the_carriers_list_as_far_as_members_say_so(store: Subject) {
    seed(&store).await;
    let sync =
        async |listed: &[GroupRow]| store.group_sync(&mesh(1), &public(60), listed).await.unwrap();
    let joined = async || {
        let all = store.groups(&mesh(1)).await.unwrap();
        let mine = all.into_iter().filter(|g| g.joined && g.member == public(60));
        mine.map(|g| g.name).collect::<Vec<_>>()
    };
    store.group_put(&group(61, "ops", true, 1)).await.unwrap();
    let (ops, dev) = (group(60, "ops", true, 5), group(60, "dev", true, 5));
    assert!(sync(&[ops.clone(), dev.clone()]).await);
    assert!(!sync(&[ops.clone(), dev.clone()]).await, "nothing new");
    assert_eq!(joined().await, ["dev", "ops"]);
    // No more listed: left, as far as the carrier says.
    assert!(sync(std::slice::from_ref(&dev)).await);
    assert_eq!(joined().await, ["dev"]);
    assert!(sync(&[ops.clone(), dev.clone()]).await, "listed again by the same statement");
    assert_eq!(joined().await, ["dev", "ops"]);
    // What the member took back stays so.
    assert!(sync(&[group(60, "ops", false, 6), dev.clone()]).await);
    assert!(!sync(&[ops.clone(), dev.clone()]).await);
    assert_eq!(joined().await, ["dev"]);
    let others = store.groups(&mesh(1)).await.unwrap();
    assert!(others.iter().any(|g| g.joined && g.member == public(61)), "others stay");

    // Left groups are remembered, but not without end.
    for n in 0..MAX_LEFT_GROUPS as u64 + 10 {
        sync(&[group(60, &format!("g{n}"), true, 100 + n)]).await;
    }
    let all = store.groups(&mesh(1)).await.unwrap();
    let left: Vec<_> = all.iter().filter(|g| g.member == public(60) && !g.joined).collect();
    assert_eq!(left.len(), MAX_LEFT_GROUPS);
    assert!(left.iter().all(|g| g.at > 100), "the oldest are forgotten");
}

pub async fn each_viewer_sees_and_reads_for_itself(store: Subject) {
    seed(&store).await;
    let (a, b) = (public(31), public(32));
    let mail = [
        item(60, 1),
        Item { recipient: a, target: Target::Session { key: a }, ..item(60, 2) },
        Item { recipient: b, target: Target::Session { key: b }, ..item(60, 3) },
        Item {
            channel: Channel::Group,
            target: Target::Group { name: "ops".into() },
            ..item(60, 4)
        },
    ];
    let mut rows = Vec::new();
    for item in mail {
        rows.push(arrive(&store, item).await);
    }
    store.surface(&rows, NOW + 9).await.unwrap();
    let list = async |viewer, unread, mark| {
        let filter = InboxFilter { viewer, unread, limit: 100, ..Default::default() };
        let rows = store.inbox_list(&filter, mark).await.unwrap();
        rows.iter().map(|row| row.item.seq).collect::<Vec<_>>()
    };
    let of = async |viewer| list(viewer, false, None).await;
    assert_eq!(of(Viewer::Everything).await, [1, 2, 3, 4]);
    assert_eq!(of(Viewer::Member).await, [1, 4]);
    assert_eq!(of(Viewer::Session(a)).await, [1, 2, 4]);
    assert_eq!(of(Viewer::SessionAlone(b)).await, [3]);

    // A session's reading marks it for that session alone.
    assert_eq!(list(Viewer::Session(a), true, Some(NOW + 20)).await, [1, 2, 4]);
    assert!(list(Viewer::Session(a), true, None).await.is_empty());
    assert_eq!(list(Viewer::Session(b), true, None).await, [1, 3, 4]);
    assert_eq!(list(Viewer::Member, true, Some(NOW + 30)).await, [1, 4]);
    assert!(list(Viewer::Member, true, None).await.is_empty());
    assert_eq!(list(Viewer::Everything, true, None).await, [2, 3]);
    assert_eq!(list(Viewer::Session(b), true, None).await, [1, 3, 4]);
    let newest = InboxFilter {
        viewer: Viewer::Session(b),
        unread: true,
        newest: true,
        limit: 2,
        ..Default::default()
    };
    let rows = store.inbox_list(&newest, None).await.unwrap();
    assert_eq!(rows.iter().map(|r| r.item.seq).collect::<Vec<_>>(), [3, 4]);

    // Each sees when it has read it itself, and the first time counts.
    let seen = async |viewer| {
        let filter = InboxFilter { viewer, limit: 100, ..Default::default() };
        let rows = store.inbox_list(&filter, Some(NOW + 99)).await.unwrap();
        rows.iter().map(|row| row.seen_at).collect::<Vec<_>>()
    };
    assert_eq!(seen(Viewer::Session(a)).await, [Some(NOW + 20); 3]);
    assert_eq!(seen(Viewer::Session(a)).await, [Some(NOW + 20); 3]);
    assert_eq!(seen(Viewer::Member).await, [Some(NOW + 30); 2]);
    assert_eq!(seen(Viewer::SessionAlone(b)).await, [None]);

    // It is forgotten with the message.
    let pruned = store.prune(NOW + 10 + RETENTION_MS).await.unwrap();
    assert_eq!(pruned, Pruned { inbox: 4, seen: 4, ..Default::default() });
    assert!(of(Viewer::Everything).await.is_empty());
}

pub async fn lists_may_be_cut_by_time(store: Subject) {
    seed(&store).await;
    let mut rows = Vec::new();
    for seq in 1..=4 {
        rows.push(arrive(&store, item(60, seq)).await);
    }
    store.surface(&rows, NOW).await.unwrap();
    let list = async |since: Option<u64>, before: Option<u64>| {
        let filter = InboxFilter { since, before, limit: 100, ..Default::default() };
        let rows = store.inbox_list(&filter, None).await.unwrap();
        rows.iter().map(|row| row.item.seq).collect::<Vec<_>>()
    };
    assert_eq!(list(Some(NOW + 2), None).await, [2, 3, 4]);
    assert_eq!(list(None, Some(NOW + 2)).await, [1]);
    assert_eq!(list(Some(NOW + 2), Some(NOW + 4)).await, [2, 3]);
    assert!(list(Some(NOW + 3), Some(NOW + 3)).await.is_empty());
}

pub async fn what_an_ended_session_has_not_read_is_its_members(store: Subject) {
    seed(&store).await;
    let (agent, other) = (public(31), public(32));
    let mut rows = Vec::new();
    for (seq, recipient) in [(1, agent), (2, agent), (3, agent), (4, other), (5, agent)] {
        let target = Target::Session { key: recipient };
        rows.push(arrive(&store, Item { recipient, target, ..item(60, seq) }).await);
    }
    // The third surfaces before the second; the last is held.
    for row in [0, 2, 1, 3] {
        store.surface(&[rows[row]], NOW).await.unwrap();
    }
    let of = |viewer| InboxFilter { viewer, unread: true, limit: 9, ..Default::default() };
    let list = async |viewer, seen| {
        let listed = store.inbox_list(&of(viewer), seen).await.unwrap();
        listed.iter().map(|r| (r.item.seq, r.item.recipient, r.handed_on)).collect::<Vec<_>>()
    };
    let one = InboxFilter { limit: 1, ..of(Viewer::SessionAlone(agent)) };
    assert_eq!(store.inbox_list(&one, Some(NOW)).await.unwrap()[0].item.seq, 1);
    assert!(list(Viewer::Member, None).await.is_empty());

    let shown = store.session_end(&mesh(1), &agent, NOW + 9).await.unwrap();
    let to = shown.iter().map(|a| (a.waiting.row, a.to.key)).collect::<Vec<_>>();
    assert_eq!(to, [(rows[2], public(1)), (rows[1], public(1))]);
    // What a restart finds.
    let held = store.held().await.unwrap();
    let to = held.iter().map(|a| (a.waiting.row, a.to.key)).collect::<Vec<_>>();
    assert_eq!(to, [rows[1], rows[2], rows[4]].map(|row| (row, public(1))));
    assert!(store.session_end(&mesh(1), &agent, NOW + 10).await.unwrap().is_empty(), "once");
    // What was under way when it ended.
    let target = Target::Session { key: agent };
    let late = arrive(&store, Item { recipient: agent, target, ..item(60, 6) }).await;
    let places = store.surface(&[rows[2], rows[1], rows[4], late], NOW + 11).await.unwrap();
    assert_eq!(places.iter().map(|r| r.order).collect::<Vec<_>>(), [5, 6, 7, 8].map(Some));
    assert!(store.held().await.unwrap().is_empty());

    let theirs = [3, 2, 5, 6].map(|seq| (seq, agent, true));
    assert_eq!(list(Viewer::Session(other), None).await[1..], theirs, "a sibling reads for it too");
    assert_eq!(list(Viewer::Member, Some(NOW + 12)).await, theirs);
    assert!(list(Viewer::Member, None).await.is_empty(), "seen");
    assert_eq!(list(Viewer::SessionAlone(other), None).await, [(4, other, false)]);
}
