//! `meshwire bench rtt`

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use meshwire_peer::api::MessageStatus;
use meshwire_peer::node::Event;
use meshwire_peer::path::PathMode;
use meshwire_transport::net::Net;
use meshwire_transport::quic::bare::Bare;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::path::Path;
use super::spread::{Spread, words};
use super::world::{Keep, Member, World, receipt, text, until};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::Table;

/// Bytes of request and answer.
pub(super) const BYTES: usize = 256;
/// Round trips before anything is measured.
const WARM_UP: u32 = 20;
/// Blocks in which the subjects take turns, so that what else this machine does meets all of them.
const BLOCKS: u32 = 10;
/// No further block begins after this: a slow disk ends the measurement early, not late.
const LIMIT: Duration = Duration::from_secs(14);

/// Measure a request and its answer, each with its receipt, on a warm direct path
///
/// An application at one node sends 256 bytes, one at the other answers with as many: from send to
/// answer, and to the request's receipt. Once with the nodes' messages on disk, as users have them,
/// once in memory.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire bench rtt --baseline\n  \
    meshwire bench rtt --count 2000 --json")]
pub(super) struct Args {
    /// Measure raw quinn as well, in turns, and show how many times as long ours takes
    #[arg(long)]
    baseline: bool,
    /// Round trips of each kind; a slow disk gets fewer
    #[arg(long, value_name = "N", default_value_t = 500,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Measured {
    rows: Vec<Row>,
    bytes: usize,
    optimised: bool,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    #[serde(flatten)]
    spread: Spread,
    /// Median by raw quinn's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// Requests that the relay carried, too or alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    relayed: Option<u32>,
}

/// Two nodes with an application each.
struct Nodes {
    ann: Member,
    bob: Member,
    /// What happens at either.
    events: (Receiver<Event>, Receiver<Event>),
    answering: JoinHandle<anyhow::Result<()>>,
    answers: Vec<Duration>,
    receipts: Vec<Duration>,
    relayed: u32,
    said: u64,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Nodes {
    async fn start(world: &World, names: [&str; 2], keep: Keep) -> anyhow::Result<Self> {
        let ann = world.member(names[0], keep, PathMode::Auto).await?;
        let bob = world.member(names[1], keep, PathMode::Auto).await?;
        ann.sees(&bob.key).await?;
        bob.sees(&ann.key).await?;
        let events = (ann.node.events(), bob.node.events());
        let answering = tokio::spawn(answer(bob.clone(), ann.clone()));
        let (answers, receipts) = (Vec::new(), Vec::new());
        let mut nodes =
            Self { ann, bob, events, answering, answers, receipts, relayed: 0, said: 0 };
        nodes.exchange().await?;
        nodes.ann.is_direct(&nodes.bob.key).await?;
        nodes.bob.is_direct(&nodes.ann.key).await?;
        for _ in 0..WARM_UP {
            nodes.exchange().await?;
        }
        nodes.answers.clear();
        nodes.receipts.clear();
        nodes.relayed = 0;
        Ok(nodes)
    }

    /// A request and its answer; the next one begins when both have their receipts.
    async fn exchange(&mut self) -> anyhow::Result<()> {
        if self.answering.is_finished() {
            bail!("the application that answers has ended");
        }
        self.said += 1;
        let request = format!("{:0>BYTES$}", self.said);
        let start = Instant::now();
        let id = self.ann.send(&self.bob.key, request).await?;
        let (mut answered, mut confirmed) = (None, None);
        while answered.is_none() || confirmed.is_none() {
            let (at_answer, at_receipt) = until(&mut self.events.0, |event| {
                let at = Instant::now();
                let answer = text(&event).is_some().then_some(at);
                let receipt = receipt(&event).filter(|of| *of == id).map(|_| at);
                (answer.is_some() || receipt.is_some()).then_some((answer, receipt))
            })
            .await?;
            answered = answered.or(at_answer);
            confirmed = confirmed.or(at_receipt);
        }
        until(&mut self.events.1, |event| receipt(&event)).await?;
        self.answers.extend(answered.map(|at| at.saturating_duration_since(start)));
        self.receipts.extend(confirmed.map(|at| at.saturating_duration_since(start)));
        let ask = MessageStatus { id: id.to_string() };
        let path = self.ann.node.message(ask).await?.path;
        self.relayed += u32::from(path.as_deref() != Some("direct"));
        Ok(())
    }

    async fn end(self) {
        self.ann.node.close().await;
        self.bob.node.close().await;
    }
}

/// The application at `bob`.
async fn answer(bob: Member, ann: Member) -> anyhow::Result<()> {
    let mut events = bob.node.events();
    loop {
        let request = until(&mut events, |e| text(&e).map(<[u8]>::to_vec)).await?;
        bob.send(&ann.key, String::from_utf8(request)?).await?;
    }
}

/// Raw quinn: as many bytes there and back on one stream.
struct Raw {
    bare: Bare,
    times: Vec<Duration>,
}

impl Raw {
    async fn start(net: &dyn Net) -> anyhow::Result<Self> {
        let mut raw = Self { bare: Bare::connect(net).await?, times: Vec::new() };
        for _ in 0..WARM_UP {
            raw.exchange().await?;
        }
        raw.times.clear();
        Ok(raw)
    }

