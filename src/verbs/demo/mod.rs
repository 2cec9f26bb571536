//! `meshwire demo`: this binary's own verbs, as separate processes, on this machine.
//!
//! ```text
//! script ── rows, each with what must be true ──► table
//!    └── cast ── broker, ana, bob, cy: processes and homes in a temporary folder
//!                          └── proxy, in front of bob's node where something is sabotaged,
//!                                     in front of cy's as the gate that has direct paths come late
//! ```

mod cast;
mod file;
mod gate;
mod proxy;
mod script;
mod table;

use std::time::Duration;

use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};

use crate::context::Context;
use crate::exit::{Exit, Failed};
use cast::Cast;
use script::{Ended, play};
use table::Show;

/// Longest wait for a row's message: reconnecting after a restart takes up to three seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// The same where it is sabotaged, and waiting longer would change nothing.
const SABOTAGED_LIMIT: Duration = Duration::from_secs(3);

/// Show on this machine that messages and streams get through: a broker, three nodes, restarts, direct paths
///
/// Runs everything as separate processes with homes in a temporary folder, and leaves nothing
/// behind. Ends with exit code 0 only if every message and the file were delivered and decrypted.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire demo\n  \
    meshwire demo --sabotage flip-ciphertext           fails, and says in which row")]
pub(crate) struct Args {
    /// Break something on purpose: the demo must notice
    #[arg(long, value_enum, value_name = "WHAT")]
    sabotage: Option<Sabotage>,
    /// Keep the temporary folder, with homes and logs
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sabotage {
    /// Flip a bit in every ciphertext on its way to bob
    FlipCiphertext,
    /// Lose every ack on its way from bob
    DropAcks,
    /// Leave the broker dead once it was killed
    NoRestart,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut show = Show::new(cx.out);
    // Whichever branch ends first: the cast ends with its future, processes first, then folders.
    // Signals first: Ctrl-C reaches the verbs too, and their end is not what went wrong.
    let ended = tokio::select! {
        biased;
        _ = int.recv() => Ended::Cancelled,
        _ = term.recv() => Ended::Cancelled,
        ended = Box::pin(perform(cx, &args, &mut show)) => ended?,
    };
    show.end(&ended)?;
    let fail = |code, message| Err(Failed { code, message }.into());
    match ended {
        Ended::Well => Ok(Exit::Ok),
        Ended::Failed(why) => fail("demo_failed", format!("demo failed: {why}")),
        Ended::Cancelled => fail("cancelled", "cancelled".to_owned()),
    }
}

async fn perform(cx: &Context, args: &Args, show: &mut Show) -> anyhow::Result<Ended> {
    let limit = if args.sabotage.is_some() { SABOTAGED_LIMIT } else { LIMIT };
    let mut cast = Cast::new(cx.net.clone(), args.keep)?;
    if args.keep {
        show.line(&format!("everything stays in {}", cast.folder().display()))?;
    }
    play(&mut cast, args.sabotage, limit, show).await
}
