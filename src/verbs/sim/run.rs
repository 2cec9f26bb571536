//! `meshwire sim run`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::ValueEnum;
use futures_util::StreamExt as _;
use meshwire::sim::{DriverKind, Options, Report, SimError, in_virtual};
use meshwire_netsim::scenario::{BUILT_IN, Cell};
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::load;
use super::told::{Run, table, well, why};
use crate::context::Context;
use crate::exit::{Exit, Failed, invalid};
use crate::output::note;
use crate::progress::Progress;

/// Most runs at a time.
const MAX_JOBS: u64 = 64;

/// Run scenarios, and say which of their assertions hold
///
/// Runs every cell of a scenario's matrix, such as every kind of router. Ends with exit code 1 if an
/// assertion does not hold, and says which command runs that cell again.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire sim run offline-queue\n  \
    meshwire sim run loss-30 --set preset=mobile --seed 7\n  \
    meshwire sim run mine.toml --pcap captures         for Wireshark\n  \
    meshwire sim run --all --driver lab --jobs 6       everything that is built in")]
pub(crate) struct Args {
    /// TOML files, or names of built-in scenarios (see `sim list`)
    #[arg(value_name = "FILE", required_unless_present = "all")]
    scenarios: Vec<String>,
    /// Run all built-in scenarios
    #[arg(long, conflicts_with = "scenarios")]
    all: bool,
    /// What runs them
    #[arg(long, value_enum, default_value_t = Driver::Virtual)]
    driver: Driver,
    /// Everything random comes from this number [default: the scenario's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run only the cells of the matrix with this value, such as preset=hotel; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How many cells run at a time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=MAX_JOBS)
    )]
    jobs: u64,
    /// Write what happened to each packet: `ns place source destination protocol length event`
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write what each host's interfaces sent and got, as HOST-eth0.pcap
    #[arg(long, value_name = "DIR")]
    pcap: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Driver {
    /// Broker and nodes in this process, in virtual time: the same each time
    Virtual,
    /// Programs in network namespaces, in real time (Linux, root)
    Lab,
}

impl Driver {
    fn kind(self) -> DriverKind {
        match self {
            Self::Virtual => DriverKind::Virtual,
            Self::Lab => DriverKind::Lab,
        }
    }

    /// Whether it has room for all nodes of a cell.
    fn has_room(self, cell: &Cell) -> bool {
        self == Self::Virtual || cell.scenario.nodes.len() <= meshwire::sim::MAX_LAB_NODES
    }
}

/// What `--json` prints of each run.
#[derive(Serialize)]
struct Told<'a> {
    event: &'static str,
    #[serde(flatten)]
    report: &'a Report,
    /// The command that runs this cell again.
    replay: String,
}

/// What `--json` prints at the end.
#[derive(Serialize)]
struct Summary {
    event: &'static str,
    ok: bool,
    runs: usize,
    failed: usize,
    /// Cells with more nodes than the lab has room for.
    left_out: usize,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let mut runs = planned(&args).await?;
    let several = args.all || args.scenarios.len() > 1;
    let before = runs.len();
    if runs.iter().any(|r| args.driver.has_room(&r.cell)) {
        runs.retain(|r| args.driver.has_room(&r.cell));
    }
    let (count, left_out) = (runs.len(), before - runs.len());
    if left_out > 0 {
        let most = meshwire::sim::MAX_LAB_NODES;
        note(cx.out, &format!("{left_out} runs are left out: the lab runs at most {most} nodes."));
    }
    let start = cx.net.now();
    let first = runs.first().map(|r| r.label(several)).unwrap_or_default();
    let progress = Arc::new(cx.progress(format!("{first}: starting")));
    let jobs = runs.into_iter().zip(1..).map(|(run, number)| {
        let options = options(&args, &run.label(several), (number, count), &progress);
        let driver = args.driver;
        async move { perform(driver, &run.cell, options).await.map(|report| (number, run, report)) }
    });
    let jobs = futures_util::stream::iter(jobs);
    let mut jobs = jobs.buffer_unordered(usize::try_from(args.jobs).unwrap_or(1));
    let mut done: Vec<(usize, Run, Report)> = Vec::new();
    while let Some(ran) = jobs.next().await {
        let (number, run, report) = ran?;
        if cx.out.json {
            let replay = run.replay(&report);
            cx.out.object(&Told { event: "run", report: &report, replay })?;
        }
        done.push((number, run, report));
    }
    drop(jobs);
    drop(progress);
    done.sort_by_key(|(number, ..)| *number);
    let runs: Vec<(Run, Report)> = done.into_iter().map(|(_, run, report)| (run, report)).collect();
    let failed: Vec<_> = runs.iter().filter(|(_, r)| !r.passed).collect();
    if cx.out.json {
        let (runs, failed) = (runs.len(), failed.len());
        let ok = failed == 0;
        cx.out.object(&Summary { event: "summary", ok, runs, failed, left_out })?;
    } else {
        cx.out.text(&table(&runs, several, cx.out.terminal).render(cx.out.width()))?;
        let real = cx.net.now().saturating_duration_since(start);
        if cx.out.terminal && failed.is_empty() {
            cx.out.text(&well(&runs, real))?;
        }
    }
    let Some((run, report)) = failed.first() else { return Ok(Exit::Ok) };
    let why = why(report).context("a failed run without a failed assertion")?;
    let of = match runs.len() {
        1 => String::new(),
        all => format!("{} of {all} runs failed; {}: ", failed.len(), run.label(several)),
    };
    let message = format!("{of}{why}\nto run it again: {}", run.replay(report));
    Err(Failed { code: "sim_failed", message }.into())
}

