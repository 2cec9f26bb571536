//! What verbs print on stdout: for people, aligned tables on a terminal and tab-separated lines in
//! a pipe; for programs, with `--json`, one JSON object a line, each with `schema_version`.
//!
//! Names and messages come from other people. Control characters in them are made visible, so that
//! nothing they write can move the cursor, recolour or retitle a terminal.

use std::io::{self, IsTerminal as _, Write as _};

use meshwire_peer::api::SCHEMA_VERSION;
use serde::Serialize;
use serde_json::{Map, Value};

/// Columns of a terminal that does not say how many it has.
const WIDTH: usize = 80;
/// The narrowest column that is worth breaking lines for; below the row there is more room.
const NARROW: usize = 20;
/// How far what stands below a row is indented.
const BELOW: usize = 4;

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

    /// The columns of the terminal that people read on; none where it is no terminal.
    pub(crate) fn width(self) -> Option<usize> {
        let columns = || terminal_size::terminal_size_of(io::stdout()).map(|(w, _)| w.0.into());
        self.terminal.then(|| columns().unwrap_or(WIDTH))
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

    /// For a terminal of so many columns, aligned under headings, without columns that are empty, and
    /// with the last column broken into lines that fit; else tab-separated as it is.
    pub(crate) fn render(&self, columns: Option<usize>) -> String {
        let Some(columns) = columns else {
            let lines: Vec<String> = self.rows.iter().map(|row| row.join("\t")).collect();
            return lines.join("\n");
        };
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
        let mut head = cells(&head);
        if align(&head, &widths).chars().count() > columns {
            // What it stands for is below the rows.
            head.pop();
        }
        let rows = self.rows.iter().map(|row| fit(&cells(row), &widths, columns));
        std::iter::once(align(&head, &widths)).chain(rows).collect::<Vec<_>>().join("\n")
    }
}

/// A row of aligned cells, whose last one is broken into lines: in its column where that is wide
/// enough for it, else below.
pub(crate) fn fit(cells: &[String], widths: &[usize], columns: usize) -> String {
    let row = align(cells, widths);
    let (Some((last, others)), Some((_, before))) = (cells.split_last(), widths.split_last())
    else {
        return row;
    };
    if row.chars().count() <= columns || others.is_empty() || last.is_empty() {
        return row;
    }
    let start = before.iter().fold(0, |sum: usize, w| sum.saturating_add(w + 2));
    let left = columns.saturating_sub(start);
    let longest = last.split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
    if left < NARROW || longest > left {
        let indent = " ".repeat(BELOW);
        return format!("{}\n{indent}{}", align(others, before), wrap(last, columns, BELOW, BELOW));
    }
    let mut padded = align(others, before);
    padded.push_str(&" ".repeat(start.saturating_sub(padded.chars().count())));
    format!("{padded}{}", wrap(last, columns, start, start))
}

/// Breaks a line between words, to fit so many columns: `first` of them are taken where it begins,
/// further lines are indented. Words that are too long, such as paths, stay whole.
pub(crate) fn wrap(line: &str, columns: usize, first: usize, indent: usize) -> String {
    join_within(line.split(' '), " ", columns, first, indent)
}

/// Joins parts, on as few lines as fit the columns; as [`wrap`].
pub(crate) fn join_within<'a>(
    parts: impl IntoIterator<Item = &'a str>,
    between: &str,
    columns: usize,
    first: usize,
    indent: usize,
) -> String {
    let (mut out, mut at, mut begun) = (String::new(), first, false);
    for part in parts {
        let wide = part.chars().count();
        if begun && at.saturating_add(between.len() + wide) > columns {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            at = indent;
        } else if begun {
            out.push_str(between);
            at += between.len();
        }
        out.push_str(part);
        at = at.saturating_add(wide);
        begun = true;
    }
    out
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
        assert_eq!(sample().render(Some(80)), "NAME     KEY\nmünchen  1\nb\\tb     22");
        assert_eq!(sample().render(None), "münchen\t1\nb\\tb\t22");
    }

    #[test]
    fn columns_that_say_nothing_are_for_programs_only() {
        let row = |a: &str, b: &str| [a.to_owned(), String::new(), b.to_owned()];
        let table = Table::new(["NAME", "WHY", "KEY"], [row("ana", "1"), row("bob", "22")]);
        assert_eq!(table.render(Some(80)), "NAME  KEY\nana   1\nbob   22");
        assert_eq!(table.render(None), "ana\t\t1\nbob\t\t22");
        assert_eq!((cut("grüße", 5), cut("grüße!", 5)), ("grüße".into(), "grüß…".into()));
    }

    #[test]
    fn what_is_too_wide_is_broken_in_its_column_or_below() {
        let row = |why: &str| ["münchen".to_owned(), why.to_owned()];
        let table = Table::new(["NAME", "WHY"], [row("a reason that is too long"), row("none")]);
        let broken = "NAME     WHY\nmünchen  a reason that is too\n         long\nmünchen  none";
        assert_eq!(table.render(Some(30)), broken);
        let below = "NAME     WHY\nmünchen\n    a reason that is\n    too long\nmünchen  none";
        assert_eq!(table.render(Some(21)), below);
        assert_eq!(table.render(None).lines().count(), 2, "a pipe gets a line per row");
        let path = format!("in /{} it is", "p".repeat(40));
        assert_eq!(wrap(&path, 30, 6, 2), format!("in\n  /{}\n  it is", "p".repeat(40)));
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