    async fn exchange(&mut self) -> anyhow::Result<()> {
        let mut bytes = [0; BYTES];
        let start = Instant::now();
        self.bare.round_trip(&mut bytes).await?;
        self.times.push(start.elapsed());
        Ok(())
    }
}

pub(super) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let progress = cx.progress("two pairs of nodes join");
    let world = World::start(Arc::clone(&cx.net)).await?;
    let mut disk = Nodes::start(&world, ["ann", "bob"], Keep::Disk).await?;
    let mut memory = Nodes::start(&world, ["cy", "dan"], Keep::Memory).await?;
    let mut raw = match args.baseline {
        true => Some(Raw::start(cx.net.as_ref()).await?),
        false => None,
    };
    let mut path = Path::start(&cx.net).await?;
    for _ in 0..WARM_UP {
        path.exchange().await?;
        path.crypt()?;
    }
    path.answers.clear();
    path.crypto.clear();
    let until = Instant::now() + LIMIT;
    let (mut left, mut block) = (args.count, BLOCKS);
    while left > 0 && Instant::now() < until {
        progress.say(format!("{left} round trips of each kind are left"));
        let share = left.div_ceil(block);
        for _ in 0..share {
            disk.exchange().await?;
        }
        for _ in 0..share {
            memory.exchange().await?;
        }
        for _ in 0..share {
            path.exchange().await?;
        }
        for _ in 0..share {
            path.crypt()?;
        }
        if let Some(raw) = &mut raw {
            for _ in 0..share {
                raw.exchange().await?;
            }
        }
        left -= share;
        block = block.saturating_sub(1).max(1);
    }
    let measured = measured(raw.as_ref(), &path, &memory, &disk);
    disk.end().await;
    memory.end().await;
    path.end().await;
    world.end().await?;
    drop(progress);
    cx.out.show(&measured, || table(&measured).render(cx.out.width()))?;
    Ok(Exit::Ok)
}

fn measured(raw: Option<&Raw>, path: &Path, memory: &Nodes, disk: &Nodes) -> Measured {
    let base = raw.and_then(|raw| Spread::of(&raw.times));
    let kinds = [
        ("raw quinn, there and back", raw.map(|raw| raw.times.as_slice()), None),
        ("direct path alone, answer", Some(path.answers.as_slice()), None),
        ("cryptography of both messages", Some(&path.crypto), None),
        ("nodes in memory, answer", Some(&memory.answers), Some(memory.relayed)),
        ("nodes in memory, receipt", Some(&memory.receipts), Some(memory.relayed)),
        ("nodes on disk, answer", Some(&disk.answers), Some(disk.relayed)),
        ("nodes on disk, receipt", Some(&disk.receipts), Some(disk.relayed)),
    ];
    let rows = kinds.into_iter().filter_map(|(what, times, relayed)| {
        let spread = Spread::of(times?)?;
        let ratio = base.map(|base| (spread.p50_us / base.p50_us * 100.0).round() / 100.0);
        Some(Row { what, spread, ratio, relayed })
    });
    Measured { rows: rows.collect(), bytes: BYTES, optimised: !cfg!(debug_assertions) }
}

fn table(measured: &Measured) -> Table {
    let mut rows: Vec<_> = measured
        .rows
        .iter()
        .map(|row| {
            [
                row.what.to_owned(),
                words(row.spread.p50_us),
                words(row.spread.p90_us),
                words(row.spread.p99_us),
                row.ratio.map(|r| format!("{r:.2}")).unwrap_or_default(),
                row.spread.count.to_string(),
                row.relayed.map(|n| n.to_string()).unwrap_or_default(),
            ]
        })
        .collect();
    if !measured.optimised {
        rows.push(super::unoptimised());
    }
    Table::new(["WHAT", "P50", "P90", "P99", "X RAW", "COUNT", "RELAYED"], rows)
}
