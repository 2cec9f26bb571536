//! Which rows a drain takes.

use meshwire_signaling::PublicKey;

use super::outbox::OutboxMeta;
use crate::core::outbox::LATE;

/// Whose rows are taken from the outbox; a session's are its member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick<'a> {
    /// These peers' alone; without, everybody's.
    pub only: Option<&'a [PublicKey]>,
    /// Of these peers' only what is [late](LATE): their paths have enough to do.
    pub busy: &'a [PublicKey],
}

impl<'a> Pick<'a> {
    /// Everybody's.
    pub const ALL: Pick<'static> = Pick { only: None, busy: &[] };

    /// These peers' alone.
    #[must_use]
    pub const fn only(peers: &'a [PublicKey]) -> Self {
        Self { only: Some(peers), busy: &[] }
    }

    /// Whether a row is among them.
    #[must_use]
    pub fn takes(&self, row: &OutboxMeta) -> bool {
        let peer = row.member.unwrap_or(row.recipient);
        self.only.is_none_or(|only| only.contains(&peer))
            && (!self.busy.contains(&peer) || row.reason.as_deref() == Some(LATE))
    }
}
