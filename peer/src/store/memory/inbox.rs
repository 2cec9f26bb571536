//! The inbox in memory.

use std::collections::hash_map::Entry;

use meshwire_signaling::{MeshId, UnixMillis};

use super::super::rows::{Arrived, InboxDelete, InboxFilter, InboxRow, NewId, Viewer, id_prefix};
use super::super::{MAX_INBOX_LIST, StoreResult};
use super::{Cursor, State, only};
use crate::core::inbox::Item;
use crate::core::order::Counter;

impl State {
    pub(super) fn accept(&mut self, items: &[(Item, UnixMillis)]) -> StoreResult<Vec<Arrived>> {
        for (item, _) in items {
            self.mesh(&item.mesh)?;
        }
        Ok(items.iter().map(|(item, keep_until)| self.accept_one(item, *keep_until)).collect())
    }

    fn accept_one(&mut self, item: &Item, keep_until: UnixMillis) -> Arrived {
        let key = (item.mesh, item.author, item.id);
        let seen = self.seen.get(&key).map(|(hash, _)| *hash);
        let kept = || self.inbox.get(self.inbox_ids.get(&key)?);
        let before = seen.or_else(|| kept().map(|row| row.item.hash));
        if let Some(before) = before {
            return if before == item.hash { Arrived::Duplicate } else { Arrived::Conflict };
        }
        self.seen.insert(key, (item.hash, keep_until));
        self.last_inbox += 1;
        let row = InboxRow {
            row: self.last_inbox,
            item: item.clone(),
            order: None,
            surfaced_at: None,
            seen_at: None,
            handed_on: self.ended.contains_key(&(item.mesh, item.recipient)),
        };
        self.inbox_ids.insert(key, row.row);
        self.inbox.insert(row.row, row);
        Arrived::Inserted(self.last_inbox)
    }

    pub(super) fn remember(&mut self, ids: &[NewId]) -> StoreResult<Vec<bool>> {
        for new in ids {
            self.mesh(&new.mesh)?;
        }
        let mut remember = |new: &NewId| match self.seen.entry((new.mesh, new.author, new.id)) {
            Entry::Vacant(entry) => {
                entry.insert((new.hash, new.keep_until));
                true
            }
            Entry::Occupied(_) => false,
        };
        Ok(ids.iter().map(&mut remember).collect())
    }

    pub(super) fn swallow(&mut self, rows: &[i64], now: UnixMillis) {
        for row in rows {
            let Some(held) = self.inbox.get(row).filter(|row| row.order.is_none()) else {
                continue;
            };
            let (counter, seq) = (held.item.counter(), held.item.seq);
            self.inbox.remove(row);
            self.move_cursor(counter, seq, now);
        }
    }

    fn move_cursor(&mut self, counter: Counter, seq: u64, now: UnixMillis) {
        let cursor = self.cursors.entry(counter).or_insert(Cursor { last: 0, touched_at: 0 });
        cursor.last = cursor.last.max(seq);
        cursor.touched_at = cursor.touched_at.max(now);
    }

    pub(super) fn surface(&mut self, rows: &[i64], now: UnixMillis) -> Vec<InboxRow> {
        let mut out = Vec::new();
        for row in rows {
            let held = self.inbox.get_mut(row).filter(|row| row.order.is_none());
            let Some(row) = held else { continue };
            self.last_order += 1;
            row.order = Some(self.last_order);
            row.surfaced_at = Some(now);
            let row = row.clone();
            self.move_cursor(row.item.counter(), row.item.seq, now);
            out.push(row);
        }
        out
    }

    pub(super) fn inbox_list(
        &mut self,
        filter: &InboxFilter,
        mark_seen: Option<UnixMillis>,
    ) -> Vec<InboxRow> {
        let after = filter.after_order.unwrap_or(0);
        let session = filter.viewer.session();
        let seen_at = |row: &InboxRow| match session {
            None => row.seen_at,
            Some(session) => self.read.get(&(row.row, session)).copied(),
        };
        let is_member = |row: &InboxRow| {
            let member = self.meshes.get(&row.item.mesh).map(|m| m.row.self_key);
            row.handed_on || member == Some(row.item.recipient)
        };
        let may_see = |row: &InboxRow| match filter.viewer {
            Viewer::Everything => true,
            Viewer::Member => is_member(row),
            Viewer::Session(key) => row.item.recipient == key || is_member(row),
            Viewer::SessionAlone(key) => row.item.recipient == key,
        };
        let fits = |row: &&InboxRow| {
            let item = &row.item;
            row.order.is_some_and(|order| order > after)
                && filter.mesh.is_none_or(|m| m == item.mesh)
                && filter.from.is_none_or(|f| f == item.author || f == item.member)
                && filter.since.is_none_or(|at| item.received_at >= at)
                && filter.before.is_none_or(|at| item.received_at < at)
                && may_see(row)
                && !(filter.unread && seen_at(row).is_some())
        };
        let shown = |row: &InboxRow| InboxRow { seen_at: seen_at(row), ..row.clone() };
        let mut out: Vec<InboxRow> = self.inbox.values().filter(fits).map(shown).collect();
        out.sort_by_key(|row| row.order);
        let limit = usize::try_from(filter.limit.min(MAX_INBOX_LIST)).unwrap_or(usize::MAX);
        if filter.newest {
            out.drain(..out.len().saturating_sub(limit));
        } else {
            out.truncate(limit);
        }
        let Some(now) = mark_seen else { return out };
        for row in &out {
            match session {
                Some(session) => {
                    self.read.entry((row.row, session)).or_insert(now);
                }
                None => {
                    if let Some(row) = self.inbox.get_mut(&row.row) {
                        row.seen_at.get_or_insert(now);
                    }
                }
            }
        }
        out
    }

    pub(super) fn inbox_find(&self, mesh: Option<&MeshId>, prefix: &str) -> StoreResult<InboxRow> {
        let start = id_prefix(prefix)?;
        let rows = self.inbox.values().filter(|row| {
            row.order.is_some()
                && mesh.is_none_or(|m| *m == row.item.mesh)
                && row.item.id.to_string().starts_with(&start)
        });
        let mut found: Vec<_> = rows.map(|row| (row.item.id, row.clone())).collect();
        found.sort_by_key(|(id, _)| *id);
        only(prefix, found)
    }

    pub(super) fn inbox_delete(&mut self, what: &InboxDelete) -> u64 {
        let all = self.inbox.len();
        self.inbox.retain(|_, row| {
            let meant = match what {
                InboxDelete::Row(number) => *number == row.row,
                InboxDelete::Surfaced { mesh, before } => {
                    mesh.is_none_or(|m| m == row.item.mesh)
                        && before.is_none_or(|at| row.item.received_at < at)
                }
            };
            !meant || row.order.is_none()
        });
        self.forget_read();
        (all - self.inbox.len()) as u64
    }
}
