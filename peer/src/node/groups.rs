//! Joining and leaving groups, and who is in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use meshwire_signaling::PublicKey;
use meshwire_signaling::frame::{code, feature};
use meshwire_signaling::group::{
    ALL, GroupAction, GroupError, GroupStatement, check_group_name, reaches,
};
use meshwire_signaling::limits::MAX_GROUPS;
use meshwire_signaling::sign::Signed;
use meshwire_transport::link::LinkError;
use tokio::time::Duration;

use super::events::Misbehaviour;
use super::join::link_error;
use super::mesh::Mesh;
use super::{Node, find, invalid, store_error};
use crate::api::{ApiError, Done, ErrorKind, Group, GroupMember, ListGroups, SetGroup};
use crate::core::group::{Membership, recipients};
use crate::core::resolve::nearest;
use crate::store::{GroupRow, NewRecipient, StoreError};

/// Longest wait for the broker's roster when nobody is known in a group.
const ROSTER_WAIT: Duration = Duration::from_secs(3);

impl Node {
    /// Joins or leaves a group. The statement is on disk before this returns, and at the broker as
    /// soon as it can be reached.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn set_group(&self, ask: SetGroup) -> Result<Done, ApiError> {
        self.owner_only("join or leave groups")?;
        let mesh = self.pick(ask.mesh.as_deref())?;
        require(&mesh, feature::GROUPS)?;
        let group = ask.group.strip_prefix('@').unwrap_or(&ask.group).to_owned();
        let rows = mesh.store().groups(&mesh.id()).await.map_err(store_error)?;
        let own: Vec<_> = rows.iter().filter(|g| g.member == mesh.row.self_key).collect();
        let known = own.iter().find(|g| g.name == group);
        if ask.leave && group != ALL && !known.is_some_and(|g| g.joined) {
            check_group_name(&group).map_err(bad_group)?;
            let names: Vec<&str> =
                own.iter().filter(|g| g.joined).map(|g| g.name.as_str()).collect();
            return Err(not_in(&group, &names));
        }
        let count = own.iter().filter(|g| g.joined && g.name != group).count();
        if !ask.leave && count >= MAX_GROUPS {
            let text = format!("a member is in at most {MAX_GROUPS} groups: leave one first");
            return Err(invalid("too_many_groups", text));
        }
        let at = known.map_or(0, |g| g.at.saturating_add(1)).max(mesh.now());
        let statement = GroupStatement {
            mesh: mesh.id(),
            member: mesh.row.self_key,
            group,
            action: if ask.leave { GroupAction::Leave } else { GroupAction::Join },
            role: ask.role.filter(|_| !ask.leave),
            at,
        };
        let signed = statement.sign(mesh.pairs.key());
        // Whatever the others would refuse is refused here.
        GroupStatement::verify(&signed, &mesh.id(), &mesh.row.self_key).map_err(bad_group)?;
        let row = row(&mesh, statement, signed.clone());
        mesh.store().group_put(&row).await.map_err(store_error)?;
        match mesh.link.set_group(signed).await {
            // Not reached: it hears of it at the next connect.
            Ok(()) | Err(LinkError::Down | LinkError::Closed | LinkError::TimedOut) => Ok(Done {}),
            Err(e) => Err(link_error(e)),
        }
    }

    /// Groups and who is in them by their own word, in one mesh or in all; `all` is not listed.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn groups(&self, ask: ListGroups) -> Result<Vec<Group>, ApiError> {
        let meshes = self.scope(ask.mesh.as_deref())?;
        let wanted = ask.group.as_deref().map(|g| g.strip_prefix('@').unwrap_or(g));
        if let Some(name) = wanted {
            check_group_name(name).map_err(bad_group)?;
        }
        let mut out = Vec::new();
        for mesh in meshes {
            let names = names(&mesh).await.map_err(store_error)?;
            let mut groups: BTreeMap<String, Vec<GroupMember>> = BTreeMap::new();
            for g in mesh.store().groups(&mesh.id()).await.map_err(store_error)? {
                let fits = g.joined && wanted.is_none_or(|w| w == ALL || reaches(w, &g.name));
                let Some(name) = names.get(&g.member).filter(|_| fits) else { continue };
                groups.entry(g.name).or_default().push(GroupMember {
                    name: name.clone(),
                    key: g.member,
                    role: g.role,
                    this_node: g.member == mesh.row.self_key,
                });
            }
            out.extend(groups.into_iter().map(|(name, mut members)| {
                members.sort_by(|a, b| (&a.name, a.key).cmp(&(&b.name, b.key)));
                Group { mesh_name: mesh.row.name.clone(), name, members }
            }));
        }
        Ok(out)
    }
}

