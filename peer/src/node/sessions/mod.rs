//! Sessions: identities of running programs under our member.
//!
//! ```text
//! start ──► row and key on disk ──► live ──► bound, at each connect and half-way of each attestation
//!                                    │
//!   its process is gone, end, kick ──┴──► ended: its mail leaves, unbound, key gone,
//!                                         remembered for 30 days
//! ```
//!
//! A session is known by a token, of which only a hash is kept, and ends with its process. When the
//! node starts, those whose process still runs go on.

mod close;
mod handle;
mod keep;
mod reap;
mod table;

use std::sync::Arc;

use meshwire_signaling::attest::{Capabilities, capability};
use meshwire_signaling::frame::{UnboundReason, feature};
use meshwire_signaling::{PublicKey, SecretKey};
use meshwire_transport::net::random;
use tokio::time::Duration;
use zeroize::Zeroizing;

pub(super) use close::SESSION_ENDED;
pub(crate) use handle::SessionHandle;
pub(super) use keep::run as keep;
pub(super) use reap::run as reap;
use table::MAX_SESSIONS;
pub(crate) use table::Sessions;

use super::events::Event;
use super::groups::require;
use super::identity::token_hash;
use super::mesh::Mesh;
use super::{Node, invalid, presence, store_error};
use crate::api::{
    ApiError, EndSession, ErrorKind, ListSessions, Session, SessionStarted, StartSession,
};
use crate::core::gate::Addressee;
use crate::core::resolve::{MIN_PREFIX, nearest};
use crate::core::session_name::check_session_name;
use crate::store::SessionRow;

/// How long a start waits for the broker to know the session.
const BIND_WAIT: Duration = Duration::from_secs(3);

impl Node {
    /// Starts a session for a running process of this machine.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn start_session(&self, ask: StartSession) -> Result<SessionStarted, ApiError> {
        self.owner_only("start sessions")?;
        if !self.is_background() {
            let text = "sessions need a node in the background: run meshwire up first";
            return Err(ApiError::new(ErrorKind::Invalid, "no_node", text));
        }
        let mesh = self.pick(ask.mesh.as_deref())?;
        check_session_name(&ask.name).map_err(|e| invalid("bad_name", e))?;
        let capabilities = capabilities(ask.capabilities)?;
        require(&mesh, feature::DELEGATES)?;
        let looked = reap::look(ask.pid).await.map_err(|e| {
            let text = format!("cannot see whether process {} runs: {e}", ask.pid);
            ApiError::new(ErrorKind::Io, "io", text)
        })?;
        let process = looked.filter(|p| !p.zombie).ok_or_else(|| {
            let text = format!("no process {} runs here", ask.pid);
            ApiError::new(ErrorKind::NotFound, "process_not_found", text)
        })?;
        let net = self.services().net.as_ref();
        let key = SecretKey::from_seed(&Zeroizing::new(random(net)));
        let token = hex::encode(Zeroizing::new(random::<32>(net)).as_slice());
        let row = SessionRow {
            mesh: mesh.id(),
            key: key.public(),
            name: ask.name,
            capabilities,
            pid: ask.pid,
            process_start: process.start,
            token_hash: token_hash(&token),
            started_at: mesh.now(),
        };
        let vouching = mesh.pairs.key().clone();
        let session = Arc::new(SessionHandle::new(row.clone(), key.clone(), vouching));
        // In memory first, which also keeps the count; nobody knows its token or key yet.
        if !mesh.sessions.add(session.clone()) {
            let text = format!(
                "{MAX_SESSIONS} sessions run in mesh {} already, or have ended and their mail has \
                 not left; more do not fit: end one, see meshwire session list",
                mesh.row.name
            );
            return Err(ApiError::new(ErrorKind::Denied, "too_many_sessions", text));
        }
        let kept = match mesh.services.keyring.save_session(&key) {
            Ok(()) => mesh.store().session_insert(&row).await.map_err(store_error),
            Err(e) => Err(e),
        };
        if let Err(e) = kept {
            let _ = mesh.services.keyring.remove_session(&session.key());
            mesh.sessions.discard(&session.key());
            return Err(e);
        }
        tracing::info!(
            target: "meshwire::events::session::started",
            mesh = %mesh.id().short(), key = %session.key().short(), name = session.name,
            pid = session.pid
        );
        mesh.services.tell(Event::Session {
            mesh: mesh.id(),
            key: session.key(),
            name: session.name.clone(),
            started: true,
            why: None,
        });
        mesh.announce.notify_one();
        if mesh.is_up() {
            // Where the broker cannot be reached it learns of the session when it can.
            let _ = tokio::time::timeout(BIND_WAIT, session.bound()).await;
        }
        let session = self.describe_session(&mesh, &session);
        Ok(SessionStarted { token, session })
    }

    /// Sessions of one mesh or of all.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn sessions(&self, ask: ListSessions) -> Result<Vec<Session>, ApiError> {
        let meshes = self.scope(ask.mesh.as_deref())?;
        let mut out = Vec::new();
        for mesh in meshes {
            let live = mesh.sessions.live();
            out.extend(live.iter().map(|s| self.describe_session(&mesh, s)));
        }
        out.sort_by_key(|s| (s.started_at, s.key));
        Ok(out)
    }

    /// Ends a session; its process is left alone. A session may end itself.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn end_session(&self, ask: EndSession) -> Result<Session, ApiError> {
        let all: Vec<Found> = self
            .scope(None)?
            .into_iter()
            .flat_map(|m| m.sessions.live().into_iter().map(move |s| (m.clone(), s)))
            .collect();
        let (mesh, session) = pick(&ask.session, &all)?;
        if self.session().is_none_or(|own| own.key() != session.key()) {
            self.owner_only("end other sessions")?;
        }
        let described = self.describe_session(mesh, session);
        end(mesh, &session.key(), "ended by its owner").await;
        Ok(Session { bound: false, ..described })
    }

    fn describe_session(&self, mesh: &Mesh, session: &SessionHandle) -> Session {
        Session {
            key: session.key(),
            name: session.name.clone(),
            mesh_name: mesh.row.name.clone(),
            capabilities: session.capabilities.clone(),
            pid: session.pid,
            started_at: session.started_at,
            bound: mesh.is_up() && session.is_bound(mesh.generation()),
            this_session: self.session().is_some_and(|own| own.key() == session.key()),
        }
    }
}

