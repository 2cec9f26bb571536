//! `meshwire peers`

use std::collections::HashMap;

use meshwire_peer::api::{GroupRole, ListPeers, Peer, PeerKind, PeerPath};
use meshwire_signaling::UnixMillis;
use meshwire_signaling::frame::Status as Doing;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Table, clean, cut, note};
use crate::when;

/// Characters of the line below a row that fit on a terminal, indented.
const ABOUT: usize = 76;
const OFFLINE: &str = "offline";
const HIDDEN: &str = "hidden";

/// List who is in this node's meshes, with the sessions that run
///
/// STATE: online; reconnecting (its connection is lost, and it is waited for up to 90 s); offline;
/// hidden (nobody is told whether it is there); unknown while this node has no broker. STATUS is what
/// somebody says it is doing: idle (all mail shows up there), working or dnd, do not disturb (only mail
/// of priority now does). PATH is what messages to it take: direct, turn (through a TURN server) or the
/// broker's relay, with the round trip; `meshwire path` says more. Hidden members do not want to be listed; a control plane is a member's own
/// connection, beside its sessions. Inside a session, it and those beside it are marked.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire peers\n  \
    meshwire peers --all --json")]
pub(crate) struct Args {
    /// Hidden members and control planes too
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let ask = ListPeers { mesh: cx.mesh.clone(), all: args.all };
    let peers = cx
        .ask(async |agent| {
            cx.settle(agent).await;
            Ok(agent.peers(ask).await?)
        })
        .await?;
    let peers = by_member(peers);
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
        table(&peers, cx.out.terminal, cx.net.unix_ms())
    })?;
    Ok(Exit::Ok)
}

/// Members in their order, each followed by its sessions and services.
fn by_member(mut peers: Vec<Peer>) -> Vec<Peer> {
    let mut order = HashMap::new();
    for peer in &peers {
        let next = order.len();
        order.entry((peer.mesh, peer.member)).or_insert(next);
    }
    let place = |p: &Peer| {
        let member = order.get(&(p.mesh, p.member)).copied();
        (member, p.kind != PeerKind::Member, p.kind != PeerKind::ControlPlane, p.name.clone())
    };
    peers.sort_by_cached_key(place);
    peers
}

fn table(peers: &[Peer], terminal: bool, now: UnixMillis) -> String {
    if !terminal {
        let head = ["NAME", "KEY", "ROLE", "STATE", "STATUS", "SUMMARY", "GROUPS", "MESH", "PATH"];
        return Table::new(head, peers.iter().map(plain)).render(None);
    }
    let several = peers.iter().any(|p| Some(p.mesh) != peers.first().map(|f| f.mesh));
    let head = ["NAME", "KEY", "ROLE", "STATE", "PATH", "STATUS", "MESH"];
    let rows = Table::new(head, peers.iter().map(|p| seen(p, several, now)));
    // A line per row, for what stands below it.
    let rows = rows.render(Some(usize::MAX));
    let mut lines = Vec::new();
    for (row, about) in
        rows.lines().zip(std::iter::once(String::new()).chain(peers.iter().map(about)))
    {
        lines.push(row.to_owned());
        lines.extend(Some(about).filter(|a| !a.is_empty()));
    }
    lines.join("\n")
}

/// A row for programs that read lines: everything, nothing abbreviated.
fn plain(p: &Peer) -> [String; 9] {
    let state = match p.since {
        Some(since) if state(p) == OFFLINE => format!("offline since {}", when::utc(since)),
        _ => state(p).to_owned(),
    };
    [
        format!("{}{}", name(p), ours(p)),
        p.key.short(),
        role(p).to_owned(),
        state,
        p.status.as_str().to_owned(),
        p.summary.clone().unwrap_or_default(),
        groups(&p.groups),
        p.mesh_name.clone(),
        path(p),
    ]
}

