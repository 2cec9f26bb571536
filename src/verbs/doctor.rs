//! `meshwire doctor`

use std::path::Path;

use meshwire_peer::doctor::{Check, Verdict, examine, judge};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Table, clean, fit, wrap};

/// Look for what is wrong with this node, and say what to do about it
///
/// Looks at the home's permissions, the background node, the database, keys, free disk space and the
/// broker of each mesh: whether it is reached, its TLS and broker keys, version, clock, and whether
/// WebSocket gets through. Mends nothing, and works with the node up or down. Ends with exit code
/// 1 if anything fails; warnings do not count.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire doctor\n  \
    meshwire doctor --mesh home --json                 for monitoring")]
pub(crate) struct Args {}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    home: &'a Path,
    healthy: bool,
    warnings: usize,
    failures: usize,
    checks: &'a [Check],
}

pub(crate) async fn run(cx: &Context, Args {}: Args) -> anyhow::Result<Exit> {
    let home = cx.home_path()?;
    let named = std::env::var_os("MESHWIRE_HOME").filter(|v| !v.is_empty());
    let session = std::env::var_os("MESHWIRE_SESSION").is_some();
    let mut checks = judge::environment(named.as_deref(), &home, session);
    let progress = cx.progress("looking at the home and its brokers");
    checks.extend(examine(&cx.net, &home, cx.mesh.as_deref()).await);
    drop(progress);
    let count = |verdict| checks.iter().filter(|c| c.result == verdict).count();
    let (warnings, failures) = (count(Verdict::Warn), count(Verdict::Fail));
    let healthy = failures == 0;
    let report = Report { home: &home, healthy, warnings, failures, checks: &checks };
    cx.out.show(&report, || match cx.out.width() {
        Some(columns) => describe(&report, columns),
        None => table(&checks).render(None),
    })?;
    Ok(if healthy { Exit::Ok } else { Exit::Failed })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    }
}

fn subject(check: &Check) -> String {
    match &check.mesh {
        Some(mesh) => format!("{mesh}: {}", check.name),
        None => check.name.to_owned(),
    }
}

/// A line per check, for programs that read lines.
fn table(checks: &[Check]) -> Table {
    let row = |c: &Check| {
        let advice = c.advice.clone().unwrap_or_default();
        [word(c.result).to_owned(), subject(c), c.found.clone(), advice]
    };
    Table::new(["RESULT", "CHECK", "FOUND", "ADVICE"], checks.iter().map(row))
}

/// A line per check, what to do below it, and how many are wrong.
fn describe(report: &Report<'_>, columns: usize) -> String {
    let subjects = report.checks.iter().map(|c| clean(&subject(c)).chars().count());
    let widths = [4, subjects.max().unwrap_or(0), 0];
    let mut lines = Vec::new();
    for check in report.checks {
        let cells = [word(check.result).to_owned(), clean(&subject(check)), clean(&check.found)];
        lines.push(fit(&cells, &widths, columns));
        let advice = check.advice.as_deref().map(clean);
        lines.extend(advice.map(|advice| format!("      → {}", wrap(&advice, columns, 8, 8))));
    }
    let s = |n: usize| if n == 1 { "" } else { "s" };
    let Report { warnings, failures, .. } = report;
    lines.push(match (failures, warnings) {
        (0, 0) => "All is well.".to_owned(),
        (0, n) => format!("Nothing fails; {n} warning{}.", s(*n)),
        (n, m) => format!("{n} failure{}, {m} warning{}.", s(*n), s(*m)),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_a_line_per_check_and_what_to_do() {
        let checks = [Check::ok("disk", "9 GiB free"), Check::fail("node", "a\x1bb", "do this")];
        let report = Report {
            home: "/h".as_ref(),
            healthy: false,
            warnings: 0,
            failures: 1,
            checks: &checks,
        };
        let expected = "ok    disk  9 GiB free\nFAIL  node  a\\u{1b}b\n      → do this\n\
                        1 failure, 0 warnings.";
        assert_eq!(describe(&report, 80), expected);
        let narrow = "ok    disk  9 GiB free\nFAIL  node  a\\u{1b}b\n      → do\n        this\n";
        assert!(
            describe(&report, 13).ends_with("      → do\n        this\n1 failure, 0 warnings.")
        );
        assert!(describe(&report, 23).starts_with(&narrow[..20]));
        let lines = table(&checks).render(None);
        assert_eq!(lines, "ok\tdisk\t9 GiB free\t\nFAIL\tnode\ta\\u{1b}b\tdo this");
    }
}
