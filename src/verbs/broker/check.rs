//! `meshwire broker --check`

use meshwire_coord::{BrokerConfig, Check, Outcome, check};

use crate::context::Context;
use crate::exit::{Exit, Failed};
use crate::output::Table;

/// Prints what was found, and fails if the broker would.
pub(super) async fn run(cx: &Context, config: &BrokerConfig) -> anyhow::Result<Exit> {
    let found = check(cx.net.as_ref(), config).await;
    cx.out.list("checks", &found, "", || table(&found).render(cx.out.terminal))?;
    let failed: Vec<&str> =
        found.iter().filter(|c| c.outcome == Outcome::Fail).map(|c| c.name).collect();
    if failed.is_empty() {
        return Ok(Exit::Ok);
    }
    let (n, all) = (failed.len(), found.len());
    let message = format!("{n} of {all} checks failed: {}", failed.join(", "));
    Err(Failed { code: "check_failed", message }.into())
}

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