fn bad_group(e: GroupError) -> ApiError {
    invalid(code::BAD_GROUP, e.to_string())
}

fn not_in(group: &str, names: &[&str]) -> ApiError {
    let hint = nearest(group, names).map_or_else(
        || match names {
            [] => "you are in no group".to_owned(),
            names => format!("you are in @{}", names.join(", @")),
        },
        |near| format!("did you mean @{near}?"),
    );
    let text = format!("you are not in @{group}; {hint}");
    ApiError::new(ErrorKind::NotFound, "group_not_found", text)
}

/// Refuses what the broker, as far as we know it, cannot carry.
pub(super) fn require(mesh: &Mesh, feature: &str) -> Result<(), ApiError> {
    if mesh.broker_has(feature) != Some(false) {
        return Ok(());
    }
    let text = format!(
        "the broker of mesh {} lacks the feature {feature}: {} until it is updated",
        mesh.row.name,
        without(feature)
    );
    Err(ApiError::new(ErrorKind::Denied, code::FEATURE_MISSING, text))
}

/// What does not work where a broker lacks a feature.
pub(super) fn without(feature: &str) -> &'static str {
    match feature {
        feature::GROUPS => "no groups",
        feature::DELEGATES => "no mail by sessions",
        feature::STREAMS => "no streams through it",
        _ => "not all works",
    }
}

fn row(mesh: &Mesh, statement: GroupStatement, signed: Signed) -> GroupRow {
    GroupRow {
        mesh: mesh.id(),
        member: statement.member,
        name: statement.group,
        role: statement.role,
        joined: statement.action == GroupAction::Join,
        at: statement.at,
        statement: signed,
    }
}

/// The statements among `listed` that hold.
fn verified(mesh: &Mesh, member: &PublicKey, listed: &[Signed]) -> Vec<GroupRow> {
    let check = |signed: &Signed| match GroupStatement::verify(signed, &mesh.id(), member) {
        Ok(statement) => Some(row(mesh, statement, signed.clone())),
        Err(e) => {
            let text = format!("a false group statement of {}: {e}", member.short());
            mesh.misbehaved(Misbehaviour::FalseGroup, &text);
            None
        }
    };
    listed.iter().take(MAX_GROUPS).filter_map(check).collect()
}

/// Keeps what the broker lists as another member's groups, as far as the member itself says so.
pub(super) async fn learn(
    mesh: &Mesh,
    member: &PublicKey,
    listed: &[Signed],
) -> Result<(), StoreError> {
    let rows = verified(mesh, member, listed);
    mesh.store().group_sync(&mesh.id(), member, &rows).await.map(drop)
}

/// Tells the broker of our groups that it lists otherwise; takes over what we have forgotten (a
/// restored home).
pub(super) async fn announce(mesh: &Arc<Mesh>, listed: &[Signed]) {
    let listed = verified(mesh, &mesh.row.self_key, listed);
    if let Err(e) = tell(mesh, &listed).await {
        tracing::error!(error = %e, "the groups cannot be read or written");
    }
}

