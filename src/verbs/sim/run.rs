//! `meshwire sim run`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use meshwire::sim::{Options, Report, SimError, in_virtual};
use meshwire_netsim::scenario::{Cell, say_duration};
use serde::Serialize;

use super::load;
use crate::context::Context;
use crate::exit::{Exit, Failed, invalid};
use crate::output::Table;
use crate::progress::Progress;

/// Run a scenario, and say which of its assertions hold
///
/// Runs every cell of the scenario's matrix, such as every kind of router. Ends with exit code 1 if an
/// assertion does not hold, and says which command runs that cell again.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire sim run offline-queue\n  \
    meshwire sim run loss-30 --set preset=mobile --seed 7\n  \
    meshwire sim run mine.toml --pcap captures         for Wireshark")]
pub(crate) struct Args {
    /// A TOML file, or the name of a built-in scenario (see `sim list`)
    #[arg(value_name = "FILE")]
    scenario: String,
    /// What runs it
    #[arg(long, value_enum, default_value_t = Driver::Virtual)]
    driver: Driver,
    /// Everything random comes from this number [default: the scenario's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Run only the cells of the matrix with this value, such as preset=hotel; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
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

/// What `--json` prints of each run.
#[derive(Serialize)]
struct Run<'a> {
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
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let document = load::document(&args.scenario, &args.set).await?;
    let cells = document.cells();
    let start = cx.net.now();
    let progress = Arc::new(cx.progress(format!("{}: starting", args.scenario)));
    let mut reports = Vec::new();
    for (cell, number) in cells.iter().zip(1..) {
        let options = options(&args, cell, cells.len(), number, &progress);
        let report = perform(args.driver, cell, options).await?;
        if cx.out.json {
            let replay = replay(&args, cell, &report);
            cx.out.object(&Run { event: "run", report: &report, replay })?;
        }
        reports.push(report);
    }
    drop(progress);
    let failed: Vec<_> = cells.iter().zip(&reports).filter(|(_, r)| !r.passed).collect();
    if cx.out.json {
        let (runs, failed) = (reports.len(), failed.len());
        cx.out.object(&Summary { event: "summary", ok: failed == 0, runs, failed })?;
    } else {
        cx.out.text(&table(cells, &reports, cx.out.terminal).render(cx.out.width()))?;
        let real = cx.net.now().saturating_duration_since(start);
        if cx.out.terminal && failed.is_empty() {
            cx.out.text(&well(&reports, real))?;
        }
    }
    match failed.first() {
        None => Ok(Exit::Ok),
        Some((cell, report)) => {
            let why = match &report.trouble {
                Some(trouble) => trouble.clone(),
                None => {
                    let failed = report.asserts.iter().find(|r| !r.passed);
                    let row = failed.context("a failed run without a failed assertion")?;
                    format!(
                        "line {}: {}: wanted {}, got {}",
                        row.line, row.name, row.wanted, row.got
                    )
                }
            };
            let (count, all) = (failed.len(), reports.len());
            let runs =
                if all == 1 { String::new() } else { format!("{count} of {all} runs failed; ") };
            let replay = replay(&args, cell, report);
            let message = format!("{runs}{why}\nto run it again: {replay}");
            Err(Failed { code: "sim_failed", message }.into())
        }
    }
}

fn options(
    args: &Args,
    cell: &Cell,
    count: usize,
    number: usize,
    progress: &Arc<Progress>,
) -> Options {
    let label = cell.label();
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
    let ran = match driver {
        Driver::Virtual => {
            let cell = cell.clone();
            let run = tokio::task::spawn_blocking(move || in_virtual(&cell, &options));
            run.await.context("the simulation's thread")?
        }
        #[cfg(target_os = "linux")]
        Driver::Lab => Box::pin(meshwire::sim::in_lab(cell, &options)).await,
        #[cfg(not(target_os = "linux"))]
        Driver::Lab => {
            Err(SimError::Unable("the lab needs Linux; use the virtual driver".to_owned()))
        }
    };
    match ran {
        Err(SimError::Unable(why)) => Err(invalid("unable", why).into()),
        Err(e @ SimError::SetUp(_)) => {
            Err(Failed { code: "set_up", message: e.to_string() }.into())
        }
        Err(SimError::File { path, error }) => {
            Err(anyhow::Error::new(error).context(path.display().to_string()))
        }
        ran => Ok(ran?),
    }
}

/// The command that runs a cell again.
fn replay(args: &Args, cell: &Cell, report: &Report) -> String {
    let mut words = vec!["meshwire sim run".to_owned(), quoted(&args.scenario)];
    words.push(format!("--seed {}", report.seed));
    words.extend(cell.values.iter().map(|(k, v)| format!("--set {}", quoted(&format!("{k}={v}")))));
    if args.driver == Driver::Lab {
        words.push("--driver lab".to_owned());
    }
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Names cells by their values alone where people read, who know the keys.
fn table(cells: &[Cell], reports: &[Report], people: bool) -> Table {
    let rows = cells.iter().zip(reports).flat_map(|(cell, report)| {
        let values: Vec<&str> = cell.values.values().map(String::as_str).collect();
        let name = match (people, report.cell.as_str()) {
            (true, _) => values.join(" "),
            (false, "") => "-".to_owned(),
            (false, label) => label.to_owned(),
        };
        let cell = move || name.clone();
        let word = |passed| if passed { "pass" } else { "FAIL" }.to_owned();
        let own = cell.clone();
        let trouble = report.trouble.iter().map(move |text| {
            let [name, wanted] = ["timeline", "done"].map(str::to_owned);
            [word(false), own(), name, wanted, text.clone()]
        });
        let asserts = report.asserts.iter().map(move |row| {
            let (name, wanted, got) = (row.name.clone(), row.wanted.clone(), row.got.clone());
            [word(row.passed), cell(), name, wanted, got]
        });
        trouble.chain(asserts)
    });
    Table::new(["RESULT", "CELL", "ASSERTION", "WANTED", "GOT"], rows)
}

/// A line that all is well.
fn well(reports: &[Report], real: Duration) -> String {
    let asserts: usize = reports.iter().map(|r| r.asserts.len()).sum();
    let took: u64 = reports.iter().map(|r| r.took_ms).sum();
    let delivered: usize = reports.iter().map(|r| r.delivered).sum();
    let packets: u64 = reports.iter().map(|r| r.packets).sum();
    let real = say_duration(Duration::from_millis(u64::try_from(real.as_millis()).unwrap_or(0)));
    let runs = match reports.len() {
        1 => "1 run".to_owned(),
        n => format!("{n} runs"),
    };
    format!(
        "All {asserts} assertions of {runs} hold: {delivered} messages, {packets} packets, {} of the \
         scenario's time in {real}.",
        say_duration(Duration::from_secs(took.div_ceil(1000)))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_take_words_as_they_are_meant() {
        assert_eq!(quoted("preset=hotel"), "preset=hotel");
        assert_eq!(quoted("my file.toml"), "'my file.toml'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
