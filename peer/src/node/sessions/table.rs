//! The sessions of one mesh: those that run, and those that ended and what is left to do for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use meshwire_signaling::attest::IdentityKind;
use meshwire_signaling::seal::PairCache;
use meshwire_signaling::{MeshId, PublicKey, UnixMillis};

use super::SessionHandle;
use crate::core::inbox::Keys;

/// Most sessions of a mesh that speak at once: a broker takes 64 identities per connection, and the
/// member is one; one is left for a session whose end the broker has not heard of yet.
pub(crate) const MAX_SESSIONS: usize = 62;
/// Most ended sessions that are remembered; the longest ended is forgotten first.
const MAX_ENDED: usize = 65_536;
/// How long the key of an ended session stays in memory, in milliseconds: mail that it had stored may
/// come once more, because its receipt was lost.
const LINGER_MS: u64 = 600_000;
/// Most ended sessions whose keys stay in memory for that.
const MAX_LINGERING: usize = 1_024;

/// How far the end of a session is. Its row and its key are on disk until it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its mail has not settled: it goes on speaking.
    Mail {
        /// Whether all of it has left, so that only receipts are waited for.
        left: bool,
        /// Since when receipts could have come, Unix milliseconds.
        since: Option<UnixMillis>,
    },
    /// The broker is to hear that it has ended.
    Unbind,
    /// Nothing is left to do.
    Over,
}

impl Stage {
    const FIRST: Self = Self::Mail { left: false, since: None };
}

/// A session that has ended.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) session: Arc<SessionHandle>,
    pub(super) stage: Stage,
    at: UnixMillis,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Sessions {
    live: RwLock<BTreeMap<PublicKey, Arc<SessionHandle>>>,
    /// The member's key and those of the live sessions.
    keys: RwLock<Arc<Keys>>,
    ended: Mutex<HashMap<PublicKey, UnixMillis>>,
    ending: Mutex<BTreeMap<PublicKey, Ending>>,
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
            ending: Mutex::default(),
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

    /// Adds a session; false if there are [`MAX_SESSIONS`] that speak.
    pub(super) fn add(&self, session: Arc<SessionHandle>) -> bool {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if live.len() + self.give_way(live.len()) >= MAX_SESSIONS {
            return false;
        }
        self.change_keys(|keys| keys.insert(IdentityKind::Session, session.pairs().clone()));
        live.insert(session.key(), session);
        true
    }

    /// How many ended sessions still speak beside `live` others. Where there is no room for one more,
    /// the longest ended that waits for receipts alone waits no longer.
    fn give_way(&self, live: usize) -> usize {
        let mut ending = self.ending();
        let speaking = |e: &&mut Ending| matches!(e.stage, Stage::Mail { .. });
        let count = ending.values_mut().filter(speaking).count();
        if live + count < MAX_SESSIONS {
            return count;
        }
        let waits = |e: &&mut Ending| matches!(e.stage, Stage::Mail { left: true, .. });
        match ending.values_mut().filter(waits).min_by_key(|e| e.at) {
            Some(oldest) => {
                oldest.stage = Stage::Unbind;
                count - 1
            }
            None => count,
        }
    }

    /// Takes away a session that nobody has heard of.
    pub(super) fn discard(&self, key: &PublicKey) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.remove(key);
        self.change_keys(|keys| keys.remove(key));
    }

    /// Takes a session away, to be remembered as ended; none if it was not there.
    pub(super) fn remove(&self, key: &PublicKey, now: UnixMillis) -> Option<Arc<SessionHandle>> {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let session = live.remove(key)?;
        // Before its key goes: mail for it is always either opened or answered with its end.
        self.note_ending(session.clone(), now);
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

    /// When this session of ours has ended.
    pub(super) fn ended_at(&self, key: &PublicKey) -> Option<UnixMillis> {
        self.ended().get(key).copied()
    }

    /// Whether this was a session of ours.
    pub(crate) fn has_ended(&self, key: &PublicKey) -> bool {
        self.ended().contains_key(key) || self.ending().contains_key(key)
    }

    fn ending(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Ending>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a session that ended at `at`; what is left to do for it begins.
    pub(super) fn note_ending(&self, session: Arc<SessionHandle>, at: UnixMillis) {
        self.note_ended(session.key(), at);
        let ending = Ending { session, stage: Stage::FIRST, at };
        self.ending().insert(ending.session.key(), ending);
    }

    /// Those that ended and for which something is left to do, longest ended first.
    pub(super) fn unfinished(&self) -> Vec<Ending> {
        let ending = self.ending();
        let mut out: Vec<_> = ending.values().filter(|e| e.stage != Stage::Over).cloned().collect();
        out.sort_by_key(|e| e.at);
        out
    }

    /// Moves the end of a session on; nothing goes back.
    pub(super) fn set_stage(&self, key: &PublicKey, stage: Stage) {
        let mut all = self.ending();
        let Some(ending) = all.get_mut(key) else { return };
        match (ending.stage, stage) {
            (Stage::Over, _) | (Stage::Unbind, Stage::Mail { .. }) => {}
            _ => ending.stage = stage,
        }
    }

    /// Forgets keys that nobody will ask for any more.
    pub(super) fn forget_keys(&self, now: UnixMillis) {
        let mut ending = self.ending();
        let over = |e: &Ending| e.stage == Stage::Over;
        ending.retain(|_, e| !over(e) || e.at.saturating_add(LINGER_MS) > now);
        let mut lingering: Vec<_> =
            ending.values().filter(|e| over(e)).map(|e| (e.at, e.session.key())).collect();
        lingering.sort_unstable();
        lingering.truncate(lingering.len().saturating_sub(MAX_LINGERING));
        for (_, key) in lingering {
            ending.remove(&key);
        }
    }

    /// Who speaks on the link: the live ones, and those whose mail has not settled.
    pub(super) fn speaking(&self) -> Vec<Arc<SessionHandle>> {
        let mut out = self.live();
        let ending = self.ending();
        let speaking = ending.values().filter(|e| matches!(e.stage, Stage::Mail { .. }));
        out.extend(speaking.map(|e| e.session.clone()));
        out
    }

    /// The session with this key, if it speaks.
    pub(crate) fn speaker(&self, key: &PublicKey) -> Option<Arc<SessionHandle>> {
        self.get(key).or_else(|| {
            let ending = self.ending();
            let found = ending.get(key).filter(|e| matches!(e.stage, Stage::Mail { .. }));
            found.map(|e| e.session.clone())
        })
    }

    /// The session with this key, if it has ended and its key is still there.
    pub(crate) fn lately(&self, key: &PublicKey) -> Option<Arc<SessionHandle>> {
        self.ending().get(key).map(|e| e.session.clone())
    }
}