/// The capabilities that a caller asks for.
fn capabilities(words: Option<Vec<String>>) -> Result<Capabilities, ApiError> {
    let Some(mut words) = words else { return Ok(Capabilities::All) };
    for word in &words {
        if !capability::ALL.contains(&word.as_str()) {
            let known = capability::ALL.join(", ");
            let hint = nearest(word, &capability::ALL)
                .map(|near| format!(" (did you mean {near}?)"))
                .unwrap_or_default();
            let text = format!("{word:?} is no capability{hint}; there are: {known}");
            return Err(invalid("bad_capability", text));
        }
    }
    words.sort_unstable();
    words.dedup();
    Ok(Capabilities::List(words))
}

type Found = (Arc<Mesh>, Arc<SessionHandle>);

/// The session that `text` means: its name, its key, or the unique start of its key.
fn pick<'a>(text: &str, all: &'a [Found]) -> Result<&'a Found, ApiError> {
    let named: Vec<_> = all.iter().filter(|(_, s)| s.name == text).collect();
    let prefixed = || {
        let fits = |s: &SessionHandle| s.key().to_string().starts_with(text);
        let long = text.len() >= MIN_PREFIX;
        all.iter().filter(|(_, s)| long && fits(s)).collect::<Vec<_>>()
    };
    let found = if named.is_empty() { prefixed() } else { named };
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let names: Vec<&str> = all.iter().map(|(_, s)| s.name.as_str()).collect();
            let hint = nearest(text, &names)
                .map(|near| format!(" (did you mean {near}?)"))
                .unwrap_or_default();
            let text = format!("no session {text:?} runs here{hint}: see meshwire session list");
            Err(ApiError::new(ErrorKind::NotFound, "session_not_found", text))
        }
        several => {
            let keys: Vec<String> =
                several.iter().map(|(_, s)| format!("{} {}", s.name, s.key().short())).collect();
            let text = format!("{text:?} is ambiguous: {}; give its key", keys.join(", "));
            Err(ApiError::new(ErrorKind::Ambiguous, "session_ambiguous", text))
        }
    }
}

