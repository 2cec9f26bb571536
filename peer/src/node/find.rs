//! Which mesh and whom a caller means.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::{MeshId, PublicKey};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::mesh::Mesh;
use super::sessions::SessionHandle;
use super::{Node, roster, store_error};
use crate::api::{ApiError, ErrorKind};
use crate::core::resolve::{Candidate, ResolveError, nearest, resolve};
use crate::store::StoreError;

/// Longest wait for the broker's roster when nobody of a name is known.
pub(super) const ROSTER_WAIT: Duration = Duration::from_secs(3);
/// Shortest time between two looks at a mesh's roster for the sake of unknown names: each is the whole
/// of it, and anybody who may ask can make up names, while the broker's rate is the member's.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Looks at a mesh's roster because somebody asks for somebody unknown: one look at a time, for
/// whoever asks meanwhile and for [`LOOK_AGAIN`] after its begin.
#[derive(Debug, Default)]
pub(crate) struct Fresh(Mutex<Option<Look>>);

/// The last look: when it began, and whether it has ended.
#[derive(Debug)]
struct Look {
    begun: Instant,
    over: watch::Receiver<bool>,
}

impl Look {
    /// Whether somebody who asks at `now` gets what this look brings.
    fn serves(&self, now: Instant) -> bool {
        let running = !*self.over.borrow() && self.over.has_changed().is_ok();
        running || now.saturating_duration_since(self.begun) < LOOK_AGAIN
    }
}

impl Fresh {
    /// The look that serves at `now`, begun if there is none.
    fn look(
        &self,
        now: Instant,
        begin: impl FnOnce() -> watch::Receiver<bool>,
    ) -> watch::Receiver<bool> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(look) = last.as_ref()
            && look.serves(now)
        {
            return look.over.clone();
        }
        let over = begin();
        *last = Some(Look { begun: now, over: over.clone() });
        over
    }
}

/// Brings the roster up to date, at most every [`LOOK_AGAIN`]. It goes on if the caller does not
/// wait: who gives up must not make the next one start again.
pub(super) async fn refresh(mesh: &Arc<Mesh>) {
    let begin = || {
        let (end, over) = watch::channel(false);
        let mesh = mesh.clone();
        tokio::spawn(async move {
            roster::refresh(&mesh).await;
            end.send_replace(true);
        });
        over
    };
    let mut over = mesh.fresh.look(mesh.services.net.now(), begin);
    let _ = over.wait_for(|over| *over).await;
}

impl Node {
    /// The meshes that a caller asks about: the one that it names, or all that it may ask about.
    pub(super) fn scope(&self, name: Option<&str>) -> Result<Vec<Arc<Mesh>>, ApiError> {
        match (name, self.session()) {
            (None, None) => Ok(self.meshes()),
            _ => Ok(vec![self.pick(name)?]),
        }
    }

    /// The mesh that a caller names, or the only one there is; for a session always its own.
    pub(super) fn pick(&self, name: Option<&str>) -> Result<Arc<Mesh>, ApiError> {
        let Some(session) = self.session() else { return self.pick_any(name) };
        let own = self.pick_any(Some(&session.mesh.to_string()))?;
        if own.sessions.get(&session.key()).is_none() {
            return Err(session_ended(session));
        }
        if let Some(name) = name
            && self.pick_any(Some(name))?.id() != own.id()
        {
            return Err(other_mesh(session, &own, name));
        }
        Ok(own)
    }

    fn pick_any(&self, name: Option<&str>) -> Result<Arc<Mesh>, ApiError> {
        let meshes = self.meshes();
        let fits = |m: &Arc<Mesh>| match name {
            None => true,
            Some(n) => m.row.name == n || (n.len() >= 8 && m.id().to_string().starts_with(n)),
        };
        let found: Vec<_> = meshes.iter().filter(|m| fits(m)).cloned().collect();
        let names = |list: &[Arc<Mesh>]| {
            let words = list.iter().map(|m| format!("{} {}", m.row.name, m.id().short()));
            words.collect::<Vec<_>>().join(", ")
        };
        match (found.as_slice(), name) {
            ([mesh], _) => Ok(mesh.clone()),
            ([], _) if meshes.is_empty() => {
                let text = "this node is in no mesh yet: run meshwire join INVITE, or meshwire \
                            mesh create";
                Err(ApiError::new(ErrorKind::NotFound, "no_mesh", text))
            }
            ([], Some(n)) => {
                let known: Vec<&str> = meshes.iter().map(|m| m.row.name.as_str()).collect();
                let hint = nearest(n, &known).map_or_else(
                    || format!("this node is in: {}", names(&meshes)),
                    |name| format!("did you mean {name}?"),
                );
                let text = format!("this node is in no mesh {n:?}; {hint}");
                Err(ApiError::new(ErrorKind::NotFound, "mesh_not_found", text))
            }
            (several, _) => {
                let text = format!("say which mesh with --mesh: {}", names(several));
                Err(ApiError::new(ErrorKind::Ambiguous, "mesh_ambiguous", text))
            }
        }
    }

