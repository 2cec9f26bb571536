//! Whose STUN and TURN servers are used: each mesh's own. Policy: no I/O, no clock.
//!
//! What one mesh's broker offers is used for that mesh alone: its servers see addresses of that mesh's
//! peers, and what they answer is told to those. Servers that several brokers name are asked once for
//! all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use meshwire_signaling::MeshId;

use super::turn::TurnServer;

/// For which mesh's attempts; none: for those that are in no mesh.
pub(super) type Scope = Option<MeshId>;
/// What lets us use one TURN server, by the mesh whose broker gave it.
pub(super) type Credentials = BTreeMap<Scope, TurnServer>;

/// Most meshes that have servers.
const MESHES: usize = 32;
/// Most STUN servers of one mesh, and of all.
const STUN: (usize, usize) = (4, 32);
/// Most TURN servers of one mesh, and of all.
const TURN: (usize, usize) = (2, 16);

/// Whom to ask for addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// STUN servers; at most four are asked.
    pub stun: Vec<SocketAddr>,
    /// TURN servers; at most two are used.
    pub turn: Vec<TurnServer>,
}

/// All meshes' servers.
#[derive(Debug, Default)]
pub(super) struct Meshes(BTreeMap<Scope, Servers>);

impl Meshes {
    /// Puts a mesh's servers in the place of those that it had. More meshes than [`MESHES`] get none.
    pub(super) fn set(&mut self, scope: Scope, mut servers: Servers) {
        servers.stun.truncate(STUN.0);
        servers.turn.truncate(TURN.0);
        if servers == Servers::default() {
            self.0.remove(&scope);
        } else if self.0.len() < MESHES || self.0.contains_key(&scope) {
            self.0.insert(scope, servers);
        }
    }

    /// The STUN servers to ask, and for whom.
    pub(super) fn stun(&self) -> BTreeMap<SocketAddr, BTreeSet<Scope>> {
        let found = in_turns(&self.0, |s| &s.stun, |addr| *addr, STUN);
        found.into_iter().map(|(addr, by)| (addr, by.into_keys().collect())).collect()
    }

    /// The TURN servers to use.
    pub(super) fn turn(&self) -> BTreeMap<SocketAddr, Credentials> {
        in_turns(&self.0, |s| &s.turn, |server| server.addr, TURN)
    }
}

/// Each mesh's first one first: none can crowd the others out, nor give another's server its own
/// credentials.
fn in_turns<T: Clone>(
    all: &BTreeMap<Scope, Servers>,
    list: impl Fn(&Servers) -> &Vec<T>,
    addr: impl Fn(&T) -> SocketAddr,
    (each, most): (usize, usize),
) -> BTreeMap<SocketAddr, BTreeMap<Scope, T>> {
    let mut found: BTreeMap<SocketAddr, BTreeMap<Scope, T>> = BTreeMap::new();
    for n in 0..each {
        for (scope, servers) in all {
            let Some(server) = list(servers).get(n) else { continue };
            let addr = addr(server);
            if found.len() < most || found.contains_key(&addr) {
                found.entry(addr).or_default().entry(*scope).or_insert_with(|| server.clone());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(n: u8) -> Scope {
        Some(MeshId([n; 32]))
    }

    fn at(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], port))
    }

    fn turn(host: u8, password: &str) -> TurnServer {
        let (username, password) = ("me".to_owned(), password.to_owned());
        TurnServer { addr: at(host, 3478), username, password }
    }

    #[test]
    fn every_mesh_keeps_its_own_servers_whatever_the_others_name() {
        let mut meshes = Meshes::default();
        for n in 0..16 {
            let other = if n == 0 { 1 } else { 0 };
            let turn = vec![turn(other, "false"), turn(n, "own"), turn(100 + n, "third")];
            let stun = (0..9).map(|port| at(n, 4000 + port)).collect();
            meshes.set(mesh(n), Servers { stun, turn });
        }
        let found = meshes.turn();
        assert_eq!(found.len(), 16);
        for n in 0..16 {
            let of = &found[&at(n, 3478)];
            assert_eq!(of[&mesh(n)].password, "own", "{n}");
            assert!(!found.contains_key(&at(100 + n, 3478)), "two of a mesh are enough");
        }
        assert_eq!(found[&at(0, 3478)].len(), 16);
        let asked = meshes.stun();
        assert_eq!(asked.len(), 32);
        assert!((0..16).all(|n| asked[&at(n, 4000)] == BTreeSet::from([mesh(n)])));
    }

    #[test]
    fn so_many_meshes_and_no_more_until_one_is_left() {
        let mut meshes = Meshes::default();
        let servers = |n| Servers { stun: vec![at(n, 3478)], ..Servers::default() };
        for n in 0..40 {
            meshes.set(mesh(n), servers(n));
        }
        assert_eq!(meshes.stun().len(), MESHES);
        meshes.set(mesh(0), Servers::default());
        assert!(!meshes.stun().contains_key(&at(0, 3478)));
        meshes.set(mesh(39), servers(39));
        assert!(meshes.stun().contains_key(&at(39, 3478)));
    }
}
