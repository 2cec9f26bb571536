//! `meshwire bench stream`
//!
//! ```text
//! run ── town ── broker | sender: end | receiver: end      a process each
//!   │                       └── beside: path, messages
//!   └── memory ── both sides of the core in this process
//!          all ── flow: bulk over streams of any kind
//! ```

mod beside;
pub(super) mod end;
mod flow;
mod memory;
mod rss;
mod size;
mod town;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use meshwire_transport::quic::bare::BareEnd;
use serde::Serialize;
use tokio::time::timeout;

use self::beside::Expected;
use self::flow::Times;
use self::town::Town;
use super::spread::{Spread, words};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::Table;

/// Most streams at once.
const MOST: i64 = 1_000;
/// How long a round within this process may take.
const ROUND: Duration = Duration::from_secs(120);

/// Measure bulk from one node to another
///
/// A broker and two nodes run in processes of their own, over loopback. The sender writes 64 KiB at a time; a stream
/// is complete when the receiver has said how much came. A run whose streams take another path than the one
/// that was asked for ends with an error.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire bench stream --path quic --baseline       beside raw quinn, in turns\n  \
    meshwire bench stream --path relay --messages      messages beside it\n  \
    meshwire bench stream --path quic --size 1000MiB --streams 1000")]
pub(super) struct Args {
    /// Which way
    #[arg(long, value_enum)]
    path: Path,
    /// Measure raw quinn between the same processes as well, in turns, and show ours as a part of it
    #[arg(long)]
    baseline: bool,
    /// Bytes of all streams together, such as 256MiB or 1GiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size::parse)]
    size: u64,
    /// Streams at once
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=MOST))]
    streams: u32,
    /// Times that all is repeated; medians count
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Send messages of 256 bytes between the same two nodes meanwhile, one after the other
    #[arg(long)]
    messages: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Path {
    /// The direct path
    Quic,
    /// The broker's WebSocket
    Relay,
    /// QUIC through the broker's TURN server
    Turn,
    /// Streams without nodes, within one process
    Memory,
}

/// What `--json` prints: medians of the rounds, memory at its most.
#[derive(Debug, Serialize)]
struct Measured {
    path: Path,
    bytes: u64,
    streams: u32,
    rounds: u32,
    #[serde(flatten)]
    ours: Speed,
    /// What streams were seen to go over.
    paths: BTreeSet<String>,
    /// Between which kinds of addresses the direct path was.
    reach: BTreeSet<String>,
    rss: Rss,
    /// From sending a message to its receipt, while streams were full.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Speed>,
    /// Ours by raw quinn's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    optimised: bool,
}

/// How fast streams were.
#[derive(Debug, Serialize)]
struct Speed {
    /// Until all streams were complete.
    seconds: f64,
    /// A million bytes a second, all streams together.
    mb_s: f64,
    /// Until the first was, and the last.
    first_s: f64,
    last_s: f64,
    /// The last's by the first's: 1 is fair.
    fairness: f64,
    /// Of each round.
    each_mb_s: Vec<f64>,
}

/// Most resident memory while streams of ours were full, in bytes.
#[derive(Debug, Default, Serialize)]
struct Rss {
    /// Since the broker's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<u64>,
    /// The process that sends; with `memory` the only one.
    sender: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver: Option<u64>,
}

/// What has been measured so far.
#[derive(Default)]
struct Seen {
    ours: Vec<Times>,
    raw: Vec<Times>,
    ways: beside::Ways,
    receipts: Vec<Duration>,
    rss: Rss,
}

pub(super) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    if args.size < u64::from(args.streams) {
        bail!("--size {} is less than a byte for each of {} streams", args.size, args.streams);
    }
    let seen = match args.path {
        Path::Quic => between(cx, &args, Expected::Direct).await?,
        Path::Relay => between(cx, &args, Expected::Relay).await?,
        Path::Turn => between(cx, &args, Expected::Turn).await?,
        Path::Memory if args.messages => {
            bail!("--messages wants nodes, and --path memory has none: leave one of them out")
        }
        Path::Memory => within(cx, &args).await?,
    };
    let measured = measured(&args, seen);
    cx.out.show(&measured, || table(&measured).render(cx.out.width()))?;
    Ok(Exit::Ok)
}

/// Between processes.
async fn between(cx: &Context, args: &Args, path: Expected) -> anyhow::Result<Seen> {
    let progress = cx.progress("two nodes meet");
    let mut town = Town::start(cx, path).await?;
    let mut seen = Seen::default();
    for round in 1..=args.rounds {
        progress.say(format!("round {round} of {}", args.rounds));
        let ours = town.ours(args.streams, args.size, args.messages).await?;
        seen.ours.push(ours.sent.times);
        seen.ways.paths.extend(ours.sent.ways.paths);
        seen.ways.reach.extend(ours.sent.ways.reach);
        seen.receipts.extend(ours.sent.receipts);
        seen.rss.sender = seen.rss.sender.max(ours.sent.rss);
        seen.rss.receiver = seen.rss.receiver.max(Some(ours.receiver_rss));
        if args.baseline {
            seen.raw.push(town.raw(args.streams, args.size).await?.times);
        }
    }
    seen.rss.broker = Some(town.broker_rss());
    town.end().await?;
    Ok(seen)
}

