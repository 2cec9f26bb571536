//! Reading TOML so that every complaint has a line, a column and a key, and no key is overlooked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::flaw::{Flaw, Place, choices, tip};
use super::units;
use crate::dice::Chance;
use crate::prefix::Prefix;

/// The text with what was found wrong so far.
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    /// What `$key` stands for in this cell of the matrix.
    pub(super) cell: BTreeMap<String, String>,
    pub(super) flaws: RefCell<Vec<Flaw>>,
}

impl<'a> Source<'a> {
    pub(super) fn place(&self, span: &Range<usize>, key: &str) -> Place {
        Place::new(self.text, span, key)
    }

    pub(super) fn flaw(&self, place: &Place, message: impl Into<String>) {
        self.flaws.borrow_mut().push(place.flaw(message));
    }

    /// The text with `$key` replaced, if it is one.
    fn fill(&self, value: &Value<'_, 'a>, text: &str) -> Option<String> {
        let Some(name) = text.strip_prefix('$') else { return Some(text.to_owned()) };
        let found = self.cell.get(name).cloned();
        if found.is_none() {
            let keys = || self.cell.keys().map(String::as_str);
            let known = if self.cell.is_empty() {
                "; there is no [matrix]".to_owned()
            } else {
                format!("; [matrix] has {}{}", choices(keys()), tip(name, keys()))
            };
            value.wrong(format!("{text:?} stands for nothing{known}"));
        }
        found
    }
}

/// A table whose keys are asked for one by one; [`Table::end`] refuses those that nobody asked for.
pub(super) struct Table<'s, 'a> {
    pub(super) source: &'s Source<'a>,
    pub(super) place: Place,
    entries: &'s DeTable<'a>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'s, 'a> Table<'s, 'a> {
    pub(super) fn new(source: &'s Source<'a>, place: Place, entries: &'s DeTable<'a>) -> Self {
        Self { source, place, entries, asked: RefCell::default() }
    }

    fn key(&self, name: &str) -> String {
        match self.place.key.as_str() {
            "" => name.to_owned(),
            above => format!("{above}.{name}"),
        }
    }

    /// What stands at a key.
    pub(super) fn get(&self, name: &'static str) -> Option<Value<'s, 'a>> {
        self.asked.borrow_mut().push(name);
        self.any(name)
    }

    /// The table that stands at a key.
    pub(super) fn inner(&self, name: &'static str) -> Option<Table<'s, 'a>> {
        self.get(name).and_then(|v| v.table())
    }

    /// What stands at a key of the file's own choice.
    pub(super) fn any(&self, name: &str) -> Option<Value<'s, 'a>> {
        let (_, value) = self.entries.iter().find(|(k, _)| k.get_ref() == name)?;
        Some(Value::new(self.source, value, self.key(name)))
    }

    /// What stands at a key that must be there.
    pub(super) fn need(&self, name: &'static str) -> Option<Value<'s, 'a>> {
        let found = self.get(name);
        if found.is_none() {
            self.wrong(format!("{name:?} is missing here"));
        }
        found
    }

    /// The tables of a list at a key, as `[[key]]` makes them; one table counts as a list of one.
    pub(super) fn tables(&self, name: &'static str) -> Vec<Table<'s, 'a>> {
        let Some(value) = self.get(name) else { return Vec::new() };
        match value.spanned.get_ref() {
            DeValue::Array(list) => list
                .iter()
                .filter_map(|v| Value::new(self.source, v, value.place.key.clone()).table())
                .collect(),
            _ => value.table().into_iter().collect(),
        }
    }

    /// The keys that are there, as they are written.
    pub(super) fn present(&self) -> Vec<(&'s str, Place)> {
        let entry = |(k, _): (&'s Spanned<_>, _)| {
            let name: &'s std::borrow::Cow<'a, str> = k.get_ref();
            (name.as_ref(), self.source.place(&k.span(), &self.key(name)))
        };
        self.entries.iter().map(entry).collect()
    }

    /// Where the first of these keys stands; the table itself if none does.
    pub(super) fn place_of(&self, keys: &[&str]) -> Place {
        let mut present = self.present().into_iter();
        present.find(|(key, _)| keys.contains(key)).map_or(self.place.clone(), |(_, place)| place)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(k, _)| k.get_ref() == name)
    }

    pub(super) fn wrong(&self, message: impl Into<String>) {
        self.source.flaw(&self.place, message);
    }

