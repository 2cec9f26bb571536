//! Who of a mesh is there right now, as the broker tells it; nothing of this is kept on disk.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwire_signaling::attest::{Attestation, Capabilities, IdentityKind};
use meshwire_signaling::frame::{About, Attendance};
use meshwire_signaling::limits::{MAX_ATTESTATION_TTL, ms};
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{PublicKey, UnixMillis};

/// What is known of a member's presence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerView {
    /// Whether it is there: connected, or lost for less than the lease's time.
    pub(crate) online: bool,
    /// When it last came or went, Unix milliseconds.
    pub(crate) since: Option<UnixMillis>,
    /// Whether it does not want to be listed.
    pub(crate) hidden: bool,
    /// Whether its node, as the broker last told, makes no direct paths.
    pub(crate) indirect: bool,
    /// Whether its node, as the broker last told, knows no streams.
    pub(crate) streamless: bool,
    /// What it says of itself.
    pub(crate) about: About,
    /// Its identities that are there: sessions and services, whose attestations hold, and its own
    /// connection as kind `member`.
    pub(crate) sessions: Vec<SessionView>,
}

/// What is known of one identity that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionView {
    /// Its key.
    pub(crate) key: PublicKey,
    /// What it is; `member` for the member's own connection.
    pub(crate) kind: IdentityKind,
    /// Its name by its attestation.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) capabilities: Capabilities,
    /// Whether it can be heard.
    pub(crate) attendance: Attendance,
    /// Since when it is there, Unix milliseconds.
    pub(crate) since: UnixMillis,
    /// What it says of itself; for a member's own connection that stands with the member.
    pub(crate) about: About,
    /// Its member's word for it; a member's own connection needs none.
    pub(crate) word: Option<Arc<Word>>,
}

/// A member's word for a session or service, verified when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// As it came.
    pub(crate) signed: Signed,
    /// What it says.
    pub(crate) attestation: Attestation,
}

impl Word {
    /// Whether it holds at `now` for an identity of this kind, so that it need not be verified again.
    /// What has come to live too long, because our clock was set back, is judged anew.
    pub(crate) fn holds(&self, kind: IdentityKind, now: UnixMillis) -> bool {
        let left = self.attestation.expires_at.saturating_sub(now);
        self.attestation.kind == kind && left > 0 && left <= ms(MAX_ATTESTATION_TTL)
    }
}

impl PeerView {
    /// Whether it is there, but none of its identities can be heard.
    pub(crate) fn reconnecting(&self) -> bool {
        self.online
            && !self.sessions.is_empty()
            && self.sessions.iter().all(|s| s.attendance == Attendance::Grace)
    }
}

/// The views of a mesh's members, by member key.
#[derive(Debug, Default)]
pub(crate) struct Views(Mutex<HashMap<PublicKey, PeerView>>);

impl Views {
    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, PeerView>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, member: &PublicKey) -> Option<PeerView> {
        self.lock().get(member).cloned()
    }

    /// A member's word for one of its identities that are there.
    pub(crate) fn word(&self, member: &PublicKey, key: &PublicKey) -> Option<Arc<Word>> {
        let views = self.lock();
        views.get(member)?.sessions.iter().find(|s| s.key == *key)?.word.clone()
    }

    pub(crate) fn put(&self, member: PublicKey, view: PeerView) {
        self.lock().insert(member, view);
    }

    /// Changes a member's view, made if there is none.
    pub(crate) fn change(&self, member: PublicKey, change: impl FnOnce(&mut PeerView)) {
        change(self.lock().entry(member).or_default());
    }

    pub(crate) fn count_online(&self) -> u64 {
        self.lock().values().filter(|v| v.online).count() as u64
    }

    /// Members that do not want to be listed.
    pub(crate) fn hidden(&self) -> BTreeSet<PublicKey> {
        self.lock().iter().filter(|(_, v)| v.hidden).map(|(member, _)| *member).collect()
    }

    /// Sessions and services that are there, with their members' keys.
    pub(crate) fn sessions(&self) -> Vec<(PublicKey, SessionView)> {
        let views = self.lock();
        let all = views.iter().flat_map(|(member, v)| v.sessions.iter().map(|s| (*member, s)));
        all.filter(|(_, s)| s.kind != IdentityKind::Member).map(|(m, s)| (m, s.clone())).collect()
    }
}
