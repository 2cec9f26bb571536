//! Who asks, and as whom this node speaks: its member, or one of its sessions.

use std::sync::Arc;

use meshwire_signaling::attest::{Capabilities, IdentityKind};
use meshwire_signaling::seal::PairCache;
use meshwire_signaling::sign::Signed;
use meshwire_signaling::{Hash, MeshId, PublicKey};

use super::Node;
use super::find::{other_mesh, session_ended};
use super::mesh::Mesh;
use super::sessions::SessionHandle;
use crate::api::{ApiError, ErrorKind};

/// One of our identities in one mesh: the member, or a live session.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// What kind it is.
    pub(crate) kind: IdentityKind,
    /// Its key, and the shared keys made from it.
    pub(crate) pairs: Arc<PairCache>,
    /// For sessions: the member's word for it, valid now and for hours to come.
    pub(crate) attestation: Option<Signed>,
}

impl Identity {
    /// Its public key.
    pub(crate) fn key(&self) -> PublicKey {
        self.pairs.key().public()
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Who may read the home.
    Owner,
    /// The process behind a session, known by its token.
    Session(Arc<SessionHandle>),
}

/// What of a caller decides what it gets to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// Everything of the home.
    Owner,
    /// What concerns one session.
    Session {
        /// Its mesh.
        mesh: MeshId,
        /// Its key.
        key: PublicKey,
        /// Its member's key.
        member: PublicKey,
        /// Whether it may see what is for its member.
        inbox: bool,
    },
}

impl Node {
    /// This node as the session behind `token` sees it (64 hex digits, as it was given at the
    /// session's start).
    ///
    /// # Errors
    /// `bad_session`.
    pub fn as_session(&self, token: &str) -> Result<Self, ApiError> {
        let hash = token_hash(token);
        // All of them are looked at, each hash in constant time: the answer's delay says nothing.
        let mut found = None;
        for mesh in self.meshes() {
            for session in mesh.sessions.live() {
                if session.is_behind(&hash) {
                    found = Some(session);
                }
            }
        }
        let session = found.ok_or_else(|| {
            let text = "the session has ended or the token is wrong";
            ApiError::new(ErrorKind::Auth, "bad_session", text)
        })?;
        Ok(Self { inner: self.inner.clone(), caller: Caller::Session(session) })
    }

    /// The session that asks, if it is one.
    pub(crate) fn session(&self) -> Option<&Arc<SessionHandle>> {
        match &self.caller {
            Caller::Owner => None,
            Caller::Session(session) => Some(session),
        }
    }

    /// What the caller gets to know.
    #[must_use]
    pub fn viewer(&self) -> Viewer {
        match &self.caller {
            Caller::Owner => Viewer::Owner,
            Caller::Session(s) => Viewer::Session {
                mesh: s.mesh,
                key: s.key(),
                member: s.member,
                inbox: s.capabilities.allow(meshwire_signaling::attest::capability::INBOX),
            },
        }
    }

    /// Refuses a session that has ended.
    ///
    /// # Errors
    /// `bad_session`.
    pub(super) fn still_there(&self) -> Result<(), ApiError> {
        self.session().map_or(Ok(()), |_| self.pick(None).map(drop))
    }

    /// As whom the caller speaks in `mesh`.
    ///
    /// # Errors
    /// `other_mesh` for sessions of another mesh; `bad_session` for one that ended meanwhile.
    pub(super) fn author(&self, mesh: &Mesh) -> Result<Identity, ApiError> {
        let Some(session) = self.session() else { return Ok(mesh.member_identity()) };
        if session.mesh != mesh.id() {
            let own = self.pick(None)?;
            return Err(other_mesh(session, &own, &mesh.row.name));
        }
        let live = mesh.sessions.get(&session.key()).ok_or_else(|| session_ended(session))?;
        Ok(live.identity(mesh.now()))
    }

    /// Refuses sessions; `what` completes "only the home's owner may …".
    ///
    /// # Errors
    /// `owner_only`.
    pub(crate) fn owner_only(&self, what: &str) -> Result<(), ApiError> {
        match self.session() {
            None => Ok(()),
            Some(session) => {
                let text = format!(
                    "only the home's owner may {what}, session {} may not: run it without MESHWIRE_SESSION",
                    session.name
                );
                Err(ApiError::new(ErrorKind::Denied, "owner_only", text))
            }
        }
    }

    /// Whether the caller may do what `capability` stands for, one of
    /// [`meshwire_signaling::attest::capability`].
    ///
    /// # Errors
    /// `capability_missing`.
    pub(crate) fn may(&self, capability: &str) -> Result<(), ApiError> {
        match self.session() {
            Some(session) if !session.capabilities.allow(capability) => {
                let text = format!(
                    "session {} lacks the capability {capability}: it may {}",
                    session.name,
                    words(&session.capabilities)
                );
                Err(ApiError::new(ErrorKind::Denied, "capability_missing", text))
            }
            _ => Ok(()),
        }
    }
}

/// What capabilities allow, for people.
fn words(capabilities: &Capabilities) -> String {
    match capabilities {
        Capabilities::All => "do everything".to_owned(),
        Capabilities::List(words) if words.is_empty() => "do nothing but look".to_owned(),
        Capabilities::List(words) => format!("only {}", words.join(", ")),
    }
}

/// What is kept of a token. Tokens have 256 random bits, so a plain hash hides them.
pub(super) fn token_hash(token: &str) -> Hash {
    Hash::of(token.as_bytes())
}
