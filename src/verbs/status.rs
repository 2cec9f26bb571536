//! `meshwire status`

use std::time::Duration;

use meshwire_peer::Agent;
use meshwire_peer::api::{ApiError, Done, ErrorKind, MeshStatus, Status};
use meshwire_peer::core::resolve::nearest;

use crate::context::{Context, PATIENCE, POLL};
use crate::exit::Exit;
use crate::output::Table;

/// How long links that are just being made are waited for, so that `up && status` tells the truth.
const CONNECTING: Duration = Duration::from_secs(2);

/// Show this node: its meshes, links and what waits
///
/// Ends with exit code 1 if a broker is not reached (inventory C-036).
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire status --json")]
pub(crate) struct Args {}

pub(crate) async fn run(cx: &Context, Args {}: Args) -> anyhow::Result<Exit> {
    let status = cx.ask(async |agent| look(cx, agent).await).await?;
    cx.out.show(&status, || describe(&status, cx.out.terminal))?;
    let all_up = status.meshes.iter().all(|m| m.link == "up");
    Ok(if all_up { Exit::Ok } else { Exit::Failed })
}

async fn look(cx: &Context, agent: &Agent) -> anyhow::Result<Status> {
    let until = cx.net.now() + if agent.is_own() { PATIENCE } else { CONNECTING };
    cx.settle(agent).await;
    loop {
        let mut status = agent.status(Done {}).await?;
        let names: Vec<String> = status.meshes.iter().map(|m| m.mesh.name.clone()).collect();
        status.meshes.retain(|m| cx.means(&m.mesh));
        if let (Some(named), true) = (&cx.mesh, status.meshes.is_empty()) {
            return Err(no_mesh(named, &names).into());
        }
        let connecting = status.meshes.iter().any(|m| m.link == "connecting");
        if !connecting || cx.net.now() > until {
            return Ok(status);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn no_mesh(named: &str, names: &[String]) -> ApiError {
    let tip = match names {
        [] => "it is in none yet".to_owned(),
        names => nearest(named, names).map_or_else(
            || format!("it is in: {}", names.join(", ")),
            |name| format!("did you mean {name}?"),
        ),
    };
    let text = format!("this node is in no mesh {named:?}; {tip}");
    ApiError::new(ErrorKind::NotFound, "mesh_not_found", text)
}

fn describe(status: &Status, terminal: bool) -> String {
    let mut text = if status.background {
        format!("node: up in the background (process {}), version {}", status.pid, status.version)
    } else {
        format!("node: not up (start it with meshwire up), version {}", status.version)
    };
    if status.meshes.is_empty() {
        text.push_str("\nIn no mesh yet. Next: meshwire join LINK, or meshwire mesh create NAME");
        return text;
    }
    let row = |m: &MeshStatus| {
        let members = match m.online {
            Some(online) => format!("{online}/{} online", m.members),
            None => m.members.to_string(),
        };
        let link = match &m.reason {
            Some(reason) => format!("{}: {reason}", m.link),
            None => m.link.clone(),
        };
        let count = |n: u64| n.to_string();
        let name = format!("{} ({})", m.mesh.member_name, m.mesh.role.as_str());
        let (queued, unconfirmed) = (count(m.queued), count(m.unconfirmed));
        let broker = m.mesh.broker_url.clone();
        [m.mesh.name.clone(), name, members, queued, unconfirmed, count(m.unread), broker, link]
    };
    let head = ["MESH", "AS", "MEMBERS", "QUEUED", "UNCONFIRMED", "UNREAD", "BROKER", "LINK"];
    text.push('\n');
    text.push_str(&Table::new(head, status.meshes.iter().map(row)).render(terminal));
    text
}
