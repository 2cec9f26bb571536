//! `meshwire bench`
//!
//! ```text
//! rtt, connect, idle ── figures ──► spread ──► table, JSON
//!         └── world ── broker and nodes, in this process, over loopback
//!   idle  └── hub ── the node that is weighed, a process of its own
//!   stream           broker and nodes, a process each
//!   idle, stream ── worker ── such a process, and how it is asked
//! ```

mod connect;
#[cfg(target_os = "linux")]
mod hub;
#[cfg(target_os = "linux")]
mod idle;
mod path;
mod rtt;
mod spread;
#[cfg(target_os = "linux")]
mod stream;
#[cfg(target_os = "linux")]
mod worker;
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
    meshwire bench connect                             first messages, and the direct path\n  \
    meshwire bench stream --path quic --baseline       bulk, beside raw quinn")]
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
    Stream(stream::Args),
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    Hub(hub::Args),
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    End(stream::end::Args),
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    match args.verb {
        Verb::Rtt(args) => Box::pin(rtt::run(cx, args)).await,
        Verb::Connect(args) => Box::pin(connect::run(cx, args)).await,
        #[cfg(target_os = "linux")]
        Verb::Idle(args) => Box::pin(idle::run(cx, args)).await,
        #[cfg(target_os = "linux")]
        Verb::Stream(args) => Box::pin(stream::run(cx, args)).await,
        #[cfg(target_os = "linux")]
        Verb::Hub(args) => Box::pin(hub::run(cx, args)).await,
        #[cfg(target_os = "linux")]
        Verb::End(args) => Box::pin(stream::end::run(cx, args)).await,
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
