//! What verbs print on stdout: for people, aligned tables on a terminal and tab-separated lines in
//! a pipe; for programs, with `--json`, one JSON object a line, each with `schema_version`.
//!
//! Names and messages come from other people. Control characters in them are made visible, so that
//! nothing they write can move the cursor, recolour or retitle a terminal.

use std::io::{self, IsTerminal as _, Write as _};

use meshwire_peer::api::SCHEMA_VERSION;
use serde::Serialize;
use serde_json::{Map, Value};

/// Where output goes, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    /// Whether programs read it.
    pub(crate) json: bool,
    /// Whether people read it on a terminal.
    pub(crate) terminal: bool,
}

/// An object of the output, with its version.
#[derive(Serialize)]
struct Versioned<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    value: &'a T,
}

impl Out {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, terminal: !json && io::stdout().is_terminal() }
    }

    /// Prints an object for programs, or lines for people.
    pub(crate) fn show<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        if self.json { self.object(value) } else { self.text(&text()) }
    }

    /// Prints a list: an object with one field for programs, lines for people; `none` says on a
    /// terminal that it is empty.
    pub(crate) fn list<T: Serialize>(
        self,
        field: &str,
        rows: &[T],
        none: &str,
        lines: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        if self.json {
            let mut object = Map::new();
            object.insert(field.to_owned(), serde_json::to_value(rows)?);
            self.object(&Value::Object(object))
        } else if !rows.is_empty() {
            self.text(&lines())
        } else if self.terminal {
            self.text(none)
        } else {
            Ok(())
        }
    }

    /// Prints one JSON object on a line.
    pub(crate) fn object<T: Serialize>(self, value: &T) -> anyhow::Result<()> {
        let object = Versioned { schema_version: SCHEMA_VERSION, value };
        self.text(&serde_json::to_string(&object)?)
    }

    /// Prints lines at once, whatever reads them.
    pub(crate) fn text(self, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.trim_end_matches('\n'))?;
        out.flush()?;
        Ok(())
    }
}

/// Says something to people beside the output, on stderr; programs are not told.
pub(crate) fn note(out: Out, text: &str) {
    if !out.json {
        // Notes are not worth failing for.
        let _ = writeln!(io::stderr(), "{}", clean_lines(text));
    }
}

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(
        head: [&'static str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Self {
        let clean = |row: [String; N]| row.iter().map(|cell| clean(cell)).collect();
        Self { head: head.to_vec(), rows: rows.into_iter().map(clean).collect() }
    }

    /// Aligned under headings and without columns that are empty, or tab-separated as it is.
    pub(crate) fn render(&self, terminal: bool) -> String {
        if !terminal {
            let lines: Vec<String> = self.rows.iter().map(|row| row.join("\t")).collect();
            return lines.join("\n");
        }
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let shown: Vec<usize> = (0..self.head.len()).filter(|c| widest(*c) > 0).collect();
        let width = |c: &usize| widest(*c).max(self.head.get(*c).map_or(0, |h| h.len()));
        let widths: Vec<usize> = shown.iter().map(width).collect();
        let head: Vec<String> = self.head.iter().map(|h| (*h).to_owned()).collect();
        let cells = |row: &Vec<String>| -> Vec<String> {
            shown.iter().filter_map(|c| row.get(*c).cloned()).collect()
        };
        let lines = std::iter::once(&head).chain(&self.rows);
        lines.map(|row| align(&cells(row), &widths)).collect::<Vec<_>>().join("\n")
    }
}

/// At most `max` characters of a text; what is left out shows.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Pads cells to their columns' widths.
pub(crate) fn align(row: &[String], widths: &[usize]) -> String {
    let pad = |(cell, width): (&String, &usize)| {
        let missing = width.saturating_sub(cell.chars().count());
        format!("{cell}{}", " ".repeat(missing))
    };
    let cells: Vec<String> = row.iter().zip(widths).map(pad).collect();
    cells.join("  ").trim_end().to_owned()
}

/// Makes control characters visible, line ends included: the text stays on one line.
pub(crate) fn clean(text: &str) -> String {
    escape(text, |_| false)
}

/// As [`clean`], but lines stay lines.
pub(crate) fn clean_lines(text: &str) -> String {
    escape(text, |c| c == '\n')
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_control() || is_format(c)) && !keep(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that are not seen but reorder or hide what is.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        Table::new(["NAME", "KEY"], [row("münchen", "1"), row("b\tb", "22")])
    }

    #[test]
    fn tables_align_on_a_terminal_and_are_plain_in_a_pipe() {
        assert_eq!(sample().render(true), "NAME     KEY\nmünchen  1\nb\\tb     22");
        assert_eq!(sample().render(false), "münchen\t1\nb\\tb\t22");
    }

    #[test]
    fn columns_that_say_nothing_are_for_programs_only() {
        let row = |a: &str, b: &str| [a.to_owned(), String::new(), b.to_owned()];
        let table = Table::new(["NAME", "WHY", "KEY"], [row("ana", "1"), row("bob", "22")]);
        assert_eq!(table.render(true), "NAME  KEY\nana   1\nbob   22");
        assert_eq!(table.render(false), "ana\t\t1\nbob\t\t22");
        assert_eq!((cut("grüße", 5), cut("grüße!", 5)), ("grüße".into(), "grüß…".into()));
    }

    #[test]
    fn others_cannot_drive_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\r\n\u{202e}c\u{9b}"), "a\\u{1b}[2Jb\\r\\n\\u{202e}c\\u{9b}");
        assert_eq!(clean_lines("a\nb\u{7}"), "a\nb\\u{7}");
        assert_eq!(clean("grüße 👩\u{200d}💻"), "grüße 👩\u{200d}💻");
    }

    #[test]
    fn objects_carry_the_schema_version() {
        #[derive(Serialize)]
        struct Some {
            field: u8,
        }
        let object = Versioned { schema_version: SCHEMA_VERSION, value: &Some { field: 7 } };
        assert_eq!(serde_json::to_string(&object).unwrap(), r#"{"schema_version":1,"field":7}"#);
    }
}
