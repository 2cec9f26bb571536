//! `meshwire join`

use meshwire_peer::api::Join;

use crate::context::Context;
use crate::exit::Exit;
use crate::name;

/// Join a mesh by an invite link
///
/// Makes a key for this machine, which never leaves it. Joining again changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire join 'https://broker.example:7900/i/5f2c…#AQHn…' --name ana@laptop")]
pub(crate) struct Args {
    /// The whole link, in quotes
    link: String,
    /// This node's name in the mesh [default: user@host]
    #[arg(long, value_name = "NAME", value_parser = name::parse)]
    name: Option<String>,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let member_name = args.name.unwrap_or_else(name::default_name);
    let ask = Join { invite: args.link, member_name };
    let info = cx
        .ask(async |agent| {
            let _progress = cx.progress("joining");
            Ok(agent.join(ask).await?)
        })
        .await?;
    cx.out.show(&info, || {
        let did = if info.already_member { "Already in" } else { "Joined" };
        format!(
            "{did} mesh {} as {}, {}.\nNext: meshwire up",
            info.name,
            info.member_name,
            info.role.as_str()
        )
    })?;
    Ok(Exit::Ok)
}
