//! Members and what a username says of them.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// Longest member id, bytes.
const MAX_MEMBER: usize = 160;

/// What kind of member, for the metrics alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A node's own key.
    Member,
    /// A session of a member.
    Session,
    /// Whoever got a credential elsewhere.
    Other,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Member, Self::Session, Self::Other];

    fn letter(self) -> &'static str {
        match self {
            Self::Member => "m",
            Self::Session => "s",
            Self::Other => "o",
        }
    }

    /// As metrics name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Session => "session",
            Self::Other => "other",
        }
    }
}

/// Not a member's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error(
    "{0:?} cannot be in a TURN username: use 1 to {MAX_MEMBER} letters, digits, '-', '_', '@' and '+'"
)]
pub struct MemberError(String);

/// Whom an allocation belongs to: quotas and deletion go by it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Member {
    kind: Kind,
    id: Arc<str>,
}

impl Member {
    /// `id` is what the owner of this server calls them, such as mesh id and key.
    ///
    /// # Errors
    /// [`MemberError`] for an id that a username cannot hold.
    pub fn new(kind: Kind, id: &str) -> Result<Self, MemberError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '@' | '+');
        if id.is_empty() || id.len() > MAX_MEMBER || !id.chars().all(fits) {
            return Err(MemberError(id.chars().take(MAX_MEMBER).collect()));
        }
        Ok(Self { kind, id: id.into() })
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.id)
    }
}

/// What a client is given.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// USERNAME.
    pub username: String,
    /// The long-term password.
    pub password: Zeroizing<String>,
    /// Seconds until it expires.
    pub ttl: u64,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

/// A username, taken apart. Says nothing of whether it is genuine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Username {
    /// Unix seconds.
    pub(crate) expiry: u64,
    /// Unix milliseconds; 0 where it does not say.
    pub(crate) issued: u64,
    pub(crate) member: Member,
}

impl Username {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (expiry, rest) = text.split_once(':')?;
        let expiry = number(expiry)?;
        let mut parts = rest.splitn(3, '.');
        let ours = parts.next().and_then(number).zip(parts.next()).zip(parts.next());
        if let Some(((issued, letter), id)) = ours
            && let Some(kind) = Kind::ALL.into_iter().find(|k| k.letter() == letter)
            && let Ok(member) = Member::new(kind, id)
        {
            return Some(Self { expiry, issued, member });
        }
        if rest.is_empty() || rest.len() > MAX_MEMBER {
            return None;
        }
        Some(Self { expiry, issued: 0, member: Member { kind: Kind::Other, id: rest.into() } })
    }

    pub(crate) fn text(&self) -> String {
        let Self { expiry, issued, member } = self;
        format!("{expiry}:{issued}.{}.{}", member.kind.letter(), member.id)
    }
}

/// Decimal digits alone: `parse` would take a sign too.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usernames_are_read_back() {
        let member = Member::new(Kind::Session, "mesh-key_0").unwrap();
        let name = Username { expiry: 1_700_000_000, issued: 1_699_999_000_123, member };
        assert_eq!(name.text(), "1700000000:1699999000123.s.mesh-key_0");
        assert_eq!(Username::parse(&name.text()), Some(name));
    }

    #[test]
    fn other_issuers_name_whom_they_like() {
        for (text, id) in [("17:alice", "alice"), ("17:1.x.y", "1.x.y"), ("17:1.m.", "1.m.")] {
            let name = Username::parse(text).unwrap();
            assert_eq!((name.expiry, name.issued), (17, 0));
            assert_eq!((name.member.kind(), name.member.id()), (Kind::Other, id));
        }
        let long = format!("17:{}", "a".repeat(MAX_MEMBER + 1));
        for text in ["", "alice", "alice:17", "+17:a", "17:", "99999999999999999999:a", &long] {
            assert_eq!(Username::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ids_that_a_username_cannot_hold_are_refused() {
        for id in ["", "a.b", "a:b", "a b", "ä", &"a".repeat(MAX_MEMBER + 1)] {
            assert!(Member::new(Kind::Member, id).is_err(), "{id}");
        }
    }
}