/// Every cell that is to run. Of several scenarios, those that have no cell of the wanted kind are left
/// out, as long as one has.
async fn planned(args: &Args) -> anyhow::Result<Vec<Run>> {
    let built_in = || BUILT_IN.iter().map(|(name, _)| (*name).to_owned());
    let named = if args.all { built_in().collect() } else { args.scenarios.clone() };
    let (mut runs, mut missing) = (Vec::new(), None);
    for scenario in named {
        let document = load::document(&scenario).await?;
        match load::only(document, &args.set) {
            Ok(document) => runs.extend(
                document
                    .cells()
                    .iter()
                    .map(|cell| Run { scenario: scenario.clone(), cell: cell.clone() }),
            ),
            Err(e) => missing = missing.or(Some(e)),
        }
    }
    match missing {
        Some(e) if runs.is_empty() => Err(e.into()),
        _ => Ok(runs),
    }
}

fn options(
    args: &Args,
    label: &str,
    (number, count): (usize, usize),
    progress: &Arc<Progress>,
) -> Options {
    let part = label.replace(' ', ",");
    let progress = Arc::clone(progress);
    let of = if count == 1 { String::new() } else { format!("{number}/{count} {label} ") };
    // Several cells do not write over each other's files.
    let several = |path: &Path| match (count, path.extension()) {
        (1, _) => path.to_owned(),
        (_, Some(end)) => path.with_extension(format!("{part}.{}", end.to_string_lossy())),
        (_, None) => path.with_extension(&part),
    };
    Options {
        seed: args.seed,
        trace: args.trace.as_deref().map(several),
        pcap: args.pcap.as_deref().map(|d| if count == 1 { d.to_owned() } else { d.join(&part) }),
        tell: Some(Arc::new(move |text| progress.say(format!("{of}{text}")))),
    }
}

async fn perform(driver: Driver, cell: &Cell, options: Options) -> anyhow::Result<Report> {
    let seed = options.seed.unwrap_or(cell.scenario.seed);
    let ran = match driver {
        Driver::Virtual => {
            let cell = cell.clone();
            let run = spawn_blocking(move || in_virtual(&cell, &options)).await;
            run.context("the simulation's thread")?
        }
        // On this task: who interrupts it drops the lab, which takes everything away.
        #[cfg(target_os = "linux")]
        Driver::Lab => Box::pin(meshwire::sim::in_lab(cell, &options)).await,
        #[cfg(not(target_os = "linux"))]
        Driver::Lab => {
            Err(SimError::Unable("the lab needs Linux; use the virtual driver".to_owned()))
        }
    };
    match ran {
        Err(SimError::Unable(why)) => Err(invalid("unable", why).into()),
        // The other cells may still run.
        Err(e @ SimError::SetUp(_)) => Ok(Report {
            scenario: cell.scenario.name.clone(),
            cell: cell.label(),
            driver: driver.kind(),
            seed,
            passed: false,
            trouble: Some(e.to_string()),
            took_ms: 0,
            sent: 0,
            delivered: 0,
            packets: 0,
            dropped: 0,
            first_ms: None,
            paths: Vec::new(),
            asserts: Vec::new(),
        }),
        Err(SimError::File { path, error }) => {
            Err(anyhow::Error::new(error).context(path.display().to_string()))
        }
        ran => Ok(ran?),
    }
}
