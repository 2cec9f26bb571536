//! Sessions, presence and groups in memory.

use meshwire_signaling::{MeshId, PublicKey, UnixMillis};

use super::super::rows::{GroupRow, InboxRow, PresenceRow, SessionRow};
use super::super::{MAX_LEFT_GROUPS, StoreResult};
use super::State;
use crate::core::gate::Arrival;

impl State {
    pub(super) fn session_insert(&mut self, session: &SessionRow) -> StoreResult<()> {
        self.mesh(&session.mesh)?;
        self.sessions.insert((session.mesh, session.key), session.clone());
        Ok(())
    }

    pub(super) fn session_list(&self, mesh: Option<&MeshId>) -> Vec<SessionRow> {
        let fits = |s: &&SessionRow| mesh.is_none_or(|m| *m == s.mesh);
        let mut out: Vec<_> = self.sessions.values().filter(fits).cloned().collect();
        out.sort_by_key(|s| (s.started_at, s.key));
        out
    }

    pub(super) fn session_end(
        &mut self,
        mesh: &MeshId,
        key: &PublicKey,
        at: UnixMillis,
    ) -> StoreResult<Vec<Arrival>> {
        self.mesh(mesh)?;
        let first = self.ended.insert((*mesh, *key), at).is_none();
        let handed = if first { self.hand_on(mesh, key) } else { Vec::new() };
        self.forget_session(mesh, key);
        Ok(handed)
    }

    /// Gives the member what a session leaves that nobody has listed.
    fn hand_on(&mut self, mesh: &MeshId, key: &PublicKey) -> Vec<Arrival> {
        let Self { inbox, read, .. } = self;
        let left = inbox.values_mut().filter(|row| {
            let theirs = row.item.mesh == *mesh && row.item.recipient == *key;
            theirs && row.seen_at.is_none() && !read.contains_key(&(row.row, *key))
        });
        let mut shown = Vec::new();
        for row in left {
            row.handed_on = true;
            row.surfaced_at = None;
            shown.extend(row.order.take().map(|order| (order, row.row)));
        }
        shown.sort_unstable();
        let rows = shown.iter().filter_map(|(_, row)| self.inbox.get(row));
        rows.map(|row| self.arrival(row)).collect()
    }

    /// What order book and gate need of a row.
    pub(super) fn arrival(&self, row: &InboxRow) -> Arrival {
        let arrival = row.arrival();
        match self.meshes.get(&row.item.mesh) {
            Some(mesh) if row.handed_on => arrival.handed_on(mesh.row.self_key),
            _ => arrival,
        }
    }

    pub(super) fn session_remove(&mut self, mesh: &MeshId, key: &PublicKey) -> bool {
        self.forget_session(mesh, key);
        self.sessions.remove(&(*mesh, *key)).is_some()
    }

    fn forget_session(&mut self, mesh: &MeshId, key: &PublicKey) {
        self.presence.remove(&(*mesh, *key));
        self.read.retain(|(_, viewer), _| viewer != key);
    }

    pub(super) fn presence_put(&mut self, presence: &PresenceRow) -> StoreResult<()> {
        self.mesh(&presence.mesh)?;
        self.presence.insert((presence.mesh, presence.key), presence.clone());
        Ok(())
    }

    pub(super) fn group_put(&mut self, group: &GroupRow) -> StoreResult<bool> {
        self.mesh(&group.mesh)?;
        let key = (group.mesh, group.name.clone(), group.member);
        let newer = self.groups.get(&key).is_none_or(|known| known.at < group.at);
        if newer {
            self.groups.insert(key, group.clone());
        }
        Ok(newer)
    }

    pub(super) fn group_sync(
        &mut self,
        mesh: &MeshId,
        member: &PublicKey,
        listed: &[GroupRow],
    ) -> StoreResult<bool> {
        let mut changed = false;
        for group in listed {
            changed |= self.group_put(group)?;
            // Listed again with the statement that we have.
            let key = (*mesh, group.name.clone(), *member);
            if let Some(known) = self.groups.get_mut(&key)
                && known.at == group.at
                && known.joined != group.joined
            {
                known.joined = group.joined;
                changed = true;
            }
        }
        for ((m, name, who), row) in &mut self.groups {
            let gone = m == mesh && who == member && !listed.iter().any(|g| g.name == *name);
            if gone && row.joined {
                row.joined = false;
                changed = true;
            }
        }
        let left =
            self.groups.values().filter(|g| g.mesh == *mesh && g.member == *member && !g.joined);
        let mut left: Vec<_> = left.map(|g| (g.at, g.name.clone())).collect();
        left.sort();
        left.truncate(left.len().saturating_sub(MAX_LEFT_GROUPS));
        for (_, name) in left {
            self.groups.remove(&(*mesh, name, *member));
        }
        Ok(changed)
    }

    pub(super) fn groups_of(&self, mesh: &MeshId) -> Vec<GroupRow> {
        self.groups.values().filter(|g| g.mesh == *mesh).cloned().collect()
    }

    /// Forgets who has read what is deleted.
    pub(super) fn forget_read(&mut self) {
        let Self { read, inbox, .. } = self;
        read.retain(|(row, _), _| inbox.contains_key(row));
    }
}
