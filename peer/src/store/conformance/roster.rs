//! Members and names.

use super::super::{NewMember, PinOutcome};
use super::*;

fn member(n: u8, name: &str) -> NewMember {
    NewMember {
        mesh: mesh(1),
        key: public(n),
        name: name.into(),
        role: Role::Member,
        chain: chain(n),
        now: NOW + u64::from(n),
    }
}

async fn upsert(store: &Subject, member: &NewMember) -> PinOutcome {
    store.upsert_member(member).await.unwrap()
}

pub async fn members_come_back_as_they_were(store: Subject) {
    seed(&store).await;
    assert_eq!(upsert(&store, &member(60, "bob")).await, PinOutcome::New);
    let row = store.member(&mesh(1), &public(60)).await.unwrap().unwrap();
    assert_eq!((row.mesh, row.key, row.name.as_str()), (mesh(1), public(60), "bob"));
    assert_eq!((row.role, row.first_seen_at), (Role::Member, NOW + 60));
    assert_eq!(row.fingerprint, chain(60).fingerprint());
    assert_eq!(store.member_chain(&mesh(1), &public(60)).await.unwrap(), Some(chain(60)));
    assert_eq!(store.member(&mesh(2), &public(60)).await.unwrap(), None);
    assert_eq!(store.member_chain(&mesh(1), &public(61)).await.unwrap(), None);

    let promoted =
        NewMember { role: Role::Admin, chain: chain(61), now: NOW + 999, ..member(60, "bob") };
    assert_eq!(upsert(&store, &promoted).await, PinOutcome::Same);
    let row = store.member(&mesh(1), &public(60)).await.unwrap().unwrap();
    assert_eq!((row.role, row.first_seen_at), (Role::Admin, NOW + 60));
    assert_eq!(row.fingerprint, chain(61).fingerprint());
}

pub async fn names_are_pinned_at_first_contact_and_changes_are_loud(store: Subject) {
    seed(&store).await;
    assert_eq!(upsert(&store, &member(60, "bob")).await, PinOutcome::New);
    assert_eq!(upsert(&store, &member(60, "bob")).await, PinOutcome::Same);

    // Another key under a known name.
    let taken = PinOutcome::KeyChanged { name: "bob".into(), pinned_key: public(60) };
    assert_eq!(upsert(&store, &member(61, "bob")).await, taken);
    assert_eq!(store.members_like(None, "bob").await.unwrap().len(), 2, "both are listed");

    // A key under another name: the old one stays its own.
    let renamed = PinOutcome::NameChanged { old_name: "bob".into() };
    assert_eq!(upsert(&store, &member(60, "rob")).await, renamed);
    assert_eq!(upsert(&store, &member(60, "rob")).await, PinOutcome::Same);
    let taken = PinOutcome::KeyChanged { name: "bob".into(), pinned_key: public(60) };
    assert_eq!(upsert(&store, &member(62, "bob")).await, taken);

    // A renamed key under another's name is the louder of the two.
    let taken = PinOutcome::KeyChanged { name: "rob".into(), pinned_key: public(60) };
    assert_eq!(upsert(&store, &member(62, "rob")).await, taken);

    // Names belong to a mesh.
    let elsewhere = NewMember { mesh: mesh(2), ..member(63, "bob") };
    assert_eq!(upsert(&store, &elsewhere).await, PinOutcome::New);
    let nowhere = store.upsert_member(&NewMember { mesh: mesh(9), ..member(63, "bob") }).await;
    assert!(matches!(nowhere, Err(StoreError::UnknownMesh(m)) if m == mesh(9)));
}

pub async fn members_are_listed_by_name_and_found_by_key(store: Subject) {
    seed(&store).await;
    for (n, name) in [(60, "zoe"), (61, "bob"), (62, "ana")] {
        upsert(&store, &member(n, name)).await;
    }
    upsert(&store, &NewMember { mesh: mesh(2), ..member(63, "bob") }).await;
    let names = |rows: Vec<super::super::MemberRow>| {
        rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
    };
    assert_eq!(names(store.members(Some(&mesh(1))).await.unwrap()), ["ana", "bob", "zoe"]);
    assert_eq!(store.members(None).await.unwrap().len(), 4);
    let like = async |mesh: Option<MeshId>, text: &str| {
        names(store.members_like(mesh.as_ref(), text).await.unwrap())
    };
    assert_eq!(like(None, "bob").await, ["bob", "bob"]);
    assert_eq!(like(Some(mesh(1)), "bob").await, ["bob"]);
    let hex = public(60).to_string();
    for len in [4, 8, 9, 63, 64] {
        assert!(like(None, &hex[..len]).await.contains(&"zoe".to_owned()), "{len}");
    }
    for nobody in ["", "bo", "BOB", "%", &format!("{hex}0"), &"é".repeat(40)] {
        assert!(like(None, nobody).await.is_empty(), "{nobody}");
    }
}
