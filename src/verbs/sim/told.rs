//! What `meshwire sim run` says of its runs.

use std::time::Duration;

use meshwire::sim::{DriverKind, Report};
use meshwire_netsim::scenario::{Cell, say_duration};

use crate::output::Table;

/// A run that was made, or is to be.
pub(super) struct Run {
    /// The scenario as it was named on the command line.
    pub(super) scenario: String,
    pub(super) cell: Cell,
}

impl Run {
    /// `preset=hotel`, with the scenario's name if there are several.
    pub(super) fn label(&self, several: bool) -> String {
        let words = [self.cell.scenario.name.clone(), self.cell.label()];
        let words = words.iter().skip(usize::from(!several)).filter(|w| !w.is_empty());
        words.cloned().collect::<Vec<_>>().join(" ")
    }

    /// The command that makes it again.
    pub(super) fn replay(&self, report: &Report) -> String {
        let mut words = vec!["meshwire sim run".to_owned(), quoted(&self.scenario)];
        words.push(format!("--seed {}", report.seed));
        let set = |(k, v): (&String, &String)| format!("--set {}", quoted(&format!("{k}={v}")));
        words.extend(self.cell.values.iter().map(set));
        if report.driver == DriverKind::Lab {
            words.push("--driver lab".to_owned());
        }
        words.join(" ")
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A row for each assertion; of several scenarios one for each run and for each assertion that does not
/// hold. Names cells by their values alone where people read, who know the keys.
pub(super) fn table(runs: &[(Run, Report)], several: bool, people: bool) -> Table {
    let rows = runs.iter().flat_map(|(run, report)| {
        let cell = match (several, people, report.cell.as_str()) {
            (true, ..) => run.label(true),
            (false, true, _) => run.cell.values.values().cloned().collect::<Vec<_>>().join(" "),
            (false, false, "") => "-".to_owned(),
            (false, false, label) => label.to_owned(),
        };
        let row = |passed, rest: [String; 3]| {
            let [name, wanted, got] = rest;
            let word = if passed { "pass" } else { "FAIL" }.to_owned();
            [word, cell.clone(), name, wanted, got]
        };
        let mut rows = Vec::new();
        rows.extend(
            report
                .trouble
                .iter()
                .map(|text| row(false, ["timeline".to_owned(), "done".to_owned(), text.clone()])),
        );
        if several && report.passed {
            let took = say_duration(Duration::from_secs(report.took_ms.div_ceil(1000)));
            let got = format!("{} messages in {took}", report.delivered);
            let name = format!("all {} of them", report.asserts.len());
            rows.push(row(true, [name, "true".to_owned(), got]));
            return rows;
        }
        rows.extend(
            report
                .asserts
                .iter()
                .filter(|r| !several || !r.passed)
                .map(|r| row(r.passed, [r.name.clone(), r.wanted.clone(), r.got.clone()])),
        );
        rows
    });
    Table::new(["RESULT", "CELL", "ASSERTION", "WANTED", "GOT"], rows)
}

/// A line that all is well.
pub(super) fn well(runs: &[(Run, Report)], real: Duration) -> String {
    let reports = || runs.iter().map(|(_, report)| report);
    let asserts: usize = reports().map(|r| r.asserts.len()).sum();
    let took: u64 = reports().map(|r| r.took_ms).sum();
    let delivered: usize = reports().map(|r| r.delivered).sum();
    let packets: u64 = reports().map(|r| r.packets).sum();
    let real = say_duration(Duration::from_millis(u64::try_from(real.as_millis()).unwrap_or(0)));
    let count = match runs.len() {
        1 => "1 run".to_owned(),
        n => format!("{n} runs"),
    };
    format!(
        "All {asserts} assertions of {count} hold: {delivered} messages, {packets} packets, {} of the \
         scenario's time in {real}.",
        say_duration(Duration::from_secs(took.div_ceil(1000)))
    )
}

/// Why a run failed, in a line.
pub(super) fn why(report: &Report) -> Option<String> {
    report.trouble.clone().or_else(|| {
        let row = report.asserts.iter().find(|r| !r.passed)?;
        Some(format!("line {}: {}: wanted {}, got {}", row.line, row.name, row.wanted, row.got))
    })
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
