//! `meshwire disconnect`, and what it shares with `kick`

use meshwire_peer::api::{ApiError, Disconnect, Disconnected, ErrorKind, Named};

use crate::confirm::confirm;
use crate::context::Context;
use crate::exit::{Exit, Failed};
use crate::output::clean;

/// Close peers' connections; they come back by themselves. For owner and admins
///
/// Members and sessions alike. To end sessions for good: meshwire kick.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire disconnect bob\n  \
    meshwire disconnect --all --yes")]
pub(crate) struct Args {
    #[command(flatten)]
    whom: Whom,
}

/// Whose connections.
#[derive(Debug, clap::Args)]
pub(super) struct Whom {
    /// Whom: names, keys or their unique starts; member/name for a session
    #[arg(value_name = "PEER", required_unless_present = "all", conflicts_with = "all")]
    peers: Vec<String>,
    /// Everybody but this node
    #[arg(long)]
    all: bool,
    /// With --all: do not ask
    #[arg(long, requires = "all")]
    yes: bool,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    close(cx, args.whom, false).await
}

/// Closes connections; `kick` ends sessions for good.
pub(super) async fn close(cx: &Context, whom: Whom, kick: bool) -> anyhow::Result<Exit> {
    if whom.all {
        let mesh = cx.mesh.as_ref().map(|m| format!(" in mesh {m}")).unwrap_or_default();
        let what = if kick { "End all other sessions" } else { "Close all other connections" };
        confirm(cx, whom.yes, format!("{what}{mesh}?")).await?;
    }
    let ask = Disconnect { mesh: cx.mesh.clone(), peers: whom.peers, all: whom.all, kick };
    let done = cx
        .ask(async |agent| {
            cx.settle(agent).await;
            let _progress = cx.progress("asking the broker");
            Ok(agent.disconnect(ask).await.map_err(|e| refused(e, kick))?)
        })
        .await?;
    cx.out.show(&done, || describe(&done, kick))?;
    if done.affected.is_empty() && !whom.all {
        let message = if kick {
            "nothing was kicked: none of them has a session or service that runs"
        } else {
            "nothing was closed: none of them is connected"
        };
        return Err(Failed { code: "nobody_affected", message: message.to_owned() }.into());
    }
    Ok(Exit::Ok)
}

/// Names the verb that was refused: brokers have one for both.
fn refused(e: ApiError, kick: bool) -> ApiError {
    if !kick || e.kind != ErrorKind::Denied {
        return e;
    }
    let text = match e.code.as_str() {
        "forbidden" => "meshwire kick is for the mesh's owner and admins only".to_owned(),
        _ => format!("meshwire kick is refused: {}", e.message),
    };
    ApiError::new(e.kind, &e.code, text)
}

fn describe(done: &Disconnected, kick: bool) -> String {
    let names = |list: &[Named]| list.iter().map(|n| clean(&n.name)).collect::<Vec<_>>().join(", ");
    let Disconnected { affected, skipped } = done;
    let mut lines = Vec::new();
    if !affected.is_empty() {
        let verb = if kick { "Kicked" } else { "Disconnected" };
        let after = if kick { "" } else { " (they come back by themselves)" };
        lines.push(format!("{verb}: {}{after}", names(affected)));
    }
    if !skipped.is_empty() {
        let text = "Left alone, as a kick ends sessions and not members' own connections";
        lines.push(format!("{text}: {}", names(skipped)));
    }
    if lines.is_empty() {
        lines.push("Nobody is there.".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_signaling::PublicKey;

    #[test]
    fn who_was_and_was_not_is_said() {
        let named = |name: &str| Named { name: name.into(), key: PublicKey([1; 32]) };
        let mut done = Disconnected {
            affected: vec![named("bob/agent"), named("cy/x\u{7}")],
            skipped: vec![named("bob")],
        };
        let text = describe(&done, true);
        assert!(text.starts_with("Kicked: bob/agent, cy/x\\u{7}\nLeft alone"), "{text}");
        assert!(text.ends_with(": bob"), "{text}");
        done.skipped.clear();
        assert!(describe(&done, false).ends_with("(they come back by themselves)"));
        done.affected.clear();
        assert_eq!(describe(&done, false), "Nobody is there.");
    }
}
