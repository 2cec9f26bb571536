//! `meshwire path`

use std::time::Duration;

use meshwire_peer::api::{AskPath, PathEntry, PathReport};
use meshwire_peer::path::{Cause, Via, Why};
use meshwire_transport::direct::Reach;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{clean, note};
use crate::when;

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_millis(500);

/// Say which path messages to a peer take, and why
///
/// The first messages to a peer go over the broker's relay while a direct path is sought in the
/// background. This says which one is in use now, what was tried, and why there is no better one.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire path bob\n  \
    meshwire path bob --watch")]
pub(crate) struct Args {
    /// Whom: a name, a key or its unique start
    peer: String,
    /// Go on, and say so whenever it changes
    #[arg(long)]
    watch: bool,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let ask = AskPath { mesh: cx.mesh.clone(), peer: args.peer };
    cx.ask(async |agent| {
        cx.settle(agent).await;
        let mut last: Option<PathReport> = None;
        loop {
            let report = agent.path(ask.clone()).await?;
            if last.as_ref().is_none_or(|last| differs(last, &report)) {
                cx.out.show(&report, || describe(&report))?;
                last = Some(report);
            }
            if !args.watch {
                break;
            }
            tokio::time::sleep(EVERY).await;
        }
        if agent.is_own() {
            note(cx.out, "No node runs in the background here: start one with meshwire up, which keeps paths.");
        }
        Ok(())
    })
    .await?;
    Ok(Exit::Ok)
}

/// Whether people would call it another path: round trips vary all the time.
fn differs(a: &PathReport, b: &PathReport) -> bool {
    let ends = |r: &PathReport| r.direct.as_ref().map(|d| (d.reach, d.local, d.remote, d.silent));
    a.via != b.via || a.why != b.why || ends(a) != ends(b) || a.history != b.history
}

fn describe(report: &PathReport) -> String {
    let mut lines =
        vec![format!("{} {}: {}", clean(&report.name), report.key.short(), now(report))];
    if let Some(wait) = report.next_try_ms {
        lines.push(format!("  the next try is due in {} s", wait.div_ceil(1_000)));
    }
    if let Some(hint) = report.history.iter().rev().find_map(|e| e.cause).and_then(hint)
        && report.direct.is_none()
    {
        lines.push(format!("  {hint}"));
    }
    let shown = report.history.iter().rev().take(8).collect::<Vec<_>>();
    lines.extend(shown.into_iter().rev().map(|e| format!("  {}", entry(e))));
    lines.join("\n")
}

fn now(report: &PathReport) -> String {
    if let (Via::Direct, Some(d)) = (report.via, &report.direct) {
        let ms = when::round_trip(d.rtt_us);
        let way = match d.reach {
            Reach::Relayed => "through TURN".to_owned(),
            reach => format!("direct ({reach})"),
        };
        let (local, remote) = (d.local, d.remote);
        if d.silent {
            return format!("{way}, {local} to {remote}, but the peer is not heard any more");
        }
        let mtu = d.mtu;
        return format!("{way}, {local} to {remote}, round trip {ms}, packets of {mtu} bytes");
    }
    let why = match report.why {
        Why::DirectUp => "a direct path is up",
        Why::ToMany => "messages to many go that way",
        Why::Webhook => "the peer takes its mail by HTTP",
        Why::RelayOnly => "this node is set to use nothing else",
        Why::Offline => "the peer is away, the broker keeps its mail",
        Why::PeerCannot => "the peer's node makes no direct paths",
        Why::WeCannot => "this node or its broker makes no direct paths",
        Why::Negotiating => "a direct path is being negotiated",
        Why::BackingOff => "the last try at a direct path failed",
        Why::Seeking => "no direct path is being sought, the next message will begin",
        Why::NoRelay => "the broker cannot be reached",
    };
    match report.via {
        Via::Wait => format!("no path, messages wait here: {why}"),
        _ => format!("by the broker's relay: {why}"),
    }
}

fn entry(e: &PathEntry) -> String {
    let when = when::utc(e.at);
    let cause = e.cause.map(|c| format!(", because {}", c.words())).unwrap_or_default();
    let detail =
        if e.detail.is_empty() { String::new() } else { format!(" ({})", clean(&e.detail)) };
    format!("{when} {}{cause}{detail}", e.what)
}

/// What somebody can do about it.
fn hint(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::NoPair => {
            Some("meshwire netcheck, on either side, says what that network lets through")
        }
        Cause::PeerCannot => {
            Some("its owner has set it to the relay alone, or its version is older")
        }
        Cause::NoAnswer => Some("the peer's node may be of an older version, or busy"),
        Cause::Handshake => {
            Some("something on the way lets only small packets through, or changes them")
        }
        _ => None,
    }
}
