//! `meshwire peers`

use meshwire_peer::api::{ListPeers, Peer};

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Table, note};
use crate::when;

/// List members of this node's meshes
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  meshwire peers")]
pub(crate) struct Args {}

pub(crate) async fn run(cx: &Context, Args {}: Args) -> anyhow::Result<Exit> {
    let ask = ListPeers { mesh: cx.mesh.clone() };
    let peers = cx
        .ask(async |agent| {
            cx.settle(agent).await;
            Ok(agent.peers(ask).await?)
        })
        .await?;
    for peer in &peers {
        if let Some(pinned) = &peer.name_pinned_to {
            note(
                cx.out,
                &format!(
                    "warning: {} in {} is the key {}, but that name belonged to {} before: compare \
                 safety numbers (meshwire verify {})",
                    peer.name,
                    peer.mesh_name,
                    peer.key.short(),
                    pinned.short(),
                    peer.key.short()
                ),
            );
        }
    }
    cx.out.list("peers", &peers, "In no mesh yet. Next: meshwire join LINK", || {
        let head = ["NAME", "KEY", "ROLE", "PRESENCE", "MESH"];
        Table::new(head, peers.iter().map(row)).render(cx.out.terminal)
    })?;
    Ok(Exit::Ok)
}

fn row(peer: &Peer) -> [String; 5] {
    let name =
        if peer.this_node { format!("{} (this node)", peer.name) } else { peer.name.clone() };
    let presence = match (peer.online, peer.since) {
        (Some(true), _) => "online".to_owned(),
        (Some(false), Some(since)) => format!("offline since {}", when::utc(since)),
        (Some(false), None) => "offline".to_owned(),
        (None, _) => "unknown".to_owned(),
    };
    let role = peer.role.as_str().to_owned();
    [name, peer.key.short(), role, presence, peer.mesh_name.clone()]
}
