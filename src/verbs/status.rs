//! `meshwire status`

use std::time::Duration;

use meshwire_peer::Agent;
use meshwire_peer::api::{ApiError, Done, ErrorKind, MeshStatus, Status};
use meshwire_peer::core::resolve::nearest;

use crate::context::{Context, PATIENCE, POLL};
use crate::exit::Exit;
use crate::output::{Table, clean, wrap};
use crate::when;

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
    cx.out.show(&status, || describe(&status, cx.out.width()))?;
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

fn describe(status: &Status, columns: Option<usize>) -> String {
    let mut text = if status.background {
        format!("node: up in the background (process {}), version {}", status.pid, status.version)
    } else {
        format!("node: not up (start it with meshwire up), version {}", status.version)
    };
    if status.meshes.is_empty() {
        text.push_str("\nIn no mesh yet. Next: meshwire join LINK, or meshwire mesh create NAME");
        return text;
    }
    text.push('\n');
    if let Some(columns) = columns {
        let blocks = status.meshes.iter().map(block).collect::<Vec<_>>().join("\n");
        let lines: Vec<String> = blocks.lines().map(|l| wrap(l, columns, 0, 4)).collect();
        text.push_str(&lines.join("\n"));
        return text;
    }
    let row = |m: &MeshStatus| {
        let count = |n: u64| n.to_string();
        let (queued, unconfirmed) = (count(m.queued), count(m.unconfirmed));
        let broker = m.mesh.broker_url.clone();
        let name = m.mesh.name.clone();
        let (direct, turn) = (count(m.direct), count(m.turn));
        let unread = count(m.unread);
        [name, own(m), members(m), queued, unconfirmed, unread, broker, link(m), direct, turn]
    };
    let head = [
        "MESH",
        "AS",
        "MEMBERS",
        "QUEUED",
        "UNCONFIRMED",
        "UNREAD",
        "BROKER",
        "LINK",
        "DIRECT",
        "TURN",
    ];
    text.push_str(&Table::new(head, status.meshes.iter().map(row)).render(None));
    text
}

fn own(m: &MeshStatus) -> String {
    format!("{} ({})", m.mesh.member_name, m.mesh.role.as_str())
}

fn members(m: &MeshStatus) -> String {
    match m.online {
        Some(online) => format!("{online}/{} online", m.members),
        None => m.members.to_string(),
    }
}

/// Who is reached without the broker's relay.
fn paths(m: &MeshStatus) -> String {
    let mut parts = Vec::new();
    if m.direct > 0 {
        parts.push(format!("{} direct", m.direct));
    }
    if m.turn > 0 {
        parts.push(format!("{} through TURN", m.turn));
    }
    let rtt = m.path_rtt_us.map(|us| format!(", {} there and back", when::round_trip(us)));
    parts.join(", ") + &rtt.unwrap_or_default()
}

fn link(m: &MeshStatus) -> String {
    match &m.reason {
        Some(reason) => format!("{}: {reason}", m.link),
        None => m.link.clone(),
    }
}

/// A mesh on a few short lines: a table of all this is wider than most terminals.
fn block(m: &MeshStatus) -> String {
    let MeshStatus { queued, unconfirmed, unread, .. } = m;
    let lines = [
        Some(format!("{}: {} at {}", m.mesh.name, link(m), m.mesh.broker_url)),
        Some(format!("  as {}, members {}", own(m), members(m))),
        (m.direct + m.turn > 0).then(|| format!("  paths: {}", paths(m))),
        Some(format!("  sent: {queued} queued, {unconfirmed} unconfirmed; inbox: {unread} unread")),
    ];
    lines.into_iter().flatten().map(|l| clean(&l)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_peer::api::MeshInfo;
    use meshwire_signaling::invite::Role;
    use meshwire_signaling::{MeshId, PublicKey};

    #[test]
    fn people_get_short_lines_and_pipes_a_row() {
        let mesh = MeshInfo {
            mesh: MeshId([1; 32]),
            name: "home".into(),
            broker_url: "https://broker.example:7900".into(),
            key: PublicKey([1; 32]),
            member_name: "ana@laptop".into(),
            role: Role::Owner,
            already_member: false,
        };
        let mesh = MeshStatus {
            mesh,
            link: "up".into(),
            reason: None,
            queued: 1,
            unconfirmed: 2,
            unread: 3,
            members: 5,
            online: Some(4),
            direct: 2,
            turn: 0,
            path_rtt_us: Some(12_345),
        };
        let status =
            Status { version: "2.0.0".into(), pid: 7, background: true, meshes: vec![mesh] };
        assert_eq!(
            describe(&status, Some(80)),
            "node: up in the background (process 7), version 2.0.0\n\
             home: up at https://broker.example:7900\n  \
               as ana@laptop (owner), members 4/5 online\n  \
               paths: 2 direct, 12.3 ms there and back\n  \
               sent: 1 queued, 2 unconfirmed; inbox: 3 unread"
        );
        let row =
            "home\tana@laptop (owner)\t4/5 online\t1\t2\t3\thttps://broker.example:7900\tup\t2\t0";
        assert_eq!(describe(&status, None).lines().nth(1), Some(row));
    }
}
