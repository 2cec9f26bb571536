//! A group's message whose recipients are not those who are in the group now.
//!
//! The broker says who lacks a wrap and who is not to have one. Whoever is added must be in the group
//! by its own signed word in our own roster; whoever is left out is left out at the broker's word, who
//! could keep the message from them anyhow. Id, signature and ciphertext stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshwire_signaling::frame::{ErrorFrame, code};
use meshwire_signaling::seal::Wrap;
use meshwire_signaling::{PublicKey, Target};
use meshwire_transport::link::{Handed, LinkError, MessageLink as _};

use super::mesh::Mesh;
use super::seal::{content_key, to_send, wraps};
use super::{groups, roster};
use crate::store::{NewRecipient, OutboxRow, Rewrap};

/// Rounds at once; after that the message waits as for any other refusal.
const ROUNDS: u32 = 5;
/// Members that are asked for one by one; if there are more, the whole roster is.
const ASKED_ALONE: usize = 16;

/// Sends a group's message again and again with the recipients put right, after the refusal `first`.
pub(super) async fn follow(
    mesh: &Arc<Mesh>,
    mut row: OutboxRow,
    first: LinkError,
) -> Result<Handed, LinkError> {
    let mut refusal = first;
    for _ in 0..ROUNDS {
        let LinkError::RecipientsChanged { missing, gone } = &refusal else { break };
        look(mesh, missing, gone).await;
        match correct(mesh, &mut row, gone).await {
            Ok(Corrected::Changed) => {}
            Ok(Corrected::Same) => return Err(refusal),
            Ok(Corrected::Nobody) => {
                let text = "nobody is in the group any more";
                let frame = ErrorFrame::permanent(code::UNKNOWN_TARGET, text);
                return Err(LinkError::Refused(Box::new(frame)));
            }
            Err(why) => {
                tracing::warn!(id = %row.meta.id, "recipients not put right: {why}");
                return Err(refusal);
            }
        }
        let sent = mesh.link.send(to_send(row.envelope.clone(), &row.meta.author)).await;
        let answer = match sent {
            Ok(ticket) => ticket.await,
            Err(e) => Err(e),
        };
        match answer {
            Err(e @ LinkError::RecipientsChanged { .. }) => refusal = e,
            other => return other,
        }
    }
    Err(refusal)
}

/// Brings our roster up to date as to these members.
async fn look(mesh: &Arc<Mesh>, missing: &[PublicKey], gone: &[PublicKey]) {
    if missing.len() + gone.len() > ASKED_ALONE {
        roster::refresh(mesh).await;
        return;
    }
    for key in missing.iter().chain(gone) {
        // Unanswered: then what we know decides.
        if roster::fetch(mesh, None, Some(*key)).await.is_none() {
            return;
        }
    }
}

/// Whom to add and whom to leave out, given who has a wrap, who is in the group by our roster, and
/// whom the broker calls gone.
fn difference(
    wrapped: &BTreeSet<PublicKey>,
    ours: &BTreeSet<PublicKey>,
    gone: &[PublicKey],
) -> (BTreeSet<PublicKey>, BTreeSet<PublicKey>) {
    let wanted: BTreeSet<_> = ours.iter().filter(|k| !gone.contains(k)).copied().collect();
    let added = wanted.difference(wrapped).copied().collect();
    let dropped = wrapped.difference(&wanted).copied().collect();
    (added, dropped)
}

/// What putting the recipients right has led to.
enum Corrected {
    /// There are others now, in the store too.
    Changed,
    /// Our roster gives no reason to change anything, or the message has moved on.
    Same,
    /// Nobody is to get it any more.
    Nobody,
}

/// Puts wraps and recipients right.
async fn correct(
    mesh: &Mesh,
    row: &mut OutboxRow,
    gone: &[PublicKey],
) -> Result<Corrected, String> {
    let Target::Group { name } = &row.meta.target else { return Ok(Corrected::Same) };
    let own = row.meta.author;
    let mut members: BTreeMap<PublicKey, String> = groups::audience(mesh, name)
        .await
        .map_err(|e| e.to_string())?
        .into_iter()
        .map(|r| (r.key, r.name))
        .collect();
    let wrapped: BTreeSet<_> =
        row.envelope.wraps.iter().map(|w| w.to).filter(|to| *to != own).collect();
    let ours: BTreeSet<_> = members.keys().copied().collect();
    let (added, dropped) = difference(&wrapped, &ours, gone);
    if added.is_empty() && dropped.is_empty() {
        return Ok(Corrected::Same);
    }
    let author = mesh.identity(&own).ok_or("the session that wrote it has ended")?;
    let key = content_key(&author, &row.envelope)?;
    let mut all: Vec<Wrap> = row.envelope.wraps.clone();
    all.retain(|w| !dropped.contains(&w.to));
    let fresh = wraps(mesh, &author, &key, added.into_iter()).await;
    let added = fresh
        .iter()
        .map(|w| NewRecipient { key: w.to, name: members.remove(&w.to).unwrap_or_default() });
    let added: Vec<NewRecipient> = added.collect();
    all.extend(fresh);
    if all.iter().all(|w| w.to == own) {
        return Ok(Corrected::Nobody);
    }
    let change = Rewrap {
        mesh: row.meta.mesh,
        id: row.meta.id,
        wraps: all,
        added,
        gone: dropped.into_iter().collect(),
    };
    if !mesh.store().rewrap(&change).await.map_err(|e| e.to_string())? {
        return Ok(Corrected::Same);
    }
    row.envelope.wraps = change.wraps;
    Ok(Corrected::Changed)
}

/// Whether [`correct`] has changed anything.
#[cfg(test)]
pub(super) async fn changed(mesh: &Mesh, row: &mut OutboxRow, gone: &[PublicKey]) -> bool {
    matches!(correct(mesh, row, gone).await, Ok(Corrected::Changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &[u8]) -> BTreeSet<PublicKey> {
        keys.iter().map(|&n| PublicKey([n; 32])).collect()
    }

    #[test]
    fn only_our_roster_adds_and_the_broker_may_leave_out() {
        let gone = |keys: &[u8]| set(keys).into_iter().collect::<Vec<_>>();
        let of = |wrapped: &[u8], ours: &[u8], left: &[u8]| {
            difference(&set(wrapped), &set(ours), &gone(left))
        };
        assert_eq!(of(&[1, 2], &[1, 2], &[]), (set(&[]), set(&[])));
        assert_eq!(of(&[1, 2], &[1, 2, 3], &[]), (set(&[3]), set(&[])));
        assert_eq!(of(&[1, 2], &[2, 3], &[]), (set(&[3]), set(&[1])));
        assert_eq!(of(&[1, 2], &[1, 2], &[2]), (set(&[]), set(&[2])), "at its word");
        // Even if our roster still has it; and it is not added back in the same breath.
        assert_eq!(of(&[1], &[1, 2], &[2]), (set(&[]), set(&[])));
    }
}
