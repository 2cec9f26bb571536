//! `meshwire down`

use std::time::Duration;

use meshwire_peer::Agent;
use meshwire_peer::api::{ApiError, ErrorKind};
use meshwire_peer::client::Client;
use serde::Serialize;

use crate::context::{Context, Holder, POLL};
use crate::exit::{Exit, Failed};

/// Longest wait for the node's end: it closes its links and its database first.
const END: Duration = Duration::from_secs(20);

/// Stop this node's background process
///
/// What waits in its outbox stays there and leaves at the next start. Sessions may not do this.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire down")]
pub(crate) struct Args {}

/// What `--json` prints.
#[derive(Serialize)]
struct Down {
    event: &'static str,
    was_running: bool,
}

pub(crate) async fn run(cx: &Context, Args {}: Args) -> anyhow::Result<Exit> {
    if Client::session_from_env().is_some() {
        let text = "sessions may not stop the node: end it from outside the session";
        return Err(ApiError::new(ErrorKind::Denied, "owner_only", text).into());
    }
    let home = cx.home()?;
    let was_running = match cx.holder(&home).await? {
        Holder::Free => false,
        Holder::Node(client, status) => {
            let _progress = cx.progress("stopping the node");
            Agent::Remote(client).stop().await?;
            let until = cx.net.now() + END;
            while home.try_lock()?.is_none() {
                if cx.net.now() > until {
                    let message = format!(
                        "the node has not ended within {} s: its process is {}",
                        END.as_secs(),
                        status.pid
                    );
                    return Err(Failed { code: "still_running", message }.into());
                }
                tokio::time::sleep(POLL).await;
            }
            true
        }
    };
    let text = if was_running { "The node is down." } else { "The node was not running." };
    cx.out.show(&Down { event: "down", was_running }, || text.to_owned())?;
    Ok(Exit::Ok)
}
