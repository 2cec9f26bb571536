//! `meshwire sim explain`

use std::path::PathBuf;

use anyhow::Context as _;
use meshwire_netsim::scenario::{Action, Awaited, Cell, Disturbance, Scenario, When, say_duration};
use meshwire_netsim::{LinkState, Preset, svg};
use serde::Serialize;

use super::load;
use crate::context::Context;
use crate::exit::{Exit, invalid};
use crate::output::wrap;

/// Say what a router of a preset does, with its RFC clauses, or what happens in a scenario
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire sim explain symmetric\n  \
    meshwire sim explain partition --svg partition.svg")]
pub(crate) struct Args {
    /// A preset, a built-in scenario, or a scenario's file
    #[arg(value_name = "PRESET")]
    subject: String,
    /// Draw the scenario's topology
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Which cell of the scenario's matrix, such as preset=hotel [default: the first]
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// A preset, for programs.
#[derive(Serialize)]
struct Explained<'a> {
    preset: &'a str,
    equipment: &'a str,
    properties: Vec<Property<'a>>,
}

#[derive(Serialize)]
struct Property<'a> {
    what: &'a str,
    clause: &'a str,
}

/// A scenario, for programs.
#[derive(Serialize)]
struct Told<'a> {
    scenario: &'a str,
    about: &'a str,
    cells: Vec<String>,
    happens: Vec<String>,
    must_hold: Vec<String>,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    if let Ok(preset) = args.subject.parse::<Preset>() {
        if args.svg.is_some() {
            let text =
                "a preset is one router: --svg draws scenarios, such as dm --set preset=hotel";
            return Err(invalid("svg", text).into());
        }
        explain_preset(cx, preset)?;
        return Ok(Exit::Ok);
    }
    let document = load::only(load::document(&args.subject).await?, &args.set)?;
    let first = document.cells().first().context("a scenario without a cell")?;
    let scenario = &first.scenario;
    if let Some(path) = &args.svg {
        let written = tokio::fs::write(path, svg::picture(scenario)).await;
        written.with_context(|| path.display().to_string())?;
    }
    let told = Told {
        scenario: &scenario.name,
        about: &scenario.about,
        cells: document.cells().iter().map(Cell::label).filter(|l| !l.is_empty()).collect(),
        happens: happens(scenario),
        must_hold: must_hold(scenario),
    };
    cx.out.show(&told, || describe(&told, scenario, cx.out.width().unwrap_or(100)))?;
    Ok(Exit::Ok)
}

fn explain_preset(cx: &Context, preset: Preset) -> anyhow::Result<()> {
    let property =
        |p: &meshwire_netsim::preset::Property| Property { what: p.what, clause: p.clause };
    let explained = Explained {
        preset: preset.name(),
        equipment: preset.equipment(),
        properties: preset.properties().iter().map(property).collect(),
    };
    cx.out.show(&explained, || {
        let columns = cx.out.width().unwrap_or(100);
        let mut lines = vec![explained.preset.to_owned()];
        lines.push(wrap(&format!("  stands for {}", explained.equipment), columns, 2, 2));
        for Property { what, clause } in &explained.properties {
            lines.push(wrap(&format!("- {what}"), columns, 0, 2));
            lines.push(format!("    {clause}"));
        }
        lines.join("\n")
    })
}