/// Within this process.
async fn within(cx: &Context, args: &Args) -> anyhow::Result<Seen> {
    let progress = cx.progress("streams within this process");
    let ends = [BareEnd::start(&*cx.net)?, BareEnd::start(&*cx.net)?];
    let mut seen = Seen::default();
    seen.ways.paths.insert("memory".to_owned());
    for round in 1..=args.rounds {
        progress.say(format!("round {round} of {}", args.rounds));
        rss::forget();
        let late =
            |_| anyhow::anyhow!("a round is not over within {ROUND:?}: use a smaller --size");
        let ours = timeout(ROUND, memory::ours(&*cx.net, args.streams, args.size)).await;
        seen.ours.push(ours.map_err(late)??);
        seen.rss.sender = seen.rss.sender.max(rss::own());
        if args.baseline {
            let raw = timeout(ROUND, memory::raw(&ends, args.streams, args.size)).await;
            seen.raw.push(raw.map_err(late)??);
        }
    }
    Ok(seen)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = [values.len().saturating_sub(1) / 2, values.len() / 2];
    middle.iter().filter_map(|at| values.get(*at)).sum::<f64>() / 2.0
}

/// As many digits as clocks and busy machines are worth.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

impl Speed {
    fn of(times: &[Times], bytes: u64) -> Self {
        let of = |pick: &dyn Fn(&Times) -> f64| round(median(times.iter().map(pick).collect()));
        let rate = |t: &Times| bytes as f64 / 1e6 / t.last.as_secs_f64();
        Self {
            seconds: of(&|t| t.last.as_secs_f64()),
            mb_s: of(&rate),
            first_s: of(&|t| t.first.as_secs_f64()),
            last_s: of(&|t| t.last.as_secs_f64()),
            fairness: of(&|t| t.last.as_secs_f64() / t.first.as_secs_f64()),
            each_mb_s: times.iter().map(|t| round(rate(t))).collect(),
        }
    }
}

fn measured(args: &Args, seen: Seen) -> Measured {
    let ours = Speed::of(&seen.ours, args.size);
    let raw = args.baseline.then(|| Speed::of(&seen.raw, args.size));
    Measured {
        path: args.path,
        bytes: args.size,
        streams: args.streams,
        rounds: args.rounds,
        ratio: raw.as_ref().map(|raw| round(ours.mb_s / raw.mb_s)),
        ours,
        raw,
        paths: seen.ways.paths,
        reach: seen.ways.reach,
        rss: seen.rss,
        messages: Spread::of(&seen.receipts),
        optimised: !cfg!(debug_assertions),
    }
}

fn table(measured: &Measured) -> Table {
    let speed = |speed: &Speed| format!("{:.1} MB/s, {:.2} s", speed.mb_s, speed.seconds);
    let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let Measured { streams, ours, rss, .. } = measured;
    let what = format!(
        "{} in {streams} streams, median of {}",
        size::words(measured.bytes),
        measured.rounds
    );
    let mut rows = vec![[what, speed(ours)]];
    if *streams > 1 {
        let times =
            format!("{:.2} s, {:.2} s, {:.2} times", ours.first_s, ours.last_s, ours.fairness);
        rows.push(["first and last stream".to_owned(), times]);
    }
    if let (Some(raw), Some(ratio)) = (&measured.raw, measured.ratio) {
        rows.push(["raw quinn".to_owned(), speed(raw)]);
        rows.push(["ours by raw quinn's".to_owned(), format!("{ratio:.2}")]);
    }
    let way = match measured.reach.is_empty() {
        true => list(&measured.paths),
        false => format!("{} ({})", list(&measured.paths), list(&measured.reach)),
    };
    rows.push(["path".to_owned(), way]);
    if let Some(spread) = &measured.messages {
        let times = [spread.p50_us, spread.p99_us, spread.max_us].map(words);
        let text =
            format!("p50 {}, p99 {}, most {} ({})", times[0], times[1], times[2], spread.count);
        rows.push(["messages, until their receipt".to_owned(), text]);
    }
    let memory = [("broker", rss.broker), ("sender", Some(rss.sender)), ("receiver", rss.receiver)];
    rows.extend(
        memory.into_iter().filter_map(|(who, rss)| Some([format!("memory, {who}"), mib(rss?)])),
    );
    if !measured.optimised {
        rows.push(super::unoptimised());
    }
    Table::new(["WHAT", "MEASURED"], rows)
}
