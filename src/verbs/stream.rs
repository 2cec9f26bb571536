//! `meshwire stream`

use clap::Subcommand;
use meshwire_peer::api::{CloseStream, ListStreams, StreamRow, StreamState};
use meshwire_signaling::Priority;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Table, clean};
use crate::when;

/// Characters of an id that people need: chance does not make two alike.
const SHORT: usize = 16;

/// List the streams of this home's node, or close one
#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "EXAMPLE:\n  \
        meshwire stream list\n  \
        meshwire stream close 5f2c1a9e --reason 'the disk is full'"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Close(Close),
}

/// List the streams that are open: with whom, how far, and over which path
///
/// Those of the node in the background; a meshwire pipe without one has its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire stream list")]
struct List {}

/// End a stream in both directions; both sides hear why
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire stream close 5f2c1a9e --reason 'the disk is full'")]
struct Close {
    /// Its id, as `meshwire stream list` prints it, or its unique start
    id: String,
    /// Why, for the other side
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    match args.command {
        Command::List(List {}) => list(cx).await,
        Command::Close(close) => end(cx, close).await,
    }
}

async fn list(cx: &Context) -> anyhow::Result<Exit> {
    let ask = ListStreams { mesh: cx.mesh.clone() };
    let streams = cx.ask(async |agent| Ok(agent.list_streams(ask).await?)).await?;
    cx.out.list("streams", &streams, "No stream is open.", || {
        let head = [
            "ID", "NAME", "PEER", "SINCE", "SENT", "RECEIVED", "PATH", "STATE", "MESH", "PRIORITY",
        ];
        let columns = cx.out.width();
        let first = streams.first().map(|s| &s.mesh_name);
        let several = streams.iter().any(|s| Some(&s.mesh_name) != first);
        let rows = streams.iter().map(|s| row(s, columns.is_some(), several));
        Table::new(head, rows).render(columns)
    })?;
    Ok(Exit::Ok)
}

/// On a terminal without what goes without saying.
fn row(s: &StreamRow, terminal: bool, several: bool) -> [String; 10] {
    let id = s.id.to_string();
    let short = id.get(..SHORT).unwrap_or(&id).to_owned();
    let peer = if s.opened { format!("to {}", s.peer) } else { format!("from {}", s.peer) };
    let state = match s.state {
        StreamState::Open if terminal => "",
        StreamState::Open => "open",
        StreamState::Ending => "ending",
    };
    let usual = s.priority == Priority::default();
    [
        if terminal { short } else { id },
        s.name.clone(),
        peer,
        when::utc(s.since),
        s.progress.written.to_string(),
        s.progress.received.to_string(),
        s.progress.path.map_or("-", |path| path.kind.as_str()).to_owned(),
        state.to_owned(),
        if several || !terminal { s.mesh_name.clone() } else { String::new() },
        if usual && terminal { String::new() } else { s.priority.as_str().to_owned() },
    ]
}

async fn end(cx: &Context, args: Close) -> anyhow::Result<Exit> {
    let ask = CloseStream { id: args.id, reason: args.reason };
    let closed = cx.ask(async |agent| Ok(agent.close_stream(ask).await?)).await?;
    cx.out.show(&closed, || {
        format!("The stream {:?} with {} is closed.", closed.name, clean(&closed.peer))
    })?;
    Ok(Exit::Ok)
}