fn describe(told: &Told<'_>, scenario: &Scenario, columns: usize) -> String {
    let mut lines = vec![told.scenario.to_owned()];
    if !told.about.is_empty() {
        lines.push(wrap(&format!("  {}", told.about), columns, 2, 2));
    }
    if let [_, _, ..] = told.cells.as_slice() {
        let text = format!("Runs once for each of: {}. Below is the first.", told.cells.join(", "));
        lines.push(wrap(&text, columns, 0, 0));
    }
    lines.push("Who:".to_owned());
    for router in &scenario.routers {
        let preset = router.preset.map_or("a router", Preset::name);
        let nets: Vec<&str> = router.inside.iter().map(|i| i.network.as_str()).collect();
        lines.push(format!("- {}: {preset}, in front of {}", router.name, nets.join(", ")));
    }
    for host in &scenario.hosts {
        let first = host.interfaces.first();
        let network = first.map(|i| i.network.clone()).unwrap_or_default();
        let addresses = first.map(|i| i.addresses.clone()).unwrap_or_default();
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut roles = Vec::new();
        roles.extend(
            scenario
                .broker
                .iter()
                .filter(|b| b.host == host.name)
                .map(|b| format!("broker on port {}", b.port)),
        );
        let nodes = scenario.nodes.iter().filter(|n| n.host == host.name);
        roles.extend(nodes.map(|n| format!("node {}", n.name)));
        let role = if roles.is_empty() { "machine".to_owned() } else { roles.join(", ") };
        lines.push(format!("- {}: {role}, in {network} ({})", host.name, addresses.join(", ")));
    }
    for (title, each) in [("What happens:", &told.happens), ("What must be true:", &told.must_hold)]
    {
        if !each.is_empty() {
            lines.push(title.to_owned());
            lines.extend(each.iter().map(|l| wrap(&format!("- {l}"), columns, 2, 2)));
        }
    }
    lines.join("\n")
}

fn must_hold(scenario: &Scenario) -> Vec<String> {
    let each = |a: &meshwire_netsim::scenario::Assert| {
        format!("{}: {}", a.check.subject(), a.check.wanted())
    };
    scenario.asserts.iter().map(each).collect()
}

fn happens(scenario: &Scenario) -> Vec<String> {
    let each = |step: &meshwire_netsim::scenario::Step| {
        let when = match step.when {
            When::At(time) => format!("at {}", say_duration(time)),
            When::After(time) if time.is_zero() => "then".to_owned(),
            When::After(time) => format!("{} later", say_duration(time)),
        };
        format!("{when}: {}", action(&step.action))
    };
    scenario.timeline.iter().map(each).collect()
}

fn action(action: &Action) -> String {
    match action {
        Action::Send(s) => {
            let every = if s.every.is_zero() || s.count == 1 {
                String::new()
            } else {
                format!(", one every {}", say_duration(s.every))
            };
            let word = if s.count == 1 { "message" } else { "messages" };
            format!("{} sends {} {} {word} of {} bytes{every}", s.from, s.to, s.count, s.size)
        }
        Action::Stop(who) => format!("{who} stops"),
        Action::Start(who) => format!("{who} starts"),
        Action::Restart(who) => format!("{who} stops and starts again"),
        Action::World(d) => disturbance(d),
        Action::Exec(e) => {
            let how = if e.background { "starts" } else { "runs" };
            format!("{} {how} `{}`", e.host, e.command.join(" "))
        }
        Action::WaitFor(w) => {
            let what = match &w.what {
                Awaited::Delivered { from, to } => format!("receipts of what {from} sent to {to}"),
                Awaited::Path { from, to, kind } => {
                    format!("{from}'s messages to {to} to go by {}", kind.name())
                }
                Awaited::Connected(node) => format!("{node} to be connected"),
                Awaited::Disconnected(node) => format!("{node} to lose its connection"),
                Awaited::Exit(id) => format!("{id} to end"),
            };
            format!("it waits for {what}, at most {}", say_duration(w.within))
        }
        _ => "something that this version cannot describe".to_owned(),
    }
}

fn disturbance(what: &Disturbance) -> String {
    match what {
        Disturbance::Link { of, .. } => format!("the link of {of} changes"),
        Disturbance::State { of, state, .. } => match state {
            LinkState::Up => format!("the link of {of} works again"),
            LinkState::Down => format!("the link of {of} goes down"),
            LinkState::BlackHole => format!("the link of {of} swallows everything"),
        },
        Disturbance::Partition { network, parts } => {
            let parts: Vec<String> = parts.iter().map(|p| p.join(", ")).collect();
            format!("{network} falls into parts: {} | the rest", parts.join(" | "))
        }
        Disturbance::Heal(network) => format!("{network} is whole again"),
        Disturbance::Address { of, addresses } => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("{of} gets the addresses {}", addresses.join(", "))
        }
        Disturbance::Reboot(router) => format!("{router} forgets everything"),
        Disturbance::Preset { router, preset } => format!("{router} becomes {preset}"),
        _ => "the world changes".to_owned(),
    }
}