async fn tell(mesh: &Mesh, listed: &[GroupRow]) -> Result<(), StoreError> {
    if mesh.broker_has(feature::GROUPS) == Some(false) {
        return Ok(());
    }
    for group in listed {
        mesh.store().group_put(group).await?;
    }
    let own = mesh.store().groups(&mesh.id()).await?;
    for group in own.into_iter().filter(|g| g.member == mesh.row.self_key) {
        let there = listed.iter().any(|l| l.name == group.name && l.at == group.at && l.joined);
        if group.joined == there {
            continue;
        }
        match mesh.link.set_group(group.statement).await {
            Ok(()) => {}
            // It has this very statement, and does not list it (of who is hidden, say).
            Err(LinkError::Refused(frame)) if frame.code == code::STALE_STATEMENT => {}
            // What it refuses, it would refuse again; what was lost goes at the next connect.
            Err(e) => {
                tracing::warn!(group = group.name, error = %e, "the broker does not note our group");
            }
        }
    }
    Ok(())
}

async fn names(mesh: &Mesh) -> Result<HashMap<PublicKey, String>, StoreError> {
    let rows = mesh.store().members(Some(&mesh.id())).await?;
    Ok(rows.into_iter().map(|m| (m.key, m.name)).collect())
}

/// Who gets a message to `target` by our own roster, by key.
pub(super) async fn audience(mesh: &Mesh, target: &str) -> Result<Vec<NewRecipient>, StoreError> {
    let mut names = names(mesh).await?;
    let mut joined: HashMap<PublicKey, Vec<String>> = HashMap::new();
    for g in mesh.store().groups(&mesh.id()).await?.into_iter().filter(|g| g.joined) {
        joined.entry(g.member).or_default().push(g.name);
    }
    let hidden: BTreeSet<PublicKey> = mesh.views().hidden();
    let roster: Vec<Membership> = names
        .keys()
        .map(|key| Membership {
            key: *key,
            hidden: hidden.contains(key),
            groups: joined.remove(key).unwrap_or_default(),
        })
        .collect();
    let keys = recipients(target, &roster, &mesh.row.self_key);
    let named = |key| NewRecipient { key, name: names.remove(&key).unwrap_or_default() };
    Ok(keys.into_iter().map(named).collect())
}

/// As [`audience`], for somebody who waits: never empty, with a fresh look at the roster first.
///
/// # Errors
/// `group_not_found`, `group_empty`.
pub(super) async fn reach(mesh: &Arc<Mesh>, target: &str) -> Result<Vec<NewRecipient>, ApiError> {
    let found = audience(mesh, target).await.map_err(store_error)?;
    if !found.is_empty() {
        return Ok(found);
    }
    // Somebody may have joined since we last heard.
    let fresh = async {
        if mesh.up().await.is_ok() {
            find::refresh(mesh).await;
        }
    };
    let _ = tokio::time::timeout(ROSTER_WAIT, fresh).await;
    let found = audience(mesh, target).await.map_err(store_error)?;
    if !found.is_empty() {
        return Ok(found);
    }
    if target == ALL {
        let text = format!("nobody else is in mesh {}, or wants to be listed", mesh.row.name);
        return Err(ApiError::new(ErrorKind::NotFound, "group_empty", text));
    }
    let rows = mesh.store().groups(&mesh.id()).await.map_err(store_error)?;
    let there = rows.iter().filter(|g| g.joined);
    let names: BTreeSet<&str> = there.map(|g| g.name.as_str()).collect();
    if names.iter().any(|joined| reaches(target, joined)) {
        let text = format!("nobody but you, or nobody who wants to be listed, is in @{target}");
        return Err(ApiError::new(ErrorKind::NotFound, "group_empty", text));
    }
    let names: Vec<&str> = names.into_iter().collect();
    let hint = nearest(target, &names).map_or_else(
        || match names.as_slice() {
            [] => format!("nobody has joined a group in mesh {} yet", mesh.row.name),
            names => format!("there are @{}", names[..names.len().min(10)].join(", @")),
        },
        |near| format!("did you mean @{near}?"),
    );
    let text = format!("nobody is in @{target}; {hint}");
    Err(ApiError::new(ErrorKind::NotFound, "group_not_found", text))
}
