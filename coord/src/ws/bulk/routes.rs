//! Where one socket's records go.
//!
//! Who may send to whom is asked of the registry once per pair, and again when anybody in the mesh has come or gone.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use meshwire_signaling::stream::carry::{Gone, Way};

use super::super::epochs::Epoch;
use super::super::p2p::may_write;
use super::super::registry::Shared;
use super::Desk;

/// Pairs of identities that one socket's reader remembers.
const ROUTES: usize = 4_096;

/// What the registry has said.
pub(in crate::ws) struct Routes {
    epoch: Epoch,
    known: HashMap<Way, Known>,
}

struct Known {
    /// As of when.
    epoch: u64,
    to: Result<Weak<Desk>, Gone>,
}

impl Routes {
    pub(in crate::ws) fn new(conn: &Shared) -> Self {
        Self { epoch: conn.inner.registry.epoch(&conn.mesh), known: HashMap::new() }
    }

    /// Whose desk a record is for.
    pub(super) fn find(&mut self, conn: &Shared, own: &Desk, way: &Way) -> Result<Arc<Desk>, Gone> {
        // Before the look: what changes after it is seen next time.
        let epoch = self.epoch.now();
        let known = self.known.get(way);
        match known {
            Some(Known { epoch: of, to: Ok(desk) }) if *of == epoch => {
                return desk.upgrade().ok_or(Gone::Away);
            }
            Some(Known { epoch: of, to: Err(gone) }) if *of == epoch => return Err(*gone),
            // That others come and go is not this member's doing: what was good is looked at again for nothing.
            Some(Known { to: Ok(_), .. }) => {}
            _ if own.member.take_hint(conn.tick()) => {}
            // This one may be there, in a moment.
            _ => return Err(Gone::Away),
        }
        let found = look_up(conn, way);
        if self.known.len() >= ROUTES && !self.known.contains_key(way) {
            self.known.clear();
        }
        let to = found.as_ref().map(Arc::downgrade).map_err(|gone| *gone);
        self.known.insert(*way, Known { epoch, to });
        found
    }
}

fn look_up(conn: &Shared, way: &Way) -> Result<Arc<Desk>, Gone> {
    let registry = &conn.inner.registry;
    if !registry.speaks_for(conn.id, &way.from) || may_write(conn, &way.from).is_err() {
        return Err(Gone::Forbidden);
    }
    match registry.holder(&conn.mesh, &way.to) {
        Some(holder) => holder.bulk.ok_or(Gone::Unable),
        None if registry.online(&conn.mesh, &way.to) => Err(Gone::Away),
        None => Err(Gone::Offline),
    }
}