/// Takes up the sessions of the last run; those whose process is gone are ended.
pub(super) async fn restore(mesh: &Arc<Mesh>) -> Result<(), ApiError> {
    let id = mesh.id();
    let store = mesh.store();
    for (key, at) in store.ended_list(&id).await.map_err(store_error)? {
        mesh.sessions.note_ended(key, at);
    }
    for row in store.session_list(Some(&id)).await.map_err(store_error)? {
        let (public, pid, process_start) = (row.key, row.pid, row.process_start);
        // A damaged key file must not keep the node from starting: the session is over then.
        let key = mesh.services.keyring.load_session(&public).unwrap_or_else(|e| {
            tracing::error!(key = %public.short(), "a session's key cannot be read: {e}");
            None
        });
        let ended_at = mesh.sessions.ended_at(&public);
        let Some(key) = key.filter(|k| k.public() == public) else {
            if ended_at.is_none() {
                mesh.sessions.note_ended(public, mesh.now());
                forget(mesh, &public, "its key is missing").await;
            }
            store.session_remove(&id, &public).await.map_err(store_error)?;
            continue;
        };
        let session = Arc::new(SessionHandle::new(row, key, mesh.pairs.key().clone()));
        // The broker may wait for it still.
        session.set_known();
        if let Some(at) = ended_at {
            mesh.sessions.note_ending(session, at);
            continue;
        }
        let why = if gone(pid, process_start).await {
            "its process is gone"
        } else {
            presence::restore(mesh, &public).await.map_err(store_error)?;
            if mesh.sessions.add(session.clone()) {
                continue;
            }
            "too many sessions run"
        };
        mesh.sessions.note_ending(session, mesh.now());
        forget(mesh, &public, why).await;
    }
    Ok(())
}

/// Whether the process is known to be gone.
async fn gone(pid: u32, start: u64) -> bool {
    match reap::look(pid).await {
        Ok(process) => !process.is_some_and(|p| p.is(start)),
        Err(e) => {
            tracing::debug!(pid, error = %e, "cannot see whether a session's process runs");
            false
        }
    }
}

/// Ends a session; nothing happens if it has ended already.
pub(super) async fn end(mesh: &Arc<Mesh>, key: &PublicKey, why: &str) {
    if finish(mesh, key, why, false).await {
        mesh.announce.notify_one();
    }
}

/// Ends a session, at once where the broker has `cut` it off; false if it had ended already.
async fn finish(mesh: &Arc<Mesh>, key: &PublicKey, why: &str, cut: bool) -> bool {
    let Some(session) = mesh.sessions.remove(key, mesh.now()) else { return false };
    forget(mesh, key, why).await;
    if cut {
        close::cut(mesh, &session).await;
    } else {
        close::advance_all(mesh).await;
    }
    mesh.services.tell(Event::Session {
        mesh: mesh.id(),
        key: *key,
        name: session.name.clone(),
        started: false,
        why: Some(why.to_owned()),
    });
    mesh.services.streams.look();
    true
}

/// Forgets what a session that is not live any more said of itself and has read; its member gets the
/// mail that nobody has seen.
async fn forget(mesh: &Arc<Mesh>, key: &PublicKey, why: &str) {
    tracing::info!(
        target: "meshwire::events::session::ended",
        mesh = %mesh.id().short(), key = %key.short(), why
    );
    mesh.own.remove(key);
    // Remembered on disk: late mail is to hear that it has ended.
    let shown = mesh.store().session_end(&mesh.id(), key, mesh.now()).await.unwrap_or_else(|e| {
        tracing::error!(error = %e, "a session's end cannot be written");
        Vec::new()
    });
    // What nobody has seen is the member's now.
    let of = |key| Addressee { mesh: mesh.id(), key };
    mesh.services.surfacer.hand_on(of(*key), of(mesh.row.self_key), shown).await;
}

/// The broker does not take the connection to speak for one of our sessions any more.
pub(super) async fn unbound(mesh: &Arc<Mesh>, key: &PublicKey, reason: UnboundReason) {
    let Some(session) = mesh.sessions.speaker(key) else { return };
    session.set_unbound();
    mesh.own.forgotten(key);
    match reason {
        UnboundReason::Kicked => {
            if !finish(mesh, key, "kicked by an admin", true).await {
                close::cut(mesh, &session).await;
            }
        }
        UnboundReason::Disconnected | UnboundReason::Expired => mesh.announce.notify_one(),
        UnboundReason::Replaced => {
            // Bound again it would take it back, and so on for ever.
            session.set_replaced(mesh.generation());
            tracing::warn!(
                target: "meshwire::events::session::replaced",
                mesh = %mesh.id().short(), key = %key.short(),
                "another connection of our member speaks for this session now"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_words_that_are_known() {
        assert_eq!(capabilities(None).unwrap(), Capabilities::All);
        let words = |w: &[&str]| capabilities(Some(w.iter().map(|w| (*w).to_owned()).collect()));
        assert_eq!(words(&[]).unwrap(), Capabilities::List(vec![]), "an empty list allows nothing");
        let list = words(&["inbox", "dm", "dm"]).unwrap();
        assert_eq!(list, Capabilities::List(vec!["dm".into(), "inbox".into()]));
        let e = words(&["presense"]).unwrap_err();
        assert_eq!(e.code, "bad_capability");
        for part in ["did you mean presence?", "dm, group, presence, inbox"] {
            assert!(e.message.contains(part), "{e}");
        }
        assert!(words(&["DM"]).is_err() && words(&[""]).is_err());
    }
}
