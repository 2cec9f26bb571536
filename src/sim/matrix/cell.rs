//! The cells of the matrix, and how they are named: `DIALER:LISTENER:FAMILIES`.

use std::fmt;
use std::str::FromStr;

use meshwire_netsim::Preset;

/// Which addresses the machines of a cell have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Dual,
}

impl Families {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Dual];

    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
            Self::Dual => "dual",
        }
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listener {
    /// Behind a router of its own.
    Behind(Preset),
    /// In the dialer's LAN.
    Lan,
}

impl Listener {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Behind(preset) => preset.name(),
            Self::Lan => "lan",
        }
    }
}

/// Two nodes and where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// The router of the one that writes first.
    pub dialer: Preset,
    /// Where the other one is.
    pub listener: Listener,
    /// Which addresses both have.
    pub families: Families,
}

impl Cell {
    /// All cells that can be: a machine without IPv4 cannot be where there is IPv4 alone.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let listeners: Vec<Listener> =
            Preset::ALL.into_iter().map(Listener::Behind).chain([Listener::Lan]).collect();
        let mut all = Vec::new();
        for families in Families::ALL {
            for dialer in Preset::ALL {
                all.extend(listeners.iter().map(|&listener| Self { dialer, listener, families }));
            }
        }
        all.retain(|cell| cell.exists());
        all
    }

    fn exists(self) -> bool {
        let only6 = |preset| preset == Preset::Ipv6Only;
        let other = matches!(self.listener, Listener::Behind(preset) if only6(preset));
        self.families != Families::V4 || !(only6(self.dialer) || other)
    }

    /// Cells by a pattern: each part a name, `*`, or left out from the end.
    ///
    /// # Errors
    /// [`CellError`], with what would be valid.
    pub fn matching(pattern: &str) -> Result<Vec<Self>, CellError> {
        let parts: Vec<&str> = pattern.split(':').collect();
        let [dialer, listener, families] = match parts[..] {
            [a] => [a, "*", "*"],
            [a, b] => [a, b, "*"],
            [a, b, c] => [a, b, c],
            _ => return Err(CellError::Parts(pattern.to_owned())),
        };
        let preset = |text: &str| match text {
            "*" => Ok(None),
            text => Preset::from_str(text).map(Some).map_err(|e| CellError::Preset(e.to_string())),
        };
        let dialer = preset(dialer)?;
        let listener = match listener {
            "lan" => Some(Listener::Lan),
            text => preset(text)?.map(Listener::Behind),
        };
        let families = match families {
            "*" => None,
            text => {
                let found = Families::ALL.into_iter().find(|f| f.as_str() == text);
                Some(found.ok_or_else(|| CellError::Families(text.to_owned()))?)
            }
        };
        let mut found = Self::all();
        found.retain(|c| {
            dialer.is_none_or(|d| d == c.dialer)
                && listener.is_none_or(|l| l == c.listener)
                && families.is_none_or(|f| f == c.families)
        });
        if found.is_empty() {
            return Err(CellError::None(pattern.to_owned()));
        }
        Ok(found)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.dialer, self.listener.as_str(), self.families)
    }
}

/// No cells have this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CellError {
    /// Too many parts.
    #[error("{0:?} is no cell: write DIALER:LISTENER:FAMILIES, such as symmetric:full-cone:v4")]
    Parts(String),
    /// No such router.
    #[error("{0}; a listener can also be in the dialer's lan; * stands for all")]
    Preset(String),
    /// No such families.
    #[error("{0:?} are no addresses: use v4, v6, dual, or * for all")]
    Families(String),
    /// The parts exclude each other.
    #[error("{0:?} is no cell: there is no IPv4 behind ipv6-only")]
    None(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_found_by_its_name() {
        let all = Cell::all();
        // 12 × 13 with IPv6 and with both; without those that are IPv6-only, 11 × 12 with IPv4.
        assert_eq!(all.len(), 2 * 12 * 13 + 11 * 12);
        for cell in all {
            assert_eq!(Cell::matching(&cell.to_string()).unwrap(), [cell]);
        }
    }

    #[test]
    fn parts_can_be_left_open() {
        assert_eq!(Cell::matching("*").unwrap(), Cell::all());
        assert_eq!(Cell::matching("hotel").unwrap().len(), 12 + 13 + 13);
        assert_eq!(Cell::matching("*:lan:v4").unwrap().len(), 11);
    }

    #[test]
    fn errors_say_what_would_be_valid() {
        let says = |text: &str| Cell::matching(text).unwrap_err().to_string();
        assert!(says("symetric:open").contains("symmetric"), "{}", says("symetric:open"));
        assert!(says("open:open:v5").contains("v4, v6, dual"));
        assert!(says("a:b:c:d").contains("DIALER:LISTENER:FAMILIES"));
        assert!(says("ipv6-only:open:v4").contains("no IPv4"));
    }
}