    /// Whom `text` means, in one mesh or in all.
    pub(super) async fn find(
        &self,
        mesh: Option<&str>,
        text: &str,
    ) -> Result<(Arc<Mesh>, Candidate), ApiError> {
        let meshes = self.scope(mesh)?;
        if meshes.is_empty() {
            self.pick(None)?;
        }
        let mut found = self.resolve(&meshes, text).await?;
        if matches!(found, Err(ResolveError::NotFound { .. })) {
            // It may have joined since we last heard.
            let fresh = async {
                for mesh in &meshes {
                    if mesh.up().await.is_ok() {
                        refresh(mesh).await;
                    }
                }
            };
            let _ = tokio::time::timeout(ROSTER_WAIT, fresh).await;
            found = self.resolve(&meshes, text).await?;
        }
        let candidate = found.map_err(|e| {
            let (kind, code) = match e {
                ResolveError::Ambiguous { .. } => (ErrorKind::Ambiguous, "peer_ambiguous"),
                ResolveError::TooShort { .. } => (ErrorKind::Invalid, "prefix_too_short"),
                _ => (ErrorKind::NotFound, "peer_not_found"),
            };
            let mut text = e.to_string();
            if kind == ErrorKind::NotFound {
                text.push_str(&blind(&meshes));
            }
            ApiError::new(kind, code, text)
        })?;
        let mesh = meshes.into_iter().find(|m| m.id() == candidate.mesh);
        let gone = || ApiError::new(ErrorKind::Internal, "internal", "the mesh is gone");
        Ok((mesh.ok_or_else(gone)?, candidate))
    }

    async fn resolve(
        &self,
        meshes: &[Arc<Mesh>],
        text: &str,
    ) -> Result<Result<Candidate, ResolveError>, ApiError> {
        let mut all = Vec::new();
        for mesh in meshes {
            all.extend(candidates(mesh).await.map_err(store_error)?);
        }
        Ok(resolve(text, &all))
    }

    /// Our member in a mesh.
    pub(super) fn member_key(&self, mesh: &MeshId) -> Option<PublicKey> {
        let meshes = self.inner.meshes.read().unwrap_or_else(PoisonError::into_inner);
        meshes.get(mesh).map(|m| m.row.self_key)
    }

    pub(crate) fn mesh_name(&self, mesh: &MeshId) -> String {
        let meshes = self.inner.meshes.read().unwrap_or_else(PoisonError::into_inner);
        meshes.get(mesh).map_or_else(|| mesh.short(), |m| m.row.name.clone())
    }
}

/// Somebody still asks as a session that has ended.
pub(super) fn session_ended(session: &SessionHandle) -> ApiError {
    let text = format!("session {} has ended", session.name);
    ApiError::new(ErrorKind::Auth, "bad_session", text)
}

/// A session asks about a mesh that it does not belong to.
pub(super) fn other_mesh(session: &SessionHandle, own: &Mesh, asked: &str) -> ApiError {
    let text = format!("session {} belongs to mesh {}, not to {asked}", session.name, own.row.name);
    ApiError::new(ErrorKind::Denied, "other_mesh", text)
}

/// Members, sessions and services of a mesh, our own included.
pub(super) async fn candidates(mesh: &Mesh) -> Result<Vec<Candidate>, StoreError> {
    let rows = mesh.store().members(Some(&mesh.id())).await?;
    let names: HashMap<PublicKey, String> = rows.into_iter().map(|m| (m.key, m.name)).collect();
    let members = names.iter().map(|(key, name)| member_of(mesh, *key, name));
    let own = mesh
        .sessions
        .live()
        .into_iter()
        .map(|s| (mesh.row.self_key, s.key(), IdentityKind::Session, s.name.clone()));
    let others = mesh.views().sessions().into_iter().map(|(m, s)| (m, s.key, s.kind, s.name));
    let sessions = own.chain(others).filter_map(|(member, key, kind, name)| {
        let of = member_of(mesh, member, names.get(&member)?);
        Some(Candidate { key, kind, name, ..of })
    });
    Ok(members.chain(sessions).collect())
}

fn member_of(mesh: &Mesh, key: PublicKey, name: &str) -> Candidate {
    Candidate::member(mesh.id(), mesh.row.name.clone(), key, name.to_owned())
}

/// What to add where nobody was found: brokers that could not be asked.
fn blind(meshes: &[Arc<Mesh>]) -> String {
    let down = meshes.iter().filter(|m| !m.is_up()).map(|m| m.row.name.as_str());
    let down: Vec<&str> = down.collect();
    if down.is_empty() {
        return String::new();
    }
    format!(
        "; who joined {} since the last connection is unknown, its broker cannot be reached now",
        down.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looks_at_the_roster_are_shared_and_rare() {
        let (fresh, start) = (Fresh::default(), Instant::now());
        let mut ends = Vec::new();
        let ask = |ends: &mut Vec<watch::Sender<bool>>, ms: u64| {
            let begin = || {
                let (end, over) = watch::channel(false);
                ends.push(end);
                over
            };
            fresh.look(start + Duration::from_millis(ms), begin)
        };
        let mut waiting: Vec<_> = (0..50).map(|ms| ask(&mut ends, ms)).collect();
        // It is slow: longer than the pause, and still one at a time.
        waiting.push(ask(&mut ends, 60_000));
        assert_eq!(ends.len(), 1);
        ends[0].send_replace(true);
        for over in &mut waiting {
            assert!(*over.wait_for(|o| *o).await.unwrap());
        }
        // A fast one serves for two seconds.
        ask(&mut ends, 60_000);
        assert_eq!(ends.len(), 2);
        ends[1].send_replace(true);
        assert!(*ask(&mut ends, 61_999).borrow());
        assert_eq!(ends.len(), 2);
        ask(&mut ends, 62_000);
        assert_eq!(ends.len(), 3);
        // One that died is over.
        ends.pop();
        ask(&mut ends, 63_999);
        assert_eq!(ends.len(), 2, "but serves as long");
        ask(&mut ends, 64_000);
        assert_eq!(ends.len(), 3);
    }
}
