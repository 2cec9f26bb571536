//! `meshwire bench`
//!
//! ```text
//! rtt, connect, idle ── figures ──► spread ──► table, JSON
//!         └── world ── broker and nodes, in this process, over loopback
//!   idle  └── hub ── the node that is weighed, a process of its own
//! ```

mod connect;
#[cfg(target_os = "linux")]
mod hub;
#[cfg(target_os = "linux")]
mod idle;
mod path;
mod rtt;
mod spread;
mod world;

use clap::Subcommand;

use crate::context::Context;
use crate::exit::Exit;

/// Measure on this machine how fast messages go, and what nodes take
///
/// Broker and nodes are started for it, over loopback and in a temporary folder, and leave nothing
/// behind. Figures of a busy machine say little; ratios within one run say more.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire bench rtt --baseline                      beside raw quinn, in the same run\n  \
    meshwire bench connect                             first messages, and the direct path")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Rtt(rtt::Args),
    Connect(connect::Args),
    #[cfg(target_os = "linux")]
    Idle(idle::Args),
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    Hub(hub::Args),
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    match args.verb {
        Verb::Rtt(args) => Box::pin(rtt::run(cx, args)).await,
        Verb::Connect(args) => Box::pin(connect::run(cx, args)).await,
        #[cfg(target_os = "linux")]
        Verb::Idle(args) => Box::pin(idle::run(cx, args)).await,
        #[cfg(target_os = "linux")]
        Verb::Hub(args) => Box::pin(hub::run(cx, args)).await,
    }
}

/// A table's last row, where the figures are of no use.
fn unoptimised<const N: usize>() -> [String; N] {
    let mut row = [const { String::new() }; N];
    if let Some(first) = row.first_mut() {
        "note: this build is not optimised, use a release build".clone_into(first);
    }
    row
}
