//! `meshwire message status`

use clap::Subcommand;
use meshwire_peer::Agent;
use meshwire_peer::api::{Message, MessageStatus};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::verbs::send::describe;

/// Ask about a message that was sent
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire message status 01JQ4T5ZK0")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(Status),
}

/// Say where a message stands, with each recipient of a group, and what goes on in its place
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire message status 01JQ4T5ZK0")]
struct Status {
    /// The message's id, as `meshwire send` prints it, or its unique start
    id: String,
}

/// Most messages that take one another's place: a session's mail that moves on again and again.
const MAX_STEPS: usize = 16;

/// What `--json` prints.
#[derive(Serialize)]
struct Stands<'a> {
    #[serde(flatten)]
    message: &'a Message,
    /// The messages that went on in its place, one after the other.
    #[serde(skip_serializing_if = "<[Message]>::is_empty")]
    then: &'a [Message],
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let Command::Status(Status { id }) = args.command;
    let (message, then, own) = cx
        .ask(async |agent| {
            let ask = MessageStatus { id };
            // Unknown ids need no broker.
            agent.message(ask.clone()).await?;
            cx.settle(agent).await;
            let message = agent.message(ask).await?;
            let then = follow(agent, &message).await?;
            Ok((message, then, agent.is_own()))
        })
        .await?;
    cx.out.show(&Stands { message: &message, then: &then }, || {
        let all = std::iter::once(&message).chain(&then);
        all.map(|m| describe(m, own, true, cx.out.width())).collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Ok)
}

/// The messages that went on in the place of one.
async fn follow(agent: &Agent, first: &Message) -> anyhow::Result<Vec<Message>> {
    let mut then: Vec<Message> = Vec::new();
    let mut next = first.superseded_by;
    while let Some(id) = next.filter(|_| then.len() < MAX_STEPS) {
        let message = agent.message(MessageStatus { id: id.to_string() }).await?;
        next = message.superseded_by;
        then.push(message);
    }
    Ok(then)
}
