//! `meshwire kick`

use super::disconnect::{Whom, close};
use crate::context::Context;
use crate::exit::Exit;

/// End sessions and services for good. For owner and admins
///
/// A member's name means all its sessions and services. The member itself stays connected and may
/// start others; to close its own connection: meshwire disconnect.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire kick bob/agent\n  \
    meshwire kick --all --yes")]
pub(crate) struct Args {
    #[command(flatten)]
    whom: Whom,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    close(cx, args.whom, true).await
}
