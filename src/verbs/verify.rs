//! `meshwire verify`

use meshwire_peer::api::Verify;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::clean;

/// Show the safety number with a member
///
/// Whoever is between you would have another number with each of you.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire verify bob")]
pub(crate) struct Args {
    /// Whom: a name, a key or its unique start
    peer: String,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let ask = Verify { mesh: cx.mesh.clone(), peer: args.peer };
    let number = cx.ask(async |agent| Ok(agent.verify(ask).await?)).await?;
    cx.out.show(&number, || {
        format!(
            "Safety number with {} ({}):\n\n  {}\n\n\
             Compare it by voice, face to face or on a call: the other side runs meshwire verify \
             and must read out the same digits.",
            clean(&number.name),
            number.key.short(),
            number.number
        )
    })?;
    Ok(Exit::Ok)
}
