//! `meshwire send`

use std::io::Read as _;
use std::time::Duration;

use clap::ValueEnum;
use meshwire_peer::Agent;
use meshwire_peer::api::{Message, MessageStatus, Send, WaitFor};
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::limits::{MAX_BODY, ms};
use meshwire_signaling::{EnvelopeId, Priority};

use crate::context::{Context, PATIENCE};
use crate::duration;
use crate::exit::{Exit, Failed, invalid};

/// How long a background node is given to say more than `queued`: a broker answers sooner.
const GLANCE: Duration = Duration::from_millis(250);

/// Send a message to a member
///
/// It is on this machine's disk, sealed for the recipient, before this ends. `delivered` is said on
/// the recipient's own receipt only.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire send bob hello there\n  \
    meshwire send bob --wait delivered --priority now 'the build is broken'\n  \
    git log -1 | meshwire send 5f2c1a9e -")]
pub(crate) struct Args {
    /// Whom: a name, a key or its unique start
    peer: String,
    /// The text; several words are joined by spaces, a single - reads standard input
    #[arg(required = true)]
    message: Vec<String>,
    /// When it shows up: now interrupts, next waits for an idle moment, low for all others
    #[arg(long, value_enum, default_value_t = Urgency::Next)]
    priority: Urgency,
    /// Wait until a broker or peer has accepted it, or the recipient's receipt says delivered
    #[arg(long, value_enum, value_name = "STATE")]
    wait: Option<Until>,
    /// Longest wait, such as 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    timeout: Duration,
    /// How long it lives if it cannot be delivered, such as 12h [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    expires: Option<Duration>,
    /// The id of the message that it answers
    #[arg(long, value_name = "ID")]
    reply_to: Option<EnvelopeId>,
    /// Makes repeating this command harmless: the same key and text is the same message
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Urgency {
    Now,
    Next,
    Low,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Until {
    Accepted,
    Delivered,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let wait = args.wait.map(|w| match w {
        Until::Accepted => WaitFor::Accepted,
        Until::Delivered => WaitFor::Delivered,
    });
    let ask = Send {
        mesh: cx.mesh.clone(),
        to: args.peer,
        message: text(args.message).await?,
        priority: match args.priority {
            Urgency::Now => Priority::Now,
            Urgency::Next => Priority::Next,
            Urgency::Low => Priority::Low,
        },
        reply_to: args.reply_to,
        idempotency_key: args.idempotency_key,
        ttl_ms: args.expires.map(ms),
        wait,
        timeout_ms: wait.map(|_| ms(args.timeout)),
    };
    let (message, own) =
        cx.ask(async |agent| Ok((send(cx, agent, ask).await?, agent.is_own()))).await?;
    cx.out.show(&message, || describe(&message, own))?;
    conclude(&message, wait)
}

async fn send(cx: &Context, agent: &Agent, ask: Send) -> anyhow::Result<Message> {
    let waits = ask.wait.is_some();
    let ask = if waits || agent.is_own() {
        ask
    } else {
        Send { wait: Some(WaitFor::Accepted), timeout_ms: Some(ms(GLANCE)), ..ask }
    };
    let delivered = ask.wait == Some(WaitFor::Delivered);
    let _progress = cx.progress(if delivered { "waiting for the receipt" } else { "sending" });
    let message = agent.send(ask).await?;
    if waits || !agent.is_own() {
        return Ok(message);
    }
    // Nobody goes on when this process ends: give the message a chance to leave first.
    agent.settle(PATIENCE).await;
    let now = agent.message(MessageStatus { id: message.id.to_string() }).await?;
    Ok(Message { duplicate: message.duplicate, ..now })
}

/// The message's text, from the arguments or standard input.
async fn text(words: Vec<String>) -> anyhow::Result<String> {
    if words != ["-"] {
        return Ok(words.join(" "));
    }
    let read = tokio::task::spawn_blocking(|| {
        let mut bytes = Vec::new();
        let limit = MAX_BODY as u64 + 1;
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map(|_| bytes)
    });
    let bytes = read.await??;
    if bytes.len() > MAX_BODY {
        let text =
            format!("standard input holds more than {MAX_BODY} bytes, which no message does");
        return Err(invalid("message_too_large", text).into());
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let text = format!(
            "standard input is no UTF-8 text from byte {at} on: encode it, such as with base64"
        );
        invalid("message_not_text", text).into()
    })
}

/// Says where a message stands.
pub(super) fn describe(m: &Message, own: bool) -> String {
    let mut line = format!("{} {} to {} in {}", m.state.as_str(), m.id, m.to, m.mesh_name);
    if let Some(path) = &m.path {
        line.push_str(&format!(" by {path}"));
    }
    if let Some(reason) = &m.reason {
        line.push_str(&format!(": {reason}"));
    }
    if m.duplicate {
        line.push_str(" (it was sent before)");
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
    crate::output::clean_lines(&line)
}

/// Success, unless the message is lost or is not where it was waited for.
fn conclude(m: &Message, wait: Option<WaitFor>) -> anyhow::Result<Exit> {
    let fail = |code, message: String| Err(Failed { code, message }.into());
    let reason = m.reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default();
    match (m.state, wait) {
        (MessageState::Failed | MessageState::Expired, _) => {
            fail("not_sent", format!("the message to {} {}{reason}", m.to, m.state.as_str()))
        }
        (MessageState::Queued, Some(WaitFor::Accepted)) => {
            fail("not_accepted", format!("the message to {} is queued still{reason}", m.to))
        }
        (state, Some(WaitFor::Delivered)) if state != MessageState::Delivered => {
            let text = format!(
                "the message to {} is {}, not delivered yet{reason}; meshwire message status {} \
                 says when it is",
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
    use meshwire_signaling::PublicKey;

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
        }
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
        assert!(describe(&queued, true).contains("meshwire up keeps trying"));
        assert!(describe(&queued, false).contains("the node keeps trying"));
        assert!(!describe(&message(MessageState::Relayed), true).contains("trying"));
    }
}