    /// Refuses keys that nobody asked for.
    pub(super) fn end(&self) {
        let asked = self.asked.borrow();
        for (name, place) in self.present() {
            if !asked.contains(&name) {
                let keys = || asked.iter().copied();
                let message = format!(
                    "there is no such key{}; keys here: {}",
                    tip(name, keys()),
                    choices(keys())
                );
                self.source.flaw(&place, message);
            }
        }
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Value<'s, 'a> {
    source: &'s Source<'a>,
    pub(super) place: Place,
    spanned: &'s Spanned<DeValue<'a>>,
}

impl<'s, 'a> Value<'s, 'a> {
    fn new(source: &'s Source<'a>, spanned: &'s Spanned<DeValue<'a>>, key: String) -> Self {
        let place = source.place(&spanned.span(), &key);
        Self { source, place, spanned }
    }

    pub(super) fn wrong(&self, message: impl Into<String>) {
        self.source.flaw(&self.place, message);
    }

    fn none<T>(&self, wanted: &str) -> Option<T> {
        let is = self.spanned.get_ref().type_str();
        self.wrong(format!("this must be {wanted}, not a value of type {is}"));
        None
    }

    pub(super) fn is_text(&self) -> bool {
        self.spanned.get_ref().is_str()
    }

    pub(super) fn text(&self) -> Option<String> {
        match self.spanned.get_ref() {
            DeValue::String(text) => self.source.fill(self, text),
            _ => self.none("text in quotation marks"),
        }
    }

    /// A name of something in the world: 1 to 40 of `a-z A-Z 0-9 - _ .`.
    pub(super) fn name(&self) -> Option<String> {
        let text = self.text()?;
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (1..=40).contains(&text.len()) && text.chars().all(fine) {
            return Some(text);
        }
        self.wrong(format!(
            "{text:?} is no name; use 1 to 40 letters, digits, \"-\", \"_\" or \".\""
        ));
        None
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match self.spanned.get_ref() {
            DeValue::Boolean(b) => Some(*b),
            _ => self.none("true or false"),
        }
    }

    /// A whole number, also as text, in a range.
    pub(super) fn count(&self, range: Range<u64>) -> Option<u64> {
        let number = match self.spanned.get_ref() {
            DeValue::Integer(n) => u64::from_str_radix(n.as_str(), n.radix()).ok(),
            DeValue::String(_) => self.text()?.trim().parse().ok(),
            _ => return self.none("a whole number"),
        };
        let found = number.filter(|n| range.contains(n));
        if found.is_none() {
            let (low, high) = (range.start, range.end.saturating_sub(1));
            self.wrong(format!("this must be a whole number from {low} to {high}"));
        }
        found
    }

    fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = match self.spanned.get_ref() {
            DeValue::Integer(n) if n.radix() == 10 => n.as_str().to_owned(),
            DeValue::Float(n) => n.as_str().to_owned(),
            _ => self.text()?,
        };
        parse(&text).map_err(|message| self.wrong(format!("{text:?}: {message}"))).ok()
    }

    pub(super) fn duration(&self) -> Option<Duration> {
        self.parsed(units::duration)
    }

    pub(super) fn share(&self) -> Option<Chance> {
        self.parsed(units::share)
    }

    pub(super) fn rate(&self) -> Option<u64> {
        self.parsed(units::rate)
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.parsed(units::size)
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        let wrong = |_| "write an address, such as 192.0.2.1 or 2001:db8::1".to_owned();
        self.parsed(|t| t.parse().map_err(wrong))
    }

    pub(super) fn prefix(&self) -> Option<Prefix> {
        self.parsed(|t| t.parse().map_err(|e: crate::ConfigError| e.to_string()))
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, all: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = all.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words = || all.iter().map(|(word, _)| *word);
            let (tip, all) = (tip(&text, words()), choices(words()));
            self.wrong(format!("there is no {text:?} here{tip}; write {all}"));
        }
        found
    }

    pub(super) fn list(&self) -> Vec<Self> {
        match self.spanned.get_ref() {
            DeValue::Array(list) => {
                let each = |v| Value::new(self.source, v, self.place.key.clone());
                list.iter().map(each).collect()
            }
            _ => self.none("a list in square brackets").unwrap_or_default(),
        }
    }

    pub(super) fn table(&self) -> Option<Table<'s, 'a>> {
        match self.spanned.get_ref() {
            DeValue::Table(entries) => Some(Table::new(self.source, self.place.clone(), entries)),
            _ => self.none("a table in curly brackets"),
        }
    }
}
