//! A member vouching for a further key: a session's or a service's. One shape for both.
//! Minted afresh at each connect; lives 12 hours by default and never more than 24
//! (inventory ).

use serde::{Deserialize, Serialize};

use crate::UnixMillis;
use crate::id::{MeshId, PublicKey, SecretKey, check_name};
use crate::limits::{MAX_ATTESTATION_TTL, SKEW, ms};
use crate::sign::{SignError, Signed, domains};

/// What kind of identity a key is (inventory A-001).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// A machine's durable key.
    Member,
    /// A running agent's key.
    Session,
    /// A delegate with a key and scopes of its own.
    Service,
}

/// What an attested key may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capabilities {
    /// Everything its member may: written out, never implied by an absent or empty list.
    All,
    /// Only these; an empty list means nothing (inventory X13).
    List(Vec<String>),
}

/// Words of [`Capabilities::List`]. A word that a reader does not know allows nothing there.
pub mod capability {
    /// Writing to members, sessions and services.
    pub const DM: &str = "dm";
    /// Writing to groups, everybody included.
    pub const GROUP: &str = "group";
    /// Changing one's own status, summary and profile.
    pub const PRESENCE: &str = "presence";
    /// Reading what is for the member, beside one's own mail. Enforced by the member's node.
    pub const INBOX: &str = "inbox";
    /// All of them.
    pub const ALL: [&str; 4] = [DM, GROUP, PRESENCE, INBOX];
}

/// Most words in a list of capabilities.
pub const MAX_CAPABILITIES: usize = 32;
/// Longest of them, in bytes.
pub const MAX_CAPABILITY: usize = 32;

impl Capabilities {
    /// Whether `word`, one of [`capability`], is allowed.
    #[must_use]
    pub fn allow(&self, word: &str) -> bool {
        match self {
            Self::All => true,
            Self::List(words) => words.iter().any(|w| w == word),
        }
    }
}

/// The signed statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The mesh.
    pub mesh: MeshId,
    /// The member who vouches and signs.
    pub member: PublicKey,
    /// The key vouched for.
    pub key: PublicKey,
    /// What it is: session or service.
    pub kind: IdentityKind,
    /// Its name, for people.
    pub name: String,
    /// What it may do.
    pub capabilities: Capabilities,
    /// When it was signed, Unix milliseconds.
    pub issued_at: UnixMillis,
    /// When it ends, Unix milliseconds.
    pub expires_at: UnixMillis,
}

/// Why an attestation was refused, in the order in which it is checked (inventory A-005).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestationError {
    /// It does not decode, or vouches for a member, or for another mesh.
    #[error("malformed attestation: {0}")]
    Malformed(String),
    /// Its time is over.
    #[error("the attestation has expired")]
    Expired,
    /// It asks for more than 24 hours.
    #[error("the attestation lives longer than 24 hours")]
    TtlTooLong,
    /// It vouches for another key, or is by another member, than the one shown.
    #[error("the attestation is for another key")]
    Mismatch,
    /// The member did not sign it.
    #[error("the attestation's signature does not hold")]
    BadSignature,
}

impl Attestation {
    /// Signs the statement with the member's key.
    #[must_use]
    pub fn sign(&self, member: &SecretKey) -> Signed {
        Signed::new(member, domains::ATTESTATION, self)
    }

    /// Checks `signed` at time `at`: `now` at hello or bind, `sent_at` for an envelope's proof.
    ///
    /// # Errors
    /// The first thing wrong, in the order of [`AttestationError`].
    pub fn verify(
        signed: &Signed,
        mesh: &MeshId,
        member: &PublicKey,
        at: UnixMillis,
    ) -> Result<Self, AttestationError> {
        let a: Self = signed.peek().map_err(|e| AttestationError::Malformed(e.to_string()))?;
        if a.kind == IdentityKind::Member {
            return Err(AttestationError::Malformed("a member needs no attestation".into()));
        }
        if a.mesh != *mesh {
            return Err(AttestationError::Malformed("it is for another mesh".into()));
        }
        check_name(&a.name).map_err(|e| AttestationError::Malformed(e.to_string()))?;
        if let Capabilities::List(words) = &a.capabilities
            && (words.len() > MAX_CAPABILITIES || words.iter().any(|w| w.len() > MAX_CAPABILITY))
        {
            let text = "it lists too many capabilities, or too long ones";
            return Err(AttestationError::Malformed(text.into()));
        }
        if a.expires_at <= at {
            return Err(AttestationError::Expired);
        }
        if a.expires_at > at.saturating_add(ms(MAX_ATTESTATION_TTL)).saturating_add(ms(SKEW)) {
            return Err(AttestationError::TtlTooLong);
        }
        if a.member != *member {
            return Err(AttestationError::Mismatch);
        }
        match signed.verify(member, domains::ATTESTATION) {
            Ok(()) => Ok(a),
            Err(SignError::Malformed(e)) => Err(AttestationError::Malformed(e.to_string())),
            Err(_) => Err(AttestationError::BadSignature),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn sample() -> (SecretKey, Attestation) {
        let member = SecretKey::from_seed(&[1; 32]);
        let a = Attestation {
            mesh: MeshId([9; 32]),
            member: member.public(),
            key: SecretKey::from_seed(&[2; 32]).public(),
            kind: IdentityKind::Session,
            name: "agent".into(),
            capabilities: Capabilities::List(vec![]),
            issued_at: NOW,
            expires_at: NOW + 1000,
        };
        (member, a)
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let (member, a) = sample();
        let (mesh, key) = (a.mesh, member.public());
        let verify = |a: &Attestation| Attestation::verify(&a.sign(&member), &mesh, &key, NOW);
        assert_eq!(verify(&a), Ok(a.clone()));
        let with = |f: &dyn Fn(&mut Attestation)| {
            let mut a = a.clone();
            f(&mut a);
            verify(&a).unwrap_err()
        };
        assert_eq!(with(&|a| a.expires_at = NOW), AttestationError::Expired);
        assert_eq!(with(&|a| a.expires_at = NOW + 90_000_000), AttestationError::TtlTooLong);
        assert_eq!(with(&|a| a.member = a.key), AttestationError::Mismatch);
        assert!(matches!(with(&|a| a.mesh = MeshId([0; 32])), AttestationError::Malformed(_)));
        assert!(matches!(with(&|a| a.kind = IdentityKind::Member), AttestationError::Malformed(_)));
        let stranger = SecretKey::from_seed(&[3; 32]);
        let forged = Attestation::verify(&a.sign(&stranger), &mesh, &key, NOW);
        assert_eq!(forged, Err(AttestationError::BadSignature));
    }
}
