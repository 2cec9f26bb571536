//! What can be typed, and which verb that is.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgAction, Parser, Subcommand};
use meshwire_transport::net::OsNet;
use tokio::runtime::Runtime;

use crate::context::Context;
use crate::exit::{self, Exit, Failed};
use crate::logging::{self, LogFormat};
use crate::output::Out;
use crate::verbs;

/// Programs on different machines find each other and talk, end to end encrypted.
#[derive(Debug, Parser)]
#[command(
    name = "meshwire",
    version,
    max_term_width = 100,
    after_help = "EXAMPLE:\n  \
        meshwire broker                                    one broker, somewhere\n  \
        meshwire mesh create home --broker URL             a mesh on it\n  \
        meshwire invite                                    a link for somebody else\n  \
        meshwire join LINK && meshwire up                  there\n  \
        meshwire send ana@laptop hello                     encrypted end to end"
)]
pub(crate) struct Cli {
    /// The folder with this node's keys and messages [default: ~/.meshwire]
    #[arg(long, global = true, env = "MESHWIRE_HOME", value_name = "DIR", hide_env_values = true)]
    home: Option<PathBuf>,
    /// Which mesh, by name or id; needed only if this node is in several
    #[arg(long, global = true, value_name = "MESH")]
    mesh: Option<String>,
    /// Answer in JSON, one object a line, with schema_version
    #[arg(long, global = true)]
    json: bool,
    /// Log more to stderr; twice for everything (RUST_LOG has the last word)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// How the log on stderr is written
    #[arg(
        long,
        global = true,
        env = "MESHWIRE_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Broker(verbs::broker::Args),
    Mesh(verbs::mesh::Args),
    Invite(verbs::invite::Args),
    Join(verbs::join::Args),
    Up(verbs::up::Args),
    Down(verbs::down::Args),
    Status(verbs::status::Args),
    Peers(verbs::peers::Args),
    Send(verbs::send::Args),
    Broadcast(verbs::send::Broadcast),
    Inbox(verbs::inbox::Args),
    Message(verbs::message::Args),
    Outbox(verbs::outbox::Args),
    Group(verbs::group::Args),
    Session(verbs::session::Args),
    Set(verbs::set::Args),
    Kick(verbs::kick::Args),
    Disconnect(verbs::disconnect::Args),
    Ping(verbs::ping::Args),
    Path(verbs::path::Args),
    Pipe(verbs::pipe::Args),
    Stream(verbs::stream::Args),
    Netcheck(verbs::netcheck::Args),
    Verify(verbs::verify::Args),
    Demo(verbs::demo::Args),
    Sim(verbs::sim::Args),
    Turn(verbs::turn::Args),
    Bench(verbs::bench::Args),
    Doctor(verbs::doctor::Args),
    Completions(verbs::completions::Args),
    Man(verbs::man::Args),
}

impl Verb {
    /// Whether the verb is a service, whose log tells what it does.
    fn serves(&self) -> bool {
        matches!(self, Self::Turn(_))
            || matches!(self, Self::Broker(b) if b.serves())
            || matches!(self, Self::Up(up) if up.foreground)
    }

    /// Whether the verb knows itself what a signal means.
    fn minds_signals(&self) -> bool {
        let follows = matches!(self, Self::Inbox(inbox) if inbox.follows());
        self.serves() || follows || matches!(self, Self::Demo(_) | Self::Pipe(_))
    }

    async fn run(self, cx: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Broker(args) => verbs::broker::run(cx, args).await,
            Self::Mesh(args) => verbs::mesh::run(cx, args).await,
            Self::Invite(args) => verbs::invite::run(cx, args).await,
            Self::Join(args) => verbs::join::run(cx, args).await,
            Self::Up(args) => verbs::up::run(cx, args).await,
            Self::Down(args) => verbs::down::run(cx, args).await,
            Self::Status(args) => verbs::status::run(cx, args).await,
            Self::Peers(args) => verbs::peers::run(cx, args).await,
            Self::Send(args) => verbs::send::run(cx, args).await,
            Self::Broadcast(args) => verbs::send::broadcast(cx, args).await,
            Self::Inbox(args) => verbs::inbox::run(cx, args).await,
            Self::Message(args) => verbs::message::run(cx, args).await,
            Self::Outbox(args) => verbs::outbox::run(cx, args).await,
            Self::Group(args) => verbs::group::run(cx, args).await,
            Self::Session(args) => verbs::session::run(cx, args).await,
            Self::Set(args) => verbs::set::run(cx, args).await,
            Self::Kick(args) => verbs::kick::run(cx, args).await,
            Self::Disconnect(args) => verbs::disconnect::run(cx, args).await,
            Self::Ping(args) => verbs::ping::run(cx, args).await,
            Self::Path(args) => verbs::path::run(cx, args).await,
            Self::Pipe(args) => verbs::pipe::run(cx, args).await,
            Self::Stream(args) => verbs::stream::run(cx, args).await,
            Self::Netcheck(args) => verbs::netcheck::run(cx, args).await,
            Self::Verify(args) => verbs::verify::run(cx, args).await,
            Self::Demo(args) => verbs::demo::run(cx, args).await,
            Self::Sim(args) => verbs::sim::run(cx, args).await,
            Self::Turn(args) => verbs::turn::run(cx, args).await,
            Self::Bench(args) => verbs::bench::run(cx, args).await,
            Self::Doctor(args) => verbs::doctor::run(cx, args).await,
            Self::Completions(args) => verbs::completions::run(cx, &args),
            Self::Man(args) => verbs::man::run(cx, args),
        }
    }
}

/// Runs a verb that Ctrl-C cancels.
async fn cancellable(verb: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    tokio::select! {
        ended = verb => ended,
        _ = tokio::signal::ctrl_c() => {
            Err(Failed { code: "cancelled", message: "cancelled".to_owned() }.into())
        }
    }
}

/// Runs what was typed.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let Cli { home, mesh, json, verbose, log_format, verb } = cli;
    log(log_format, verbose, verb.serves());
    let context = Context::new(home, mesh, Out::new(json), verbose, log_format, Arc::new(OsNet));
    let ended = match Runtime::new() {
        Ok(runtime) => {
            let minds_signals = verb.minds_signals();
            let running = Box::pin(verb.run(&context));
            let ended = if minds_signals {
                runtime.block_on(running)
            } else {
                runtime.block_on(cancellable(running))
            };
            // A read of standard input may still block a thread; nobody waits for it.
            runtime.shutdown_background();
            ended
        }
        Err(e) => Err(e.into()),
    };
    exit::finish(json, ended)
}

/// Logs to stderr, away from what verbs answer.
fn log(format: LogFormat, verbose: u8, serves: bool) {
    let default = match (verbose, serves) {
        (0, false) => "error",
        (0, true) => {
            "warn,turn_client_proto=error,meshwire=info,meshwire_coord=info,meshwire_peer=info,\
             meshwire_transport=info"
        }
        // That crate says something of each packet, and warns of every 437, which is how it is asked whether
        // an allocation is still there.
        (1, _) => {
            "info,turn_client_proto=error,meshwire=debug,meshwire_coord=debug,meshwire_peer=debug,\
             meshwire_transport=debug"
        }
        (2.., _) => "trace",
    };
    let chosen = std::env::var("RUST_LOG").ok().filter(|v| !v.is_empty());
    logging::start(format, chosen.as_deref().unwrap_or(default));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert!(help.contains("EXAMPLE:\n  meshwire "), "{name}: {help:?}");
            command.get_subcommands().filter(|c| c.get_name() != "help").for_each(check);
        }
        check(&Cli::command());
    }
}
