//! What is wrong with a scenario, and where.

use std::fmt;
use std::ops::Range;

/// Flaws that are shown at once; who has more starts over anyway.
const MAX_FLAWS: usize = 20;

/// Words less alike than this are no suggestion (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;

/// A place in the text: where a value was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The key, with those above it: `node.link.latency`.
    pub key: String,
}

impl Place {
    pub(super) fn new(text: &str, span: &Range<usize>, key: impl Into<String>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { line, column, key: key.into() }
    }

    /// A flaw here.
    #[must_use]
    pub fn flaw(&self, message: impl Into<String>) -> Flaw {
        Flaw { place: self.clone(), message: message.into() }
    }
}

/// One thing that is wrong. Its text says where, what, and what would be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Where.
    pub place: Place,
    /// What, and what would be valid.
    pub message: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column, key } = &self.place;
        write!(f, "line {line}, column {column}")?;
        if !key.is_empty() {
            write!(f, ", {key}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a scenario, in order of place. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Flaws(Vec<Flaw>);

impl Flaws {
    pub(super) fn new(mut flaws: Vec<Flaw>) -> Self {
        flaws.sort_by_key(|f| (f.place.line, f.place.column));
        flaws.dedup();
        flaws.truncate(MAX_FLAWS);
        Self(flaws)
    }

    /// Each of them.
    #[must_use]
    pub fn all(&self) -> &[Flaw] {
        &self.0
    }
}

impl fmt::Display for Flaws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// `; did you mean "x"?` where one of `all` is like `word`, else nothing.
pub(super) fn tip<'a>(word: &str, all: impl IntoIterator<Item = &'a str>) -> String {
    let alike = all.into_iter().map(|known| (known, strsim::jaro_winkler(known, word)));
    let best = alike.filter(|(_, l)| *l >= ALIKE).max_by(|a, b| a.1.total_cmp(&b.1));
    best.map(|(known, _)| format!("; did you mean {known:?}?")).unwrap_or_default()
}

/// Words for an error: `"a", "b" or "c"`.
pub(super) fn choices<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = all.into_iter().map(|w| format!("{w:?}")).collect();
    match words.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} or {last}", first.join(", ")),
    }
}
