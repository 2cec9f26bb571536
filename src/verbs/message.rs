//! `meshwire message status`

use clap::Subcommand;
use meshwire_peer::api::MessageStatus;

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

/// Say where a message stands
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire message status 01JQ4T5ZK0")]
struct Status {
    /// The message's id, as `meshwire send` prints it, or its unique start
    id: String,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let Command::Status(Status { id }) = args.command;
    let (message, own) = cx
        .ask(async |agent| {
            let ask = MessageStatus { id };
            // Unknown ids need no broker.
            agent.message(ask.clone()).await?;
            cx.settle(agent).await;
            Ok((agent.message(ask).await?, agent.is_own()))
        })
        .await?;
    cx.out.show(&message, || describe(&message, own))?;
    Ok(Exit::Ok)
}
