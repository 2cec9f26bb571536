//! The demo's table, which grows as it goes; with `--json`, one object at the end.

use serde::Serialize;

use super::script::{Ended, Row};
use crate::output::{Out, align};
use crate::progress::Progress;

/// Column widths, for the texts of the script; the table cannot wait for its longest row.
const WIDTHS: [usize; 7] = [2, 24, 4, 4, 13, 10, 6];

/// Shows rows.
pub(super) struct Show {
    out: Out,
    rows: Vec<Row>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Summary<'a> {
    event: &'static str,
    ok: bool,
    rows: &'a [Row],
}

impl Show {
    pub(super) fn new(out: Out) -> Self {
        Self { out, rows: Vec::new() }
    }

    /// Shows that work goes on.
    pub(super) fn progress(&self, text: impl Into<String>) -> Progress {
        Progress::start(self.out.json, text)
    }

    /// A line for people.
    pub(super) fn line(&self, text: &str) -> anyhow::Result<()> {
        if self.out.json { Ok(()) } else { self.out.text(text) }
    }

    /// The headings.
    pub(super) fn head(&self) -> anyhow::Result<()> {
        let head = ["#", "WHAT", "FROM", "TO", "PATH", "STATE", "MS"].map(str::to_owned);
        self.line(&align(&head, &WIDTHS))
    }

    /// A row that has ended, well or not.
    pub(super) fn row(&mut self, row: Row) -> anyhow::Result<()> {
        let number = (self.rows.len() + 1).to_string();
        let (what, from, to) = (row.what.to_owned(), row.from.to_owned(), row.to.to_owned());
        let ms = row.ms.to_string();
        let cells = [number, what, from, to, row.path.clone(), row.state.clone(), ms];
        let further = row.file.as_ref().map(|travel| format!("    {travel}"));
        self.rows.push(row);
        self.line(&align(&cells, &WIDTHS))?;
        further.map_or(Ok(()), |line| self.line(&line))
    }

    /// How it ended.
    pub(super) fn end(&self, ended: &Ended) -> anyhow::Result<()> {
        let ok = matches!(ended, Ended::Well);
        if self.out.json {
            return self.out.object(&Summary { event: "demo", ok, rows: &self.rows });
        }
        if ok {
            let count = self.rows.len();
            self.line(&format!("All {count} rows: delivered and decrypted."))?;
        }
        Ok(())
    }
}
