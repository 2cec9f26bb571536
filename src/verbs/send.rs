//! `meshwire send` and `meshwire broadcast`

mod words;

use std::io::Read as _;
use std::time::Duration;

use clap::ValueEnum;
use meshwire_peer::api::{Message, MessageStatus, Send, WaitFor};
use meshwire_peer::{Agent, core};
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::group::ALL;
use meshwire_signaling::limits::{MAX_BODY, ms};
use meshwire_signaling::{EnvelopeId, Priority};

use crate::context::{Context, PATIENCE};
use crate::duration;
use crate::exit::{Exit, invalid};

use words::{conclude, count, is_open};
pub(super) use words::{describe, word};

/// How long a background node is given to say more than `queued`: a broker answers sooner.
const GLANCE: Duration = Duration::from_millis(250);
/// Between two looks at which of a group's receipts have come.
const LOOK: Duration = Duration::from_millis(100);

/// Send a message to a member, a session or a group
///
/// It is on this machine's disk, sealed for the recipient, before this ends. `delivered` is said on
/// the recipient's own receipt only. A group's message goes to every member in it at the time, those
/// who are away included, but not to its sender.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire send bob hello there\n  \
    meshwire send bob/agent --priority now 'the build is broken'\n  \
    meshwire send @ops --wait delivered 'the disk is full'\n  \
    git log -1 | meshwire send 5f2c1a9e -")]
pub(crate) struct Args {
    /// Whom: a name, a key or its unique start; member/session; @group, @all for everybody
    peer: String,
    #[command(flatten)]
    what: What,
}

/// Send a message to every member: short for send @all
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire broadcast --wait delivered 'back in ten minutes'")]
pub(crate) struct Broadcast {
    #[command(flatten)]
    what: What,
}

#[derive(Debug, clap::Args)]
struct What {
    /// The text; several words are joined by spaces, a single - reads standard input
    #[arg(required = true)]
    message: Vec<String>,
    /// When it shows up: now interrupts, next waits for an idle moment, low for all others
    #[arg(long, value_enum, default_value_t = Urgency::Next)]
    priority: Urgency,
    /// Wait until a broker or peer has accepted it, or every recipient's receipt says delivered
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
pub(super) enum Urgency {
    Now,
    Next,
    Low,
}

impl From<Urgency> for Priority {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Now => Self::Now,
            Urgency::Next => Self::Next,
            Urgency::Low => Self::Low,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Until {
    Accepted,
    Delivered,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    deliver(cx, args.peer, args.what).await
}

pub(crate) async fn broadcast(cx: &Context, args: Broadcast) -> anyhow::Result<Exit> {
    deliver(cx, format!("@{ALL}"), args.what).await
}

async fn deliver(cx: &Context, to: String, what: What) -> anyhow::Result<Exit> {
    let wait = what.wait.map(|w| match w {
        Until::Accepted => WaitFor::Accepted,
        Until::Delivered => WaitFor::Delivered,
    });
    let ask = Send {
        mesh: cx.mesh.clone(),
        to,
        message: text(what.message).await?,
        priority: what.priority.into(),
        reply_to: what.reply_to,
        idempotency_key: what.idempotency_key,
        ttl_ms: what.expires.map(ms),
        wait,
        timeout_ms: wait.map(|_| ms(what.timeout)),
    };
    let (message, own) = cx
        .ask(async |agent| {
            if agent.is_own() && core::group::parse(&ask.to).is_some() {
                // Who is in a group is the broker's to tell.
                cx.settle(agent).await;
            }
            Ok((send(cx, agent, ask).await?, agent.is_own()))
        })
        .await?;
    let each = wait == Some(WaitFor::Delivered);
    cx.out.show(&message, || describe(&message, own, each, cx.out.width()))?;
    conclude(&message, wait)
}

async fn send(cx: &Context, agent: &Agent, ask: Send) -> anyhow::Result<Message> {
    let (wait, timeout) = (ask.wait, ask.timeout_ms);
    if wait == Some(WaitFor::Delivered) && core::group::parse(&ask.to).is_some() {
        return gather(cx, agent, ask, Duration::from_millis(timeout.unwrap_or(0))).await;
    }
    let ask = if wait.is_some() || agent.is_own() {
        ask
    } else {
        Send { wait: Some(WaitFor::Accepted), timeout_ms: Some(ms(GLANCE)), ..ask }
    };
    let delivered = ask.wait == Some(WaitFor::Delivered);
    let _progress = cx.progress(if delivered { "waiting for the receipt" } else { "sending" });
    let message = agent.send(ask).await?;
    if wait.is_some() || !agent.is_own() {
        return Ok(message);
    }
    // Nobody goes on when this process ends: give the message a chance to leave first.
    agent.settle(PATIENCE).await;
    look(agent, &message).await
}

/// Sends to a group and shows how many receipts have come, until all have or the time is over.
async fn gather(
    cx: &Context,
    agent: &Agent,
    ask: Send,
    timeout: Duration,
) -> anyhow::Result<Message> {
    let until = cx.net.now() + timeout;
    let progress = cx.progress("sending");
    let ask = Send { wait: Some(WaitFor::Accepted), ..ask };
    let mut message = agent.send(ask).await?;
    while message.recipients.iter().any(|r| is_open(r.state)) && cx.net.now() < until {
        let (there, all) = (count(&message, MessageState::Delivered), message.recipients.len());
        progress.say(format!("{there} of {all} have it"));
        tokio::time::sleep(LOOK).await;
        message = look(agent, &message).await?;
    }
    Ok(message)
}

/// The message as it stands now.
async fn look(agent: &Agent, sent: &Message) -> anyhow::Result<Message> {
    let now = agent.message(MessageStatus { id: sent.id.to_string() }).await?;
    Ok(Message { duplicate: sent.duplicate, ..now })
}

/// The message's text, from the arguments or standard input.
async fn text(words: Vec<String>) -> anyhow::Result<String> {
    if words != ["-"] {
        return not_empty(words.join(" "), "the message");
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
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let text = format!(
            "standard input is no UTF-8 text from byte {at} on: encode it, such as with base64"
        );
        invalid("message_not_text", text)
    })?;
    not_empty(text, "standard input")
}

/// Refuses what says nothing: most likely a variable or a command's output that is missing.
fn not_empty(text: String, what: &str) -> anyhow::Result<String> {
    if text.trim().is_empty() {
        let text = format!("{what} is empty: give a text, or - to read it from standard input");
        return Err(invalid("message_empty", text).into());
    }
    Ok(text)
}
