//! Which genuine credentials count no more.

use std::collections::HashMap;
use std::sync::Arc;

use super::member::Username;
use super::{MAX_TTL, Member};

/// Why a credential is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No username of the right form.
    Malformed,
    /// Its time is over, or further away than any of ours.
    Expired,
    /// Its member was deleted after it was made, or it was revoked.
    Void,
}

/// Deleted members and revoked credentials, each remembered until all credentials that it
/// concerns have expired.
#[derive(Debug, Default)]
pub(crate) struct Void {
    /// Member id to when it was deleted, Unix milliseconds.
    members: HashMap<Arc<str>, u64>,
    /// Username to its expiry, Unix seconds.
    usernames: HashMap<Box<str>, u64>,
}

impl Void {
    /// Whose username it is, if it may still be used and its password turns out right.
    pub(crate) fn check(&self, username: &str, unix_ms: u64) -> Result<Member, Denied> {
        let name = Username::parse(username).ok_or(Denied::Malformed)?;
        let unix = unix_ms / 1_000;
        if name.expiry <= unix || name.expiry - unix > MAX_TTL {
            return Err(Denied::Expired);
        }
        let deleted = self.members.get(name.member.id()).is_some_and(|at| name.issued <= *at);
        if deleted || self.usernames.contains_key(username) {
            return Err(Denied::Void);
        }
        Ok(name.member)
    }

    /// All that `member` (of any kind) was given until now counts no more.
    pub(crate) fn delete_member(&mut self, member: &str, unix_ms: u64) {
        self.prune(unix_ms);
        self.members.insert(member.into(), unix_ms);
    }

    /// One credential counts no more.
    pub(crate) fn revoke(&mut self, username: &str, unix_ms: u64) {
        self.prune(unix_ms);
        if let Some(name) = Username::parse(username) {
            self.usernames.insert(username.into(), name.expiry);
        }
    }

    fn prune(&mut self, unix_ms: u64) {
        let unix = unix_ms / 1_000;
        self.members.retain(|_, at| (*at / 1_000).saturating_add(MAX_TTL) > unix);
        self.usernames.retain(|_, expiry| *expiry > unix && *expiry - unix <= MAX_TTL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Kind, Secret};

    #[test]
    fn what_was_deleted_is_void_and_what_came_after_is_not() {
        let (mut void, secret) = (Void::default(), Secret::new("s"));
        let member = Member::new(Kind::Member, "m1").unwrap();
        let first = secret.issue(&member, 600, 5_000);
        assert!(void.check(&first.username, 5_000).is_ok());
        void.delete_member("m1", 6_000);
        assert_eq!(void.check(&first.username, 6_000).unwrap_err(), Denied::Void);
        assert_eq!(void.check("600:m1", 6_000).unwrap_err(), Denied::Void);
        let second = secret.issue(&member, 600, 6_001);
        assert!(void.check(&second.username, 6_001).is_ok());
        void.revoke(&second.username, 6_002);
        assert_eq!(void.check(&second.username, 6_002).unwrap_err(), Denied::Void);
        assert_eq!(void.check(&second.username, 700_000).unwrap_err(), Denied::Expired);
    }

    #[test]
    fn it_is_remembered_until_nothing_it_concerns_can_be_valid() {
        let mut void = Void::default();
        void.delete_member("a", 0);
        void.revoke("100:a", 0);
        void.delete_member("b", (MAX_TTL - 1) * 1_000);
        assert_eq!((void.members.len(), void.usernames.len()), (2, 0));
        void.delete_member("c", MAX_TTL * 1_000);
        assert_eq!(void.members.len(), 2);
        assert_eq!(void.check(&format!("{}:x", MAX_TTL + 1), 0).unwrap_err(), Denied::Expired);
    }
}