/// A row for people: sessions indented, what goes without saying left out.
fn seen(p: &Peer, several: bool, now: UnixMillis) -> [String; 7] {
    let member = p.kind == PeerKind::Member;
    let this = if p.this_node && member { " (this node)" } else { ours(p) };
    let hidden = if p.hidden && member && state(p) != HIDDEN { " (hidden)" } else { "" };
    let indent = if member { "" } else { "  " };
    let state = match p.since {
        Some(since) if state(p) == OFFLINE => {
            format!("offline for {}", when::rough(now.saturating_sub(since)))
        }
        _ => state(p).to_owned(),
    };
    let status = if p.status == Doing::Idle { "" } else { p.status.as_str() };
    [
        format!("{indent}{}{this}{hidden}", name(p)),
        p.key.short(),
        role(p).to_owned(),
        state,
        if member { path(p) } else { String::new() },
        status.to_owned(),
        if several { p.mesh_name.clone() } else { String::new() },
    ]
}

/// The line below a row: what it says it works on, and a member's groups.
fn about(p: &Peer) -> String {
    let groups = if p.kind == PeerKind::Member { groups(&p.groups) } else { String::new() };
    let summary = p.summary.clone().unwrap_or_default();
    let parts: Vec<&str> = [&*groups, &*summary].into_iter().filter(|t| !t.is_empty()).collect();
    if parts.is_empty() {
        return String::new();
    }
    // Escaped before it is cut, so that it cannot grow again.
    format!("    {}", cut(&clean(&parts.join("  ")), ABOUT))
}

/// The name as it can be typed.
fn name(p: &Peer) -> String {
    match p.kind {
        PeerKind::Member | PeerKind::ControlPlane => p.name.clone(),
        PeerKind::Session | PeerKind::Service => format!("{}/{}", p.member_name, p.name),
    }
}

/// What a session needs to know of its own member's sessions (inventory C-046).
fn ours(p: &Peer) -> &'static str {
    match (p.this_session, p.sibling) {
        (true, _) => " (this session)",
        (false, true) if p.kind == PeerKind::Session => " (your other session)",
        _ => "",
    }
}

fn state(p: &Peer) -> &'static str {
    match p.online {
        Some(true) if p.reconnecting => "reconnecting",
        Some(true) => "online",
        // The broker says of everybody who is hidden that it is not there.
        Some(false) if p.hidden && !p.this_node => HIDDEN,
        Some(false) => OFFLINE,
        None => "unknown",
    }
}

/// What messages to it take, and how long a round trip takes there.
fn path(p: &Peer) -> String {
    let Some(PeerPath { kind, rtt_us }) = p.path else { return String::new() };
    match rtt_us {
        Some(us) => format!("{} {}", kind.as_str(), when::round_trip(us)),
        None => kind.as_str().to_owned(),
    }
}

/// A member's role in the mesh, or what else it is.
fn role(p: &Peer) -> &'static str {
    match p.kind {
        PeerKind::Member => p.role.as_str(),
        PeerKind::ControlPlane => "control",
        PeerKind::Session => "session",
        PeerKind::Service => "service",
    }
}

