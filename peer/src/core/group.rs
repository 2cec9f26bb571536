//! Whom a text like `@ops` means, who gets a group's message, and where the whole of it stands.
//!
//! The sender decides from its own copy of the roster (design section 4): members who have joined
//! the group, or one below it, by their own signed word; everybody for `all`. Never itself, and
//! never who does not want to be listed.

use std::collections::BTreeSet;

use meshwire_signaling::PublicKey;
use meshwire_signaling::group::{ALL, GroupError, check_group_name, reaches};
use serde::{Deserialize, Serialize};

use super::outbox::OutboxState;

/// A member as far as groups go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The member.
    pub key: PublicKey,
    /// Whether it does not want to be listed.
    pub hidden: bool,
    /// Names of the groups that it is in.
    pub groups: Vec<String>,
}

/// The group that `to` names: `@name`, `@all`, or `*` for everybody. None where it names no group.
///
/// # Errors
/// [`GroupError::Name`] for what starts like a group but is none.
pub fn parse(to: &str) -> Option<Result<String, GroupError>> {
    if to == "*" {
        return Some(Ok(ALL.to_owned()));
    }
    let name = to.strip_prefix('@')?;
    Some(check_group_name(name).map(|()| name.to_owned()))
}

/// Who gets a message to the group `target` by `own`.
#[must_use]
pub fn recipients(target: &str, roster: &[Membership], own: &PublicKey) -> BTreeSet<PublicKey> {
    let reached = |m: &&Membership| {
        m.key != *own
            && !m.hidden
            && (target == ALL || m.groups.iter().any(|joined| reaches(target, joined)))
    };
    roster.iter().filter(reached).map(|m| m.key).collect()
}

/// Where a group's message stands with one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipientState {
    /// It has not answered: stands where the message itself stands.
    Open,
    /// Its receipt says that it has it.
    Delivered,
    /// Its time ran out before a receipt came.
    Expired,
    /// Refused for good.
    Failed,
}

impl RecipientState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Open, Self::Delivered, Self::Expired, Self::Failed];

    /// The stored word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Delivered => "delivered",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }

    /// Whether it may go there: the recipient's own receipt has the last word, as in
    /// [`super::outbox::advance`].
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        match (self, to) {
            (Self::Delivered, _) | (_, Self::Open) => false,
            (_, Self::Delivered) | (Self::Open, _) => true,
            (Self::Expired | Self::Failed, _) => false,
        }
    }

    /// The state in the words of the outbox, for a message that is in `whole`.
    #[must_use]
    pub const fn within(self, whole: OutboxState) -> OutboxState {
        match self {
            Self::Open => whole,
            Self::Delivered => OutboxState::Delivered,
            Self::Expired => OutboxState::Expired,
            Self::Failed => OutboxState::Failed,
        }
    }
}

/// How many recipients are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Have not answered.
    pub open: u64,
    /// Have it.
    pub delivered: u64,
    /// Did not answer in time.
    pub expired: u64,
    /// Refused it.
    pub failed: u64,
}

impl Tally {
    /// Counts `n` more in a state.
    pub fn add(&mut self, state: RecipientState, n: u64) {
        let count = match state {
            RecipientState::Open => &mut self.open,
            RecipientState::Delivered => &mut self.delivered,
            RecipientState::Expired => &mut self.expired,
            RecipientState::Failed => &mut self.failed,
        };
        *count = count.saturating_add(n);
    }
}

