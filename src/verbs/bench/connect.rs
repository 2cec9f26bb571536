//! `meshwire bench connect`

use std::sync::Arc;
use std::time::Duration;

use meshwire_peer::node::Event;
use meshwire_peer::path::PathMode;
use serde::Serialize;
use tokio::time::Instant;

use super::spread::{Spread, words};
use super::world::{Keep, Member, World, receipt, text, until};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::Table;

/// No further pair is made after this.
const LIMIT: Duration = Duration::from_secs(14);

/// Measure the first message between two nodes, and how soon their direct path is up
///
/// Each message is the first one of its pair, to a peer that is online, with stores on disk; nothing is
/// known of the path. In turns between nodes that may use direct paths and nodes that may not: seeking
/// one must cost the first message nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire bench connect\n  \
    meshwire bench connect --count 100 --json")]
pub(super) struct Args {
    /// Pairs of each kind; a slow machine makes fewer
    #[arg(long, value_name = "N", default_value_t = 40,
        value_parser = clap::value_parser!(u32).range(1..=400))]
    count: u32,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Measured {
    /// From send to the message's event at the other node.
    delivered_direct: Spread,
    delivered_relay: Spread,
    /// From send to the receipt.
    receipt_direct: Spread,
    receipt_relay: Spread,
    /// From send to the direct path, at the sender's node.
    path_up: Spread,
    /// What seeking a path adds to the first message's delivery: difference of the medians.
    added_us: f64,
    optimised: bool,
}

/// The nodes that write first, and what they measured.
struct Side {
    writer: Member,
    mode: PathMode,
    delivered: Vec<Duration>,
    receipts: Vec<Duration>,
    paths: Vec<Duration>,
}

impl Side {
    async fn start(world: &World, name: &str, mode: PathMode) -> anyhow::Result<Self> {
        let writer = world.member(name, Keep::Disk, mode).await?;
        let (delivered, receipts, paths) = Default::default();
        Ok(Self { writer, mode, delivered, receipts, paths })
    }

    /// A peer that nobody has written to, and the first message to it.
    async fn pair(&mut self, world: &World, name: &str) -> anyhow::Result<()> {
        let peer = world.member(name, Keep::Disk, self.mode).await?;
        self.writer.sees(&peer.key).await?;
        peer.sees(&self.writer.key).await?;
        let (mut ours, mut theirs) = (self.writer.node.events(), peer.node.events());
        let start = Instant::now();
        let id = self.writer.send(&peer.key, "hello".to_owned()).await?;
        let there = until(&mut theirs, |e| text(&e).map(|_| Instant::now()));
        let seeks = self.mode == PathMode::Auto;
        let back = async {
            let (mut confirmed, mut up) = (None, None);
            while confirmed.is_none() || seeks && up.is_none() {
                let (at_receipt, at_path) = until(&mut ours, |event| {
                    let at = Instant::now();
                    let path = matches!(event, Event::Path { peer: of, reach: Some(_), .. } if of == peer.key);
                    let confirmed = receipt(&event) == Some(id);
                    (path || confirmed).then_some((confirmed.then_some(at), path.then_some(at)))
                })
                .await?;
                confirmed = confirmed.or(at_receipt);
                up = up.or(at_path);
            }
            Ok((confirmed, up))
        };
        let (there, (confirmed, up)) = tokio::try_join!(there, back)?;
        let since = |at: Instant| at.saturating_duration_since(start);
        self.delivered.push(since(there));
        self.receipts.extend(confirmed.map(since));
        self.paths.extend(up.map(since));
        peer.node.close().await;
        Ok(())
    }
}

pub(super) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let progress = cx.progress("the first nodes join");
    let world = World::start(Arc::clone(&cx.net)).await?;
    let mut direct = Side::start(&world, "ann", PathMode::Auto).await?;
    let mut relay = Side::start(&world, "bob", PathMode::RelayOnly).await?;
    let until = Instant::now() + LIMIT;
    for n in 0..args.count {
        if n > 0 && Instant::now() > until {
            break;
        }
        progress.say(format!("pair {} of {}", n + 1, args.count));
        let (a, b) = (format!("direct-{n}"), format!("relay-{n}"));
        // Whoever is second finds caches that are warm.
        if n % 2 == 0 {
            direct.pair(&world, &a).await?;
            relay.pair(&world, &b).await?;
        } else {
            relay.pair(&world, &b).await?;
            direct.pair(&world, &a).await?;
        }
    }
    direct.writer.node.close().await;
    relay.writer.node.close().await;
    world.end().await?;
    drop(progress);
    let measured =
        measured(&direct, &relay).ok_or_else(|| anyhow::anyhow!("nothing was measured"))?;
    cx.out.show(&measured, || table(&measured).render(cx.out.width()))?;
    Ok(Exit::Ok)
}

fn measured(direct: &Side, relay: &Side) -> Option<Measured> {
    let (delivered_direct, delivered_relay) =
        (Spread::of(&direct.delivered)?, Spread::of(&relay.delivered)?);
    Some(Measured {
        added_us: delivered_direct.p50_us - delivered_relay.p50_us,
        delivered_direct,
        delivered_relay,
        receipt_direct: Spread::of(&direct.receipts)?,
        receipt_relay: Spread::of(&relay.receipts)?,
        path_up: Spread::of(&direct.paths)?,
        optimised: !cfg!(debug_assertions),
    })
}

fn table(measured: &Measured) -> Table {
    let kinds = [
        ("first message, relay alone", &measured.delivered_relay),
        ("first message, direct path sought", &measured.delivered_direct),
        ("its receipt, relay alone", &measured.receipt_relay),
        ("its receipt, direct path sought", &measured.receipt_direct),
        ("direct path up", &measured.path_up),
    ];
    let mut rows: Vec<_> = kinds
        .into_iter()
        .map(|(what, spread)| {
            let [p50, p90, p99] = [spread.p50_us, spread.p90_us, spread.p99_us].map(words);
            [what.to_owned(), p50, p90, p99, spread.count.to_string()]
        })
        .collect();
    let none = String::new;
    let added = words(measured.added_us);
    rows.push(["added to the first message".to_owned(), added, none(), none(), none()]);
    if !measured.optimised {
        rows.push(super::unoptimised());
    }
    Table::new(["SINCE SEND", "P50", "P90", "P99", "COUNT"], rows)
}
