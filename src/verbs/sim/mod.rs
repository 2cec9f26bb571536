//! `meshwire sim`

mod bench;
mod explain;
mod list;
mod load;
mod matrix;
mod run;
mod told;

use clap::Subcommand;

use crate::context::Context;
use crate::exit::Exit;

/// Try things on an Internet of NATs, firewalls and bad links, on this machine
///
/// A scenario is a TOML file: who is behind which router, over which links, what happens, and what must
/// be true in the end. docs/scenarios.md describes it; `sim list` names those that are built in.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire sim run dm                                every kind of router, in virtual time\n  \
    meshwire sim run dm --set preset=hotel             one of them\n  \
    meshwire sim run mine.toml --trace trace.txt")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Args),
    List(list::Args),
    Matrix(matrix::Args),
    Explain(explain::Args),
    Bench(bench::Args),
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    match args.verb {
        Verb::Run(args) => run::run(cx, args).await,
        Verb::List(args) => list::run(cx, args),
        Verb::Matrix(args) => matrix::run(cx, args).await,
        Verb::Explain(args) => explain::run(cx, args).await,
        Verb::Bench(args) => bench::run(cx, args).await,
    }
}
