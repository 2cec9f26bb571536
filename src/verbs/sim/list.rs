//! `meshwire sim list`

use meshwire_netsim::Preset;
use meshwire_netsim::scenario::{BUILT_IN, Document};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::Table;

/// List the built-in scenarios, and the routers that scenarios can have
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire sim list\n  \
    meshwire sim explain symmetric                     more about one of them")]
pub(crate) struct Args {}

/// Something that scenarios and people can name.
#[derive(Serialize)]
struct Row {
    kind: &'static str,
    name: String,
    about: String,
    /// How many runs a scenario makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    runs: Option<usize>,
}

pub(crate) fn run(cx: &Context, Args {}: Args) -> anyhow::Result<Exit> {
    let mut rows = Vec::new();
    for (name, text) in BUILT_IN {
        let document = Document::parse(text)?;
        let about = document.cells().first().map(|c| c.scenario.about.clone()).unwrap_or_default();
        let runs = Some(document.cells().len());
        rows.push(Row { kind: "scenario", name: name.to_owned(), about, runs });
    }
    rows.extend(Preset::ALL.map(|p| Row {
        kind: "preset",
        name: p.name().to_owned(),
        about: p.equipment().to_owned(),
        runs: None,
    }));
    cx.out.list("entries", &rows, "nothing", || {
        let row = |r: &Row| [r.kind.to_owned(), r.name.clone(), r.about.clone()];
        Table::new(["KIND", "NAME", "ABOUT"], rows.iter().map(row)).render(cx.out.width())
    })?;
    Ok(Exit::Ok)
}
