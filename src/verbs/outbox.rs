//! `meshwire outbox [requeue]`

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use meshwire_peer::api::{Message, Outbox, Requeue};
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::limits::ms;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::Table;
use crate::verbs::send::describe;
use crate::{duration, when};

/// List messages that were sent, or send one anew
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "EXAMPLE:\n  \
        meshwire outbox\n  \
        meshwire outbox --state failed\n  \
        meshwire outbox requeue 01JQ4T5ZK0"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only messages in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// At most so many, the newest
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum State {
    /// Waits on this machine
    Queued,
    /// The broker has it
    Relayed,
    /// A direct path has it
    Sent,
    /// The recipient's receipt has come
    Delivered,
    /// Its time ran out
    Expired,
    /// Refused for good
    Failed,
}

#[derive(Debug, Subcommand)]
enum Command {
    Requeue(Anew),
}

/// Send a message anew under a fresh id: one that failed, expired or still waits here
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire outbox requeue 01JQ4T5ZK0 --expires 2d")]
struct Anew {
    /// The message's id, as `meshwire outbox` prints it, or its unique start
    id: String,
    /// How long the new one lives, such as 12h [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    expires: Option<Duration>,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    match args.command {
        None => list(cx, args.list).await,
        Some(Command::Requeue(anew)) => requeue(cx, anew).await,
    }
}

async fn list(cx: &Context, args: List) -> anyhow::Result<Exit> {
    let state = args.state.map(|state| match state {
        State::Queued => MessageState::Queued,
        State::Relayed => MessageState::Relayed,
        State::Sent => MessageState::Sent,
        State::Delivered => MessageState::Delivered,
        State::Expired => MessageState::Expired,
        State::Failed => MessageState::Failed,
    });
    let ask = Outbox { mesh: cx.mesh.clone(), state, limit: Some(args.limit) };
    let messages = cx
        .ask(async |agent| {
            cx.settle(agent).await;
            Ok(agent.outbox(ask).await?)
        })
        .await?;
    cx.out.list("messages", &messages, "Nothing was sent yet.", || {
        let head = ["ID", "SENT", "TO", "STATE", "PATH", "WHY", "MESH"];
        let terminal = cx.out.terminal;
        let first = messages.first().map(|m| &m.mesh_name);
        let several = messages.iter().any(|m| Some(&m.mesh_name) != first);
        let rows = messages.iter().map(|m| row(m, terminal, several));
        Table::new(head, rows).render(terminal)
    })?;
    Ok(Exit::Ok)
}

/// On a terminal of 80 columns only what is needed fits: the rest is said by `message status`.
fn row(m: &Message, terminal: bool, several: bool) -> [String; 7] {
    let or_dash = |text: &Option<String>| match text {
        Some(text) => text.clone(),
        None if terminal => String::new(),
        None => "-".to_owned(),
    };
    let reached = m.recipients.iter().filter(|r| r.state == MessageState::Delivered).count();
    let state = match m.recipients.len() {
        0 => m.state.as_str().to_owned(),
        all => format!("{} {reached}/{all}", m.state.as_str()),
    };
    [
        m.id.to_string(),
        when::utc(m.created_at),
        m.to.clone(),
        if terminal { state } else { m.state.as_str().to_owned() },
        if terminal { String::new() } else { or_dash(&m.path) },
        match &m.superseded_by {
            Some(next) if terminal => format!("goes on as {next}"),
            _ => or_dash(&m.reason),
        },
        if several || !terminal { m.mesh_name.clone() } else { String::new() },
    ]
}

async fn requeue(cx: &Context, args: Anew) -> anyhow::Result<Exit> {
    let ask = Requeue { id: args.id, ttl_ms: args.expires.map(ms) };
    let (message, own) = cx
        .ask(async |agent| {
            let message = agent.requeue(ask).await?;
            cx.settle(agent).await;
            Ok((message, agent.is_own()))
        })
        .await?;
    cx.out.show(&message, || describe(&message, own, true, cx.out.terminal))?;
    Ok(Exit::Ok)
}
