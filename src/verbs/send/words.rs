//! Where a message stands, in words, and whether that is what was asked for.

use meshwire_peer::api::{Message, WaitFor};
use meshwire_signaling::frame::MessageState;

use crate::exit::{Exit, Failed};
use crate::output::{Table, clean_lines, wrap};
use crate::when;

/// Most recipients that an error names.
const MAX_NAMED: usize = 5;

/// Whether it will not arrive any more.
fn is_lost(state: MessageState) -> bool {
    matches!(state, MessageState::Failed | MessageState::Expired)
}

/// Whether it may still go on.
pub(super) fn is_open(state: MessageState) -> bool {
    state != MessageState::Delivered && !is_lost(state)
}

/// How many recipients are in a state.
pub(super) fn count(m: &Message, state: MessageState) -> usize {
    m.recipients.iter().filter(|r| r.state == state).count()
}

/// Whether another message goes on in its place; for programs it has failed.
fn is_requeued(m: &Message) -> bool {
    m.superseded_by.is_some() && m.state == MessageState::Failed
}

/// The word for where a message stands.
pub(in crate::verbs) fn word(m: &Message) -> &'static str {
    if is_requeued(m) { "requeued" } else { m.state.as_str() }
}

/// Says where a message stands, on a terminal of so many columns or in a pipe; with `each`, also with
/// each recipient of a group.
pub(in crate::verbs) fn describe(
    m: &Message,
    own: bool,
    each: bool,
    columns: Option<usize>,
) -> String {
    let mut line = format!("{} {} to {} in {}", word(m), m.id, m.to, m.mesh_name);
    if let Some(path) = &m.path {
        line.push_str(&format!(" by {path}"));
    }
    if !m.recipients.is_empty() {
        let s = if m.recipients.len() == 1 { "" } else { "s" };
        line.push_str(&format!(" for {} member{s}", m.recipients.len()));
        let there = count(m, MessageState::Delivered);
        if there > 0 && there < m.recipients.len() {
            let have = if there == 1 { "has" } else { "have" };
            line.push_str(&format!(", {there} of them {have} it"));
        }
    }
    // Why it failed before is of no interest once it goes on.
    if let Some(reason) = m.reason.as_ref().filter(|_| !is_requeued(m)) {
        line.push_str(&format!(": {reason}"));
    }
    if m.duplicate {
        line.push_str(" (it was sent before)");
    }
    if let Some(next) = &m.superseded_by {
        line.push_str(&format!("\nIts text goes on as {next}."));
    }
    match (m.state, own) {
        (MessageState::Queued, true) => {
            line.push_str("\nIt waits on this machine: meshwire up keeps trying in the background.")
        }
        (MessageState::Queued, false) => {
            line.push_str("\nIt waits on this machine: the node keeps trying.");
        }
        _ => {}
    }
    let mut text = clean_lines(&line);
    if let Some(columns) = columns {
        text = text.lines().map(|l| wrap(l, columns, 0, 4)).collect::<Vec<_>>().join("\n");
    }
    if each && !m.recipients.is_empty() {
        text.push('\n');
        text.push_str(&recipients(m).render(columns));
    }
    text
}

/// Where a group's message stands with each recipient, those who do not have it first.
fn recipients(m: &Message) -> Table {
    let mut sorted: Vec<_> = m.recipients.iter().collect();
    sorted.sort_by_key(|r| r.state == MessageState::Delivered);
    let rows = sorted.into_iter().map(|r| {
        let at = r.at.map(when::utc).unwrap_or_default();
        let why = r.reason.clone().unwrap_or_default();
        [r.name.clone(), r.key.short(), r.state.as_str().to_owned(), at, why]
    });
    Table::new(["RECIPIENT", "KEY", "STATE", "AT", "WHY"], rows)
}

