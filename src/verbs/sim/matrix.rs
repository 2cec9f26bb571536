//! `meshwire sim matrix`

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use meshwire::sim::matrix::{Cell, Families, Listener, Outcome, Route, html, play_all};
#[cfg(target_os = "linux")]
use meshwire::sim::{SimError, matrix::play_in_lab};
use meshwire_netsim::Preset;
use meshwire_netsim::scenario::say_duration;
use meshwire_transport::direct::Reach;
use serde::Serialize;

use crate::context::Context;
use crate::exit::{Exit, Failed, invalid};
use crate::output::Table;

/// Two nodes behind every two kinds of routers: which path they get, and how soon
///
/// Each cell is DIALER:LISTENER:FAMILIES, such as symmetric:full-cone:v4; the listener can also be in
/// the dialer's lan. Ends with exit code 1 when a cell's path is not the one that RFC 4787's rules allow.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire sim matrix\n  \
    meshwire sim matrix --cells symmetric:*:v4 --html matrix.html\n  \
    meshwire sim matrix --disable quic                 every direct cell is red")]
pub(crate) struct Args {
    /// What plays them
    #[arg(long, value_enum, default_value_t = Driver::Virtual)]
    driver: Driver,
    /// Play these cells alone: parts are names or *, and can be left out at the end; can be repeated
    #[arg(long, value_name = "CELLS")]
    cells: Vec<String>,
    /// Do without a technique
    #[arg(long, value_enum, value_name = "WHAT")]
    disable: Vec<Technique>,
    /// Everything random comes from this number
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write a page with the heat map and what happened in each cell
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Driver {
    /// Broker and nodes in this process, in virtual time: the same each time
    Virtual,
    /// Programs in network namespaces, one cell after the other, in real time (Linux, root)
    Lab,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Technique {
    /// QUIC over ICE
    Quic,
}

/// What `--json` prints of each cell.
#[derive(Serialize)]
struct Row<'a> {
    event: &'static str,
    ok: bool,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// What `--json` prints at the end.
#[derive(Serialize)]
struct Summary {
    event: &'static str,
    ok: bool,
    cells: usize,
    failed: usize,
    direct: usize,
    turn: usize,
    relay: usize,
    first_byte_p50_us: Option<u64>,
    direct_p50_us: Option<u64>,
}

impl Summary {
    fn of(outcomes: &[Outcome]) -> Self {
        let got = |route| outcomes.iter().filter(|o| o.got == Some(route)).count();
        let failed = outcomes.iter().filter(|o| !o.passed()).count();
        Self {
            event: "summary",
            ok: failed == 0,
            cells: outcomes.len(),
            failed,
            direct: got(Route::Direct),
            turn: got(Route::Turn),
            relay: got(Route::Relay),
            first_byte_p50_us: median(outcomes.iter().filter_map(|o| o.first_byte_us)),
            direct_p50_us: median(outcomes.iter().filter_map(|o| o.direct_us)),
        }
    }
}

fn median(times: impl Iterator<Item = u64>) -> Option<u64> {
    let mut times: Vec<u64> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let cells = chosen(&args.cells)?;
    let quic = !args.disable.contains(&Technique::Quic);
    let outcomes = match args.driver {
        Driver::Virtual => in_virtual(cx, cells, args.seed, quic).await?,
        Driver::Lab => in_lab(cx, &cells, args.seed, quic).await?,
    };
    if let Some(path) = &args.html {
        let page = html(&outcomes)?;
        std::fs::write(path, page).with_context(|| path.display().to_string())?;
    }
    let summary = Summary::of(&outcomes);
    if cx.out.json {
        for outcome in &outcomes {
            cx.out.object(&Row { event: "cell", ok: outcome.passed(), outcome })?;
        }
        cx.out.object(&summary)?;
    } else {
        match cx.out.width() {
            Some(_) => cx.out.text(&format!("{}\n{}", grids(&outcomes), in_words(&summary)))?,
            None => cx.out.text(&table(&outcomes).render(None))?,
        }
    }
    let Some(first) = outcomes.iter().find(|o| !o.passed()) else { return Ok(Exit::Ok) };
    let got = first.got.map_or("nothing", Route::as_str);
    let trouble = first.trouble.as_ref().map(|t| format!(" ({t})")).unwrap_or_default();
    let disable = if quic { "" } else { " --disable quic" };
    let driver = if args.driver == Driver::Lab { " --driver lab" } else { "" };
    let message = format!(
        "{} of {} cells are not what they must be; {} must get {}, got {got}{trouble}\nto play it again: \
         meshwire sim matrix --cells {} --seed {}{disable}{driver}",
        summary.failed,
        summary.cells,
        first.cell,
        first.expected.as_str(),
        first.cell,
        first.seed
    );
    Err(Failed { code: "matrix_failed", message }.into())
}

async fn in_virtual(
    cx: &Context,
    cells: Vec<Cell>,
    seed: u64,
    quic: bool,
) -> anyhow::Result<Vec<Outcome>> {
    let progress = cx.progress(format!("0/{} cells", cells.len()));
    let (done, all) = (AtomicUsize::new(0), cells.len());
    let playing = tokio::task::spawn_blocking(move || {
        let tell = |outcome: &Outcome| {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            progress.say(format!("{done}/{all} cells: {}", outcome.cell));
        };
        play_all(&cells, seed, quic, &tell)
    });
    playing.await.context("the simulations' threads")
}

#[cfg(target_os = "linux")]
async fn in_lab(
    cx: &Context,
    cells: &[Cell],
    seed: u64,
    quic: bool,
) -> anyhow::Result<Vec<Outcome>> {
    let progress = cx.progress(format!("0/{} cells", cells.len()));
    let mut outcomes = Vec::new();
    for (cell, number) in cells.iter().zip(1..) {
        progress.say(format!("{number}/{} cells: {cell}", cells.len()));
        match Box::pin(play_in_lab(*cell, seed, quic)).await {
            Ok(outcome) => outcomes.push(outcome),
            Err(SimError::Unable(why)) => return Err(invalid("unable", why).into()),
            Err(e) => {
                let message = format!("{cell}: {e}");
                return Err(Failed { code: "set_up", message }.into());
            }
        }
    }
    Ok(outcomes)
}

#[cfg(not(target_os = "linux"))]
async fn in_lab(_: &Context, _: &[Cell], _: u64, _: bool) -> anyhow::Result<Vec<Outcome>> {
    let why = "the lab needs Linux; use the virtual driver".to_owned();
    Err(invalid("unable", why).into())
}

fn chosen(patterns: &[String]) -> anyhow::Result<Vec<Cell>> {
    if patterns.is_empty() {
        return Ok(Cell::all());
    }
    let mut wanted = BTreeSet::new();
    for pattern in patterns {
        let found = Cell::matching(pattern).map_err(|e| invalid("unknown_cell", e.to_string()))?;
        wanted.extend(found);
    }
    Ok(Cell::all().into_iter().filter(|c| wanted.contains(c)).collect())
}

/// A line for each cell.
fn table(outcomes: &[Outcome]) -> Table {
    let ms = |us: Option<u64>| us.map_or("-".to_owned(), |us| format!("{:.1}", Ms::of(us).0));
    let row = |o: &Outcome| {
        [
            if o.passed() { "pass" } else { "FAIL" }.to_owned(),
            o.cell.clone(),
            o.expected.as_str().to_owned(),
            o.got.map_or("none", Route::as_str).to_owned(),
            o.reach.map_or("-", Reach::as_str).to_owned(),
            ms(o.first_byte_us),
            ms(o.direct_us),
        ]
    };
    let head = ["RESULT", "CELL", "MUST", "GOT", "BETWEEN", "FIRST MS", "OWN PATH MS"];
    Table::new(head, outcomes.iter().map(row))
}

/// Milliseconds.
struct Ms(f64);

impl Ms {
    fn of(us: u64) -> Self {
        Self(Duration::from_micros(us).as_secs_f64() * 1_000.0)
    }
}

/// A grid for each of the families: a row per dialer, a column per listener, letters in between.
fn grids(outcomes: &[Outcome]) -> String {
    let mut text = Vec::new();
    for families in Families::ALL {
        let here: Vec<(Cell, &Outcome)> = outcomes
            .iter()
            .filter_map(|o| Some((*Cell::matching(&o.cell).ok()?.first()?, o)))
            .filter(|(cell, _)| cell.families == families)
            .collect();
        let listeners: BTreeSet<Listener> = here.iter().map(|(c, _)| c.listener).collect();
        let dialers: BTreeSet<Preset> = here.iter().map(|(c, _)| c.dialer).collect();
        if here.is_empty() {
            continue;
        }
        let heads: String = listeners.iter().map(|l| format!("{:<3}", column(*l))).collect();
        let mut lines = vec![format!("{:<24}{heads}", families.as_str()).trim_end().to_owned()];
        for dialer in dialers {
            let letter = |listener: &Listener| {
                let this = |c: &Cell| c.dialer == dialer && c.listener == *listener;
                let found = here.iter().find(|(c, _)| this(c));
                format!("{:<3}", found.map_or("-".to_owned(), |(_, outcome)| letter(outcome)))
            };
            let letters: String = listeners.iter().map(letter).collect();
            let name = format!("{:>2} {}", column(Listener::Behind(dialer)), dialer.name());
            lines.push(format!("{name:<24}{letters}").trim_end().to_owned());
        }
        text.push(lines.join("\n"));
    }
    text.push(
        "D direct  T TURN  R the broker's relay  ! not what it must be  L the dialer's LAN"
            .to_owned(),
    );
    text.join("\n\n")
}

/// Columns have the numbers of the rows.
fn column(listener: Listener) -> String {
    match listener {
        Listener::Lan => "L".to_owned(),
        Listener::Behind(preset) => {
            let at = Preset::ALL.into_iter().position(|p| p == preset).unwrap_or_default();
            (at + 1).to_string()
        }
    }
}

fn letter(outcome: &Outcome) -> String {
    let letter = match outcome.got {
        Some(Route::Direct) => "D",
        Some(Route::Turn) => "T",
        Some(Route::Relay) => "R",
        None => "?",
    };
    if outcome.passed() { letter.to_owned() } else { format!("{letter}!") }
}

fn in_words(s: &Summary) -> String {
    let ms =
        |us: Option<u64>| us.map_or("-".to_owned(), |us| say_duration(Duration::from_micros(us)));
    format!(
        "{} cells: {} direct, {} TURN, {} relay; {}. Medians: first message {}, path of their own {}.",
        s.cells,
        s.direct,
        s.turn,
        s.relay,
        if s.ok {
            "all as they must be".to_owned()
        } else {
            format!("{} not as they must be (!)", s.failed)
        },
        ms(s.first_byte_p50_us),
        ms(s.direct_p50_us)
    )
}
