//! `meshwire outbox [requeue]`

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use meshwire_peer::api::{ApiError, Message, MessageStatus, Outbox, Requeue};
use meshwire_signaling::frame::MessageState;
use meshwire_signaling::limits::ms;

use crate::context::Context;
use crate::exit::{Exit, invalid};
use crate::output::Table;
use crate::verbs::send::{describe, word};
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
    /// With pings
    #[arg(long)]
    all: bool,
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
    /// Goes on under another id, by requeue or because its session has ended
    Requeued,
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
        // For programs, what goes on elsewhere has failed here.
        State::Failed | State::Requeued => MessageState::Failed,
    });
    let split = state == Some(MessageState::Failed);
    // Picked out here, so all that there are; the node has its own bound.
    let limit = if split { u32::MAX } else { args.limit };
    let ask = Outbox { mesh: cx.mesh.clone(), state, all: args.all, limit: Some(limit) };
    let mut messages = cx
        .ask(async |agent| {
            cx.settle(agent).await;
            Ok(agent.outbox(ask).await?)
        })
        .await?;
    if split {
        let requeued = matches!(args.state, Some(State::Requeued));
        messages.retain(|m| m.superseded_by.is_some() == requeued);
        messages.truncate(usize::try_from(args.limit).unwrap_or(usize::MAX));
    }
    let none = if state.is_some() { "Nothing in this state." } else { "Nothing was sent yet." };
    cx.out.list("messages", &messages, none, || {
        let head = ["ID", "SENT", "TO", "STATE", "PATH", "WHY", "MESH"];
        let columns = cx.out.width();
        let first = messages.first().map(|m| &m.mesh_name);
        let several = messages.iter().any(|m| Some(&m.mesh_name) != first);
        let rows = messages.iter().map(|m| row(m, columns.is_some(), several));
        Table::new(head, rows).render(columns)
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
        0 => word(m).to_owned(),
        all => format!("{} {reached}/{all}", word(m)),
    };
    [
        m.id.to_string(),
        when::utc(m.created_at),
        m.to.clone(),
        if terminal { state } else { word(m).to_owned() },
        if terminal { String::new() } else { or_dash(&m.path) },
        match &m.superseded_by {
            Some(next) => format!("as {next}"),
            None => or_dash(&m.reason),
        },
        if several || !terminal { m.mesh_name.clone() } else { String::new() },
    ]
}

async fn requeue(cx: &Context, args: Anew) -> anyhow::Result<Exit> {
    let ask = Requeue { id: args.id, ttl_ms: args.expires.map(ms) };
    let (message, own) = cx
        .ask(async |agent| {
            let message = match agent.requeue(ask.clone()).await {
                Err(e) if e.code == "not_requeueable" => {
                    // One that was requeued before says which goes on.
                    let old = agent.message(MessageStatus { id: ask.id }).await?;
                    return Err(requeued(&old).unwrap_or(e).into());
                }
                answer => answer?,
            };
            cx.settle(agent).await;
            Ok((message, agent.is_own()))
        })
        .await?;
    cx.out.show(&message, || describe(&message, own, true, cx.out.width()))?;
    Ok(Exit::Ok)
}

/// Why a message that goes on elsewhere cannot be requeued.
fn requeued(old: &Message) -> Option<ApiError> {
    let next = old.superseded_by?;
    let text = format!(
        "message {} was requeued as {next}: to send it once more, requeue that one",
        old.id
    );
    Some(invalid("not_requeueable", text))
}