/// Success, unless the message is lost or is not where it was waited for.
pub(super) fn conclude(m: &Message, wait: Option<WaitFor>) -> anyhow::Result<Exit> {
    let fail = |code, message: String| Err(Failed { code, message }.into());
    let reason = m.reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default();
    let without = m.recipients.iter().filter(|r| is_lost(r.state));
    let without: Vec<&str> = without.map(|r| r.name.as_str()).collect();
    match (m.state, wait) {
        (_, Some(_)) if !without.is_empty() => {
            let (n, all) = (without.len(), m.recipients.len());
            let mut names = without.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
            if n > MAX_NAMED {
                names.push_str(" and others");
            }
            fail("not_sent", format!("{n} of {all} members of {} do not get it: {names}", m.to))
        }
        (MessageState::Failed | MessageState::Expired, _) => {
            fail("not_sent", format!("the message to {} {}{reason}", m.to, m.state.as_str()))
        }
        (MessageState::Queued, Some(WaitFor::Accepted)) => {
            fail("not_accepted", format!("the message to {} is queued still{reason}", m.to))
        }
        (state, Some(WaitFor::Delivered)) if state != MessageState::Delivered => {
            let stands = match m.recipients.len() {
                0 => "not delivered yet".to_owned(),
                all => {
                    let there = count(m, MessageState::Delivered);
                    format!("delivered to {there} of {all} members so far")
                }
            };
            let text = format!(
                "the message to {} is {}, {stands}{reason}; meshwire message status {} says when \
                 it is",
                m.to,
                state.as_str(),
                m.id
            );
            fail("not_delivered", text)
        }
        _ => Ok(Exit::Ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_peer::api::Recipient;
    use meshwire_signaling::{EnvelopeId, Priority, PublicKey};

    fn message(state: MessageState) -> Message {
        Message {
            id: EnvelopeId::new(1, 2),
            mesh_name: "home".into(),
            to: "bob".into(),
            to_key: PublicKey([1; 32]),
            priority: Priority::Next,
            state,
            reason: None,
            path: None,
            attempts: 0,
            created_at: 0,
            accepted_at: None,
            delivered_at: None,
            expires_at: 1,
            duplicate: false,
            superseded_by: None,
            recipients: Vec::new(),
        }
    }

    fn group(states: &[(&str, MessageState)], whole: MessageState) -> Message {
        let recipient = |(name, state): &(&str, MessageState)| Recipient {
            name: (*name).to_owned(),
            key: PublicKey([2; 32]),
            state: *state,
            reason: (*state == MessageState::Failed).then(|| "refused".to_owned()),
            at: None,
        };
        let recipients = states.iter().map(recipient).collect();
        Message { to: "@ops".into(), recipients, ..message(whole) }
    }

    #[test]
    fn a_group_says_how_many_and_fails_if_one_does() {
        use MessageState::{Delivered, Failed, Relayed};
        let fresh = group(&[("bob", Relayed), ("cy", Relayed)], Relayed);
        let text = describe(&fresh, false, false, Some(100));
        assert!(text.ends_with("to @ops in home for 2 members"), "{text}");
        assert!(conclude(&fresh, None).is_ok());
        let part = group(&[("bob", Delivered), ("cy", Relayed)], Relayed);
        assert!(describe(&part, false, false, None).contains("1 of them has it"));
        let e = conclude(&part, Some(WaitFor::Delivered)).unwrap_err().to_string();
        assert!(e.contains("delivered to 1 of 2 members so far"), "{e}");
        let narrow = describe(&part, false, true, Some(60));
        assert!(narrow.lines().all(|l| l.chars().count() <= 60), "{narrow}");
        let refused = group(&[("bob", Delivered), ("cy", Failed)], Failed);
        for wait in [WaitFor::Accepted, WaitFor::Delivered] {
            let e = conclude(&refused, Some(wait)).unwrap_err().to_string();
            assert!(e.contains("1 of 2 members of @ops do not get it: cy"), "{e}");
        }
        let all = describe(&refused, false, true, Some(100));
        let lines: Vec<&str> = all.lines().collect();
        assert!(lines[1].starts_with("RECIPIENT") && lines[2].starts_with("cy"), "{all}");
        assert!(lines[2].contains("failed") && lines[3].starts_with("bob"), "{all}");
    }

    #[test]
    fn what_was_requeued_is_not_said_to_have_failed() {
        let (old, next) = (message(MessageState::Failed), EnvelopeId::new(3, 4));
        let old = Message { superseded_by: Some(next), reason: Some("expired".into()), ..old };
        let text = describe(&old, false, true, None);
        assert!(text.starts_with("requeued ") && !text.contains("expired"), "{text}");
        assert!(text.ends_with(&format!("Its text goes on as {next}.")), "{text}");
    }

    #[test]
    fn a_wait_that_is_not_reached_fails() {
        use MessageState::{Delivered, Expired, Failed, Queued, Relayed};
        let (accepted, delivered) = (Some(WaitFor::Accepted), Some(WaitFor::Delivered));
        for (state, wait, ok) in [
            (Queued, None, true),
            (Queued, accepted, false),
            (Queued, delivered, false),
            (Relayed, accepted, true),
            (Relayed, delivered, false),
            (Delivered, accepted, true),
            (Delivered, delivered, true),
            (Expired, None, false),
            (Failed, accepted, false),
        ] {
            assert_eq!(conclude(&message(state), wait).is_ok(), ok, "{state:?} {wait:?}");
        }
    }

    #[test]
    fn a_queued_message_says_who_goes_on() {
        let queued = message(MessageState::Queued);
        assert!(describe(&queued, true, true, None).contains("meshwire up keeps trying"));
        assert!(describe(&queued, false, true, None).contains("the node keeps trying"));
        assert!(!describe(&message(MessageState::Relayed), true, true, None).contains("trying"));
    }
}