fn groups(groups: &[GroupRole]) -> String {
    let word = |g: &GroupRole| match &g.role {
        Some(role) => format!("@{} ({role})", g.name),
        None => format!("@{}", g.name),
    };
    groups.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_peer::api::PeerPathKind;
    use meshwire_signaling::invite::Role;
    use meshwire_signaling::{MeshId, PublicKey};

    fn member(n: u8, name: &str, role: Role) -> Peer {
        Peer {
            mesh_name: "home".into(),
            mesh: MeshId([1; 32]),
            key: PublicKey([n; 32]),
            name: name.into(),
            kind: PeerKind::Member,
            member: PublicKey([n; 32]),
            member_name: name.into(),
            role,
            status: Doing::Idle,
            summary: None,
            profile: None,
            hidden: false,
            reconnecting: false,
            groups: Vec::new(),
            capabilities: None,
            online: Some(true),
            since: Some(0),
            path: None,
            this_node: false,
            this_session: false,
            sibling: false,
            name_pinned_to: None,
        }
    }

    fn session(n: u8, of: &Peer, name: &str) -> Peer {
        Peer { key: PublicKey([n; 32]), name: name.into(), kind: PeerKind::Session, ..of.clone() }
    }

    fn world() -> Vec<Peer> {
        let ana = Peer { this_node: true, ..member(0x11, "ana", Role::Owner) };
        let bob = member(0x22, "bob", Role::Member);
        let agent = Peer {
            status: Doing::Dnd,
            summary: Some("a summary that is longer than fits\u{7}".into()),
            ..session(0x33, &bob, "agent")
        };
        let ops = GroupRole { name: "ops/db".into(), role: Some("lead".into()) };
        let bob = Peer { groups: vec![ops], ..bob };
        let direct = PeerPath { kind: PeerPathKind::Direct, rtt_us: Some(3_140) };
        let bob = Peer { path: Some(direct), ..bob };
        let cy = Peer { online: Some(false), since: Some(1), ..member(0x44, "cy", Role::Member) };
        vec![ana, agent, bob, cy]
    }

    #[test]
    fn sessions_stand_below_their_member_and_a_line_fits() {
        let text = table(&by_member(world()), true, 3 * 3_600_000 + 1);
        let expected = "\
NAME             KEY               ROLE     STATE           PATH           STATUS
ana (this node)  1111111111111111  owner    online
bob              2222222222222222  member   online          direct 3.1 ms
    @ops/db (lead)
  bob/agent      3333333333333333  session  online                         dnd
    a summary that is longer than fits\\u{7}
cy               4444444444444444  member   offline for 3h";
        assert_eq!(text, expected);
        let long = Peer { summary: Some("x".repeat(280)), ..member(0x11, "ana", Role::Owner) };
        assert!(table(&[long], true, 0).lines().all(|l| l.chars().count() <= 80));
        let quiet = vec![member(0x11, "ana", Role::Owner), member(0x22, "bob", Role::Member)];
        let text = table(&quiet, true, 0);
        assert_eq!(
            text,
            "NAME  KEY               ROLE    STATE\n\
             ana   1111111111111111  owner   online\n\
             bob   2222222222222222  member  online"
        );
    }

    #[test]
    fn programs_that_read_lines_get_everything() {
        let text = table(&by_member(world()), false, 0);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ana\t1111111111111111\towner\tonline\tidle\t\t\thome\t");
        let agent = "bob/agent\t3333333333333333\tsession\tonline\tdnd\t\
                     a summary that is longer than fits\\u{7}\t\thome\t";
        assert_eq!(lines[2], agent);
        assert!(lines[1].ends_with("\thome\tdirect 3.1 ms"), "{text}");
        assert!(lines[3].contains("offline since 1970-01-01 00:00:00Z"), "{text}");
    }

    #[test]
    fn states_and_marks_have_words() {
        let bob = member(0x22, "bob", Role::Member);
        assert_eq!(state(&Peer { reconnecting: true, ..bob.clone() }), "reconnecting");
        assert_eq!(state(&Peer { online: None, ..bob.clone() }), "unknown");
        let hidden = Peer { hidden: true, ..bob.clone() };
        assert_eq!(seen(&hidden, false, 0)[0], "bob (hidden)");
        let away = Peer { online: Some(false), ..hidden };
        let row = seen(&away, false, 0);
        assert_eq!((&*row[0], &*row[3], &*plain(&away)[3]), ("bob", "hidden", "hidden"));
        assert_eq!(state(&Peer { this_node: true, ..away }), "offline", "we know of ourselves");
        let own = Peer { this_session: true, ..session(0x33, &bob, "agent") };
        let other = Peer { this_session: false, sibling: true, ..own.clone() };
        for (row, mark) in [(own, "(this session)"), (other, "(your other session)")] {
            assert_eq!(seen(&row, false, 0)[0], format!("  bob/agent {mark}"));
            assert_eq!(plain(&row)[0], format!("bob/agent {mark}"));
        }
        let control = Peer { kind: PeerKind::ControlPlane, ..bob };
        assert_eq!((seen(&control, false, 0)[0].as_str(), role(&control)), ("  bob", "control"));
    }
}
