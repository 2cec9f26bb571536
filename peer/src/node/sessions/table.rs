//! The sessions of one mesh: those that run, those that ended, and what the broker is to hear.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::seal::PairCache;
use meshwire_signaling::{MeshId, PublicKey, UnixMillis};

use super::SessionHandle;
use crate::core::inbox::Keys;

/// Most sessions of a mesh that run at once: a broker takes 64 identities per connection, and the
/// member is one; one is left for a session whose end the broker has not heard of yet.
pub(crate) const MAX_SESSIONS: usize = 62;
/// Most ended sessions that are remembered; the longest ended is forgotten first.
const MAX_ENDED: usize = 65_536;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Sessions {
    live: RwLock<BTreeMap<PublicKey, Arc<SessionHandle>>>,
    /// The member's key and those of the live sessions.
    keys: RwLock<Arc<Keys>>,
    ended: Mutex<HashMap<PublicKey, UnixMillis>>,
    /// Ended, and the broker has not been told.
    unbind: Mutex<Vec<Arc<SessionHandle>>>,
}

impl Sessions {
    /// No session yet; `pairs` are the member's.
    pub(crate) fn new(mesh: MeshId, pairs: Arc<PairCache>) -> Self {
        let mut keys = Keys::new(mesh);
        keys.insert(IdentityKind::Member, pairs);
        Self {
            live: RwLock::default(),
            keys: RwLock::new(Arc::new(keys)),
            ended: Mutex::default(),
            unbind: Mutex::default(),
        }
    }

    /// All that run, by key.
    pub(crate) fn live(&self) -> Vec<Arc<SessionHandle>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn get(&self, key: &PublicKey) -> Option<Arc<SessionHandle>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// The keys that mail may be for.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a session; false if there are [`MAX_SESSIONS`].
    pub(super) fn add(&self, session: Arc<SessionHandle>) -> bool {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if live.len() >= MAX_SESSIONS {
            return false;
        }
        self.change_keys(|keys| keys.insert(IdentityKind::Session, session.pairs().clone()));
        live.insert(session.key(), session);
        true
    }

    /// Takes a session away, to be remembered as ended; none if it was not there.
    pub(super) fn remove(&self, key: &PublicKey, now: UnixMillis) -> Option<Arc<SessionHandle>> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let session = live.remove(key)?;
        // Before its key goes: mail for it is always either opened or answered with its end.
        self.note_ended(*key, now);
        self.change_keys(|keys| keys.remove(key));
        Some(session)
    }

    fn change_keys(&self, change: impl FnOnce(&mut Keys)) {
        let mut kept = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut keys = Keys::clone(&kept);
        change(&mut keys);
        *kept = Arc::new(keys);
    }

    fn ended(&self) -> MutexGuard<'_, HashMap<PublicKey, UnixMillis>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_ended(&self, key: PublicKey, at: UnixMillis) {
        let mut ended = self.ended();
        ended.insert(key, at);
        if ended.len() > MAX_ENDED
            && let Some(oldest) = ended.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key)
        {
            ended.remove(&oldest);
        }
    }

    /// Whether this was a session of ours.
    pub(crate) fn has_ended(&self, key: &PublicKey) -> bool {
        self.ended().contains_key(key)
    }

    fn unbinding(&self) -> MutexGuard<'_, Vec<Arc<SessionHandle>>> {
        self.unbind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The broker is to hear that this session has ended.
    pub(super) fn queue_unbind(&self, session: Arc<SessionHandle>) {
        self.unbinding().push(session);
    }

    /// Whom the broker is to hear of.
    pub(super) fn take_unbind(&self) -> Vec<Arc<SessionHandle>> {
        std::mem::take(&mut *self.unbinding())
    }
}