/// Where the whole message stands, and why, once nobody is open: the least advanced recipient
/// decides. None while somebody is, or for a message without recipients.
#[must_use]
pub fn standing(tally: &Tally) -> Option<(OutboxState, Option<String>)> {
    let Tally { open, delivered, expired, failed } = *tally;
    let all = delivered.saturating_add(expired).saturating_add(failed);
    match (open, failed, expired) {
        (1.., _, _) => None,
        _ if all == 0 => None,
        (_, 0, 0) => Some((OutboxState::Delivered, None)),
        (_, 0, late) => Some((OutboxState::Expired, Some(format!("{late} of {all} expired")))),
        (_, no, 0) => Some((OutboxState::Failed, Some(format!("{no} of {all} refused")))),
        (_, no, late) => {
            let reason = format!("{no} of {all} refused, {late} expired");
            Some((OutboxState::Failed, Some(reason)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u8, groups: &[&str]) -> Membership {
        let groups = groups.iter().map(|&g| g.to_owned()).collect();
        Membership { key: PublicKey([n; 32]), hidden: false, groups }
    }

    #[test]
    fn groups_are_told_from_members() {
        let name = |to| parse(to).map(Result::unwrap);
        assert_eq!(name("*").as_deref(), Some("all"));
        assert_eq!(name("@all").as_deref(), Some("all"));
        assert_eq!(name("@ops/db").as_deref(), Some("ops/db"));
        for peer in ["ops", "ana/agent", "", "**"] {
            assert!(parse(peer).is_none(), "{peer}");
        }
        for bad in ["@", "@Ops", "@a b", "@@all", "@ops/"] {
            assert!(matches!(parse(bad), Some(Err(GroupError::Name(_)))), "{bad}");
        }
    }

    #[test]
    fn a_group_is_who_joined_it_or_one_below_it_but_not_the_sender_nor_the_hidden() {
        let hidden = Membership { hidden: true, ..member(5, &["ops"]) };
        let roster = [
            member(1, &["ops"]),
            member(2, &["ops/db", "dev"]),
            member(3, &["opsen"]),
            member(4, &[]),
            hidden,
        ];
        let got = |target: &str, own: u8| {
            let keys = recipients(target, &roster, &PublicKey([own; 32]));
            keys.iter().map(|k| k.0[0]).collect::<Vec<_>>()
        };
        assert_eq!(got("ops", 4), [1, 2]);
        assert_eq!(got("ops", 1), [2], "never itself");
        assert_eq!(got("ops/db", 4), [2], "not those above");
        assert_eq!(got("all", 4), [1, 2, 3]);
        assert_eq!(got("nobody", 4), [0u8; 0]);
    }

    #[test]
    fn a_receipt_replaces_every_guess() {
        use RecipientState::{Delivered, Expired, Failed, Open};
        for from in RecipientState::ALL {
            assert!(!from.may_become(Open) && !from.may_become(from), "{from:?}");
            assert_eq!(from.may_become(Delivered), from != Delivered);
            assert_eq!(from.may_become(Failed), from == Open);
            assert_eq!(from.may_become(Expired), from == Open);
        }
    }

    #[test]
    fn the_least_advanced_recipient_decides() {
        let of = |open, delivered, expired, failed| {
            standing(&Tally { open, delivered, expired, failed })
        };
        let text = |s: &str| Some(s.to_owned());
        assert_eq!(of(0, 0, 0, 0), None);
        assert_eq!(of(1, 4, 0, 9), None);
        assert_eq!(of(0, 5, 0, 0), Some((OutboxState::Delivered, None)));
        assert_eq!(of(0, 3, 0, 2), Some((OutboxState::Failed, text("2 of 5 refused"))));
        assert_eq!(of(0, 3, 2, 0), Some((OutboxState::Expired, text("2 of 5 expired"))));
        assert_eq!(of(0, 2, 2, 1), Some((OutboxState::Failed, text("1 of 5 refused, 2 expired"))));
        let mut tally = Tally::default();
        for state in RecipientState::ALL {
            tally.add(state, 2);
        }
        assert_eq!(tally, Tally { open: 2, delivered: 2, expired: 2, failed: 2 });
        assert_eq!(RecipientState::Open.within(OutboxState::Relayed), OutboxState::Relayed);
        assert_eq!(RecipientState::Failed.within(OutboxState::Relayed), OutboxState::Failed);
    }
}
