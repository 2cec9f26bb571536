//! Groups: names, and a member's word that it joins or leaves one.
//!
//! A statement is durable and signed by the member itself, so that nobody else, the broker included,
//! puts a member in a group. Of two statements by one member about one group the later one counts.
//!
//! Names are hierarchical: who is in `ops/db/backup` is in `ops/db` and in `ops` too (inventory
//! B-080). Everybody is in [`ALL`], without a statement.

use serde::{Deserialize, Serialize};

use crate::UnixMillis;
use crate::id::{MeshId, PublicKey, SecretKey};
use crate::sign::{SignError, Signed, domains};

/// The group of all members (inventory B-079).
pub const ALL: &str = "all";
/// Longest name of a group, in bytes.
pub const MAX_GROUP_NAME: usize = 128;
/// Longest role in a group, in bytes. Roles are free words (inventory B-078).
pub const MAX_GROUP_ROLE: usize = 64;

/// What a statement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupAction {
    /// The member is in the group, with the role given.
    Join,
    /// It is not.
    Leave,
}

/// A member's word about itself and one group. Signed under [`domains::GROUP`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupStatement {
    /// The mesh.
    pub mesh: MeshId,
    /// The member who speaks and signs.
    pub member: PublicKey,
    /// The group's name without `@`.
    pub group: String,
    /// Whether it joins or leaves.
    pub action: GroupAction,
    /// Its role there, where it joins with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// When, Unix milliseconds; grows with each statement of one member about one group.
    pub at: UnixMillis,
}

/// Why a group's name or a statement was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The name is none.
    #[error(
        "{0:?} is no group name: use words of a-z, 0-9, '-', '_' and '.', with '/' in between, \
         at most {MAX_GROUP_NAME} characters, for example ops or ops/db"
    )]
    Name(String),
    /// Nobody joins or leaves the group of everybody.
    #[error("every member is in @{ALL}: nobody joins or leaves it")]
    Everybody,
    /// The role is too long or has control characters.
    #[error("a role in a group has 1 to {MAX_GROUP_ROLE} bytes and no control characters")]
    Role,
    /// It is about another mesh or member.
    #[error("the statement is about another mesh or member")]
    Mismatch,
    /// It does not decode, or its signature does not hold.
    #[error(transparent)]
    Signature(#[from] SignError),
}

/// Checks the name of a group, [`ALL`] included.
///
/// # Errors
/// [`GroupError::Name`].
pub fn check_group_name(name: &str) -> Result<(), GroupError> {
    let word = |w: &str| {
        !w.is_empty()
            && w.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'))
    };
    if name.len() <= MAX_GROUP_NAME && name.split('/').all(word) {
        Ok(())
    } else {
        Err(GroupError::Name(name.chars().take(40).collect()))
    }
}

/// Whether who is in `joined` is reached by a message to `target`: the same group, or one above it.
#[must_use]
pub fn reaches(target: &str, joined: &str) -> bool {
    joined.strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl GroupStatement {
    /// Signs the statement with the member's key.
    #[must_use]
    pub fn sign(&self, member: &SecretKey) -> Signed {
        Signed::new(member, domains::GROUP, self)
    }

    /// Checks a statement by `member` in `mesh`.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn verify(signed: &Signed, mesh: &MeshId, member: &PublicKey) -> Result<Self, GroupError> {
        let s: Self = signed.peek()?;
        if s.mesh != *mesh || s.member != *member {
            return Err(GroupError::Mismatch);
        }
        if s.group == ALL {
            return Err(GroupError::Everybody);
        }
        check_group_name(&s.group)?;
        let plain = |r: &String| {
            !r.is_empty() && r.len() <= MAX_GROUP_ROLE && !r.chars().any(char::is_control)
        };
        if !s.role.as_ref().is_none_or(plain) {
            return Err(GroupError::Role);
        }
        signed.verify(member, domains::GROUP)?;
        Ok(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_with_slashes() {
        for good in ["all", "ops", "ops/db", "a.b-c_1/x", "0"] {
            assert!(check_group_name(good).is_ok(), "{good}");
        }
        let long = "x".repeat(129);
        for bad in ["", "/", "ops/", "/ops", "a//b", "Ops", "o p", "@ops", "ö", long.as_str()] {
            assert!(check_group_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_group_reaches_those_below_it_and_no_others() {
        assert!(reaches("ops", "ops") && reaches("ops", "ops/db") && reaches("ops/db", "ops/db/x"));
        assert!(!reaches("ops/db", "ops") && !reaches("ops", "opsen") && !reaches("ops", "dev"));
    }

    #[test]
    fn a_statement_is_its_members_own() {
        let (key, eve) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let mesh = MeshId([3; 32]);
        let s = GroupStatement {
            mesh,
            member: key.public(),
            group: "ops".into(),
            action: GroupAction::Join,
            role: Some("lead".into()),
            at: 5,
        };
        let verify = |s: &GroupStatement, by: &SecretKey| {
            GroupStatement::verify(&s.sign(by), &mesh, &key.public())
        };
        assert_eq!(verify(&s, &key), Ok(s.clone()));
        assert!(matches!(verify(&s, &eve), Err(GroupError::Signature(_))));
        let other = GroupStatement { member: eve.public(), ..s.clone() };
        assert_eq!(verify(&other, &eve), Err(GroupError::Mismatch));
        let everybody = GroupStatement { group: ALL.into(), ..s.clone() };
        assert_eq!(verify(&everybody, &key), Err(GroupError::Everybody));
        let role = GroupStatement { role: Some("a\nb".into()), ..s };
        assert_eq!(verify(&role, &key), Err(GroupError::Role));
    }
}
