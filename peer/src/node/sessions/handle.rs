//! One running session: its key, what vouches for it, and how it stands with the broker.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use meshwire_signaling::attest::{Attestation, Capabilities, IdentityKind};
use meshwire_signaling::limits::{ATTESTATION_TTL, ms};
use meshwire_signaling::seal::PairCache;
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{Hash, MeshId, PublicKey, SecretKey, UnixMillis};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

use crate::node::identity::Identity;
use crate::store::SessionRow;

/// Age at which an attestation is replaced: half its life, so that no message leaves with one that
/// is about to end.
pub(super) const RENEW_MS: u64 = ms(ATTESTATION_TTL) / 2;
/// Pairs kept per half of a session's cache.
const PAIRS: usize = 256;

/// The member's word for the session.
#[derive(Clone, Debug)]
struct Minted {
    signed: Signed,
    issued_at: UnixMillis,
}

/// See the module's documentation.
pub(crate) struct SessionHandle {
    /// Its mesh.
    pub(crate) mesh: MeshId,
    /// Its name.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) capabilities: Capabilities,
    /// Its process.
    pub(crate) pid: u32,
    /// When the process was started, see [`crate::core::process`].
    pub(crate) process_start: u64,
    /// When the session was started, Unix milliseconds.
    pub(crate) started_at: UnixMillis,
    /// Our member in the mesh, who vouches.
    pub(crate) member: PublicKey,
    vouching: SecretKey,
    pairs: Arc<PairCache>,
    token: Hash,
    attestation: Mutex<Option<Minted>>,
    /// The link's generation that it is bound in; 0: in none.
    bound: watch::Sender<u64>,
    /// Whether the broker may have heard of it.
    known: AtomicBool,
    /// The link's generation in which another connection has taken it over.
    replaced: AtomicU64,
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle")
            .field("key", &self.key())
            .field("name", &self.name)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl SessionHandle {
    /// A session with its key; `vouching` is the member's.
    pub(super) fn new(row: SessionRow, key: SecretKey, vouching: SecretKey) -> Self {
        Self {
            mesh: row.mesh,
            name: row.name,
            capabilities: row.capabilities,
            pid: row.pid,
            process_start: row.process_start,
            started_at: row.started_at,
            member: vouching.public(),
            vouching,
            pairs: Arc::new(PairCache::new(key, PAIRS)),
            token: row.token_hash,
            attestation: Mutex::default(),
            bound: watch::Sender::new(0),
            known: AtomicBool::new(false),
            replaced: AtomicU64::new(0),
        }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.pairs.key().public()
    }

    pub(super) fn secret(&self) -> &SecretKey {
        self.pairs.key()
    }

    pub(crate) fn pairs(&self) -> &Arc<PairCache> {
        &self.pairs
    }

    /// Whether the token with this hash is its own; in constant time.
    pub(crate) fn is_behind(&self, token: &Hash) -> bool {
        self.token.0.ct_eq(&token.0).into()
    }

    /// The member's word for it, at most half its life old at `now`.
    pub(super) fn attestation(&self, now: UnixMillis) -> Signed {
        let mut kept = self.attestation.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_ref() {
            // Of the future: the clock was set back, and others may find it too long-lived.
            Some(m) if m.issued_at <= now && now - m.issued_at < RENEW_MS => m.signed.clone(),
            _ => self.mint(&mut kept, now),
        }
    }

    /// A fresh word, as each connect wants it (inventory A-006).
    pub(super) fn attest_afresh(&self, now: UnixMillis) -> Signed {
        self.mint(&mut self.attestation.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    fn mint(&self, kept: &mut Option<Minted>, now: UnixMillis) -> Signed {
        let attestation = Attestation {
            mesh: self.mesh,
            member: self.member,
            key: self.key(),
            kind: IdentityKind::Session,
            name: self.name.clone(),
            capabilities: self.capabilities.clone(),
            issued_at: now,
            expires_at: now.saturating_add(ms(ATTESTATION_TTL)),
        };
        let signed = attestation.sign(&self.vouching);
        *kept = Some(Minted { signed: signed.clone(), issued_at: now });
        signed
    }

    /// When the attestation is to be replaced, Unix milliseconds.
    pub(super) fn renew_at(&self) -> UnixMillis {
        let kept = self.attestation.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().map_or(0, |m| m.issued_at.saturating_add(RENEW_MS))
    }

    /// As whom it speaks at `now`.
    pub(crate) fn identity(&self, now: UnixMillis) -> Identity {
        Identity {
            kind: IdentityKind::Session,
            pairs: self.pairs.clone(),
            attestation: Some(self.attestation(now)),
        }
    }

    /// Whether it is bound in the link's connection of this generation.
    pub(crate) fn is_bound(&self, generation: u64) -> bool {
        generation != 0 && *self.bound.borrow() == generation
    }

    /// Whether it is to be bound in the link's connection of this generation.
    pub(super) fn wants_bind(&self, generation: u64, now: UnixMillis) -> bool {
        let replaced = self.replaced.load(Ordering::Acquire) == generation;
        !replaced && (!self.is_bound(generation) || self.renew_at() <= now)
    }

    pub(super) fn set_bound(&self, generation: u64) {
        self.bound.send_replace(generation);
    }

    /// Whether the broker may have heard of it, in this run of the node or an earlier one.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    pub(super) fn set_known(&self) {
        self.known.store(true, Ordering::Release);
    }

    /// The broker has ended it itself.
    pub(super) fn set_unknown(&self) {
        self.known.store(false, Ordering::Release);
    }

    pub(super) fn set_unbound(&self) {
        self.bound.send_replace(0);
    }

    pub(super) fn set_replaced(&self, generation: u64) {
        self.replaced.store(generation, Ordering::Release);
    }

    /// Waits until it is bound.
    pub(super) async fn bound(&self) {
        // Its sender lives as long as the session.
        let _ = self.bound.subscribe().wait_for(|generation| *generation != 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_700_000_000_000;

    fn session() -> SessionHandle {
        let key = SecretKey::from_seed(&[2; 32]);
        let row = SessionRow {
            mesh: MeshId([1; 32]),
            key: key.public(),
            name: "agent".into(),
            capabilities: Capabilities::List(vec!["dm".into()]),
            pid: 1,
            process_start: 2,
            token_hash: Hash::of(b"token"),
            started_at: NOW,
        };
        SessionHandle::new(row, key, SecretKey::from_seed(&[3; 32]))
    }

    #[test]
    fn a_message_never_leaves_with_an_attestation_that_is_about_to_end() {
        let s = session();
        let first = s.attestation(NOW);
        assert_eq!(s.attestation(NOW + RENEW_MS - 1), first);
        let second = s.attestation(NOW + RENEW_MS);
        assert_ne!(second, first);
        assert_ne!(s.attestation(NOW - 1), second, "the clock was set back");
        let a = Attestation::verify(&second, &s.mesh, &s.member, NOW + RENEW_MS).unwrap();
        assert_eq!((a.key, a.name.as_str()), (s.key(), "agent"));
        assert_eq!(a.capabilities, s.capabilities);
    }

    #[test]
    fn it_is_bound_once_per_connection_and_again_at_half_of_its_attestation() {
        let s = session();
        assert!(s.wants_bind(1, NOW));
        s.attest_afresh(NOW);
        s.set_bound(1);
        assert!(!s.wants_bind(1, NOW) && s.wants_bind(2, NOW) && s.wants_bind(1, NOW + RENEW_MS));
        s.set_unbound();
        assert!(s.wants_bind(1, NOW));
        s.set_replaced(1);
        assert!(!s.wants_bind(1, NOW) && s.wants_bind(2, NOW));
    }

    #[test]
    fn only_its_own_token_is_known_and_nothing_of_it_is_shown() {
        let s = session();
        assert!(s.is_behind(&Hash::of(b"token")) && !s.is_behind(&Hash::of(b"Token")));
        let shown = format!("{s:?}");
        assert!(shown.contains("agent") && !shown.contains("token"), "{shown}");
    }
}
