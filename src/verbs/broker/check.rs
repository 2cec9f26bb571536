//! `meshwire broker --check`

use meshwire_coord::{BrokerConfig, Check, Outcome, check};

use super::turn::{Around, TurnArgs};
use crate::context::Context;
use crate::exit::{Exit, Failed};
use crate::output::{Table, clean, fit, wrap};

/// Prints what was found, and fails if the broker would.
pub(super) async fn run(
    cx: &Context,
    config: &BrokerConfig,
    turn: &TurnArgs,
    around: Around<'_>,
) -> anyhow::Result<Exit> {
    let mut found = check(cx.net.as_ref(), config).await;
    let is = |name, outcome| found.iter().any(|c: &Check| c.name == name && c.outcome == outcome);
    let runs = is("listen", Outcome::Warn);
    // One check says what is wrong with the certificate: that will do.
    let certificate = around.certificate.filter(|_| !is("certificate", Outcome::Fail));
    let around = Around { certificate, ..around };
    found.push(turn.check(&cx.net, around, runs).await);
    cx.out.list("checks", &found, "", || match cx.out.width() {
        Some(columns) => describe(&found, columns),
        None => table(&found).render(None),
    })?;
    let failed: Vec<&str> =
        found.iter().filter(|c| c.outcome == Outcome::Fail).map(|c| c.name).collect();
    if failed.is_empty() {
        return Ok(Exit::Ok);
    }
    let (n, all) = (failed.len(), found.len());
    let message = format!("{n} of {all} checks failed: {}", failed.join(", "));
    Err(Failed { code: "check_failed", message }.into())
}

/// What was found, each with what to do below it.
fn describe(found: &[Check], columns: usize) -> String {
    let names = found.iter().map(|c| c.name.chars().count());
    let widths = [4, names.max().unwrap_or(0), 0];
    let mut lines = Vec::new();
    for check in found {
        let cells = [word(check.outcome).to_owned(), check.name.to_owned(), clean(&check.found)];
        lines.push(fit(&cells, &widths, columns));
        let advice = check.advice.as_deref().map(clean);
        lines.extend(advice.map(|advice| format!("      → {}", wrap(&advice, columns, 8, 8))));
    }
    lines.join("\n")
}

/// A line per check, for programs that read lines.
fn table(found: &[Check]) -> Table {
    let row = |c: &Check| {
        let advice = c.advice.clone().unwrap_or_default();
        [c.name.to_owned(), word(c.outcome).to_owned(), c.found.clone(), advice]
    };
    Table::new(["CHECK", "RESULT", "FOUND", "WHAT TO DO"], found.iter().map(row))
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Warn => "warn",
        Outcome::Fail => "fail",
    }
}
