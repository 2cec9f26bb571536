//! The path that a cell must get, from what RFC 4787 says of the two routers.
//!
//! Two nodes punch a hole when each can send first to where the other's packets come from. With
//! endpoint-independent mapping, or with ports that are kept, a STUN server's answer says where that
//! is. Else only the address is known, not the port: that is enough for a router that filters by address
//! or not at all, and the node behind it learns the port from the first packet. For one that filters by
//! port, the port is guessed. With no port known on either side, there is nothing to begin with.

use meshwire_netsim::Preset;
use serde::Serialize;

use super::cell::{Cell, Families, Listener};

/// What carries messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// From node to node.
    Direct,
    /// A connection of their own, through a TURN server.
    Turn,
    /// The broker's WebSocket.
    Relay,
}

impl Route {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Turn => "turn",
            Self::Relay => "relay",
        }
    }
}

/// Whether packets come from where a STUN server saw them come from, for UDP in one family. None: no
/// UDP passes.
fn is_known(preset: Preset, v4: bool) -> Option<bool> {
    match preset {
        Preset::Hotel | Preset::Corporate => None,
        // No IPv4 at all.
        Preset::Ipv6Only if v4 => None,
        // Nothing is translated.
        _ if !v4 => Some(true),
        Preset::Open
        | Preset::FullCone
        | Preset::AddressRestricted
        | Preset::Cgnat
        | Preset::CloudOneToOne
        | Preset::PortRestricted
        | Preset::SymmetricPreserving => Some(true),
        // Symmetric, mobile: another random port for each destination. What is not known is not
        // counted on.
        _ => Some(false),
    }
}

fn in_family(a: Preset, b: Preset, v4: bool) -> Route {
    match (is_known(a, v4), is_known(b, v4)) {
        (None, _) | (_, None) => Route::Relay,
        (Some(false), Some(false)) => Route::Turn,
        _ => Route::Direct,
    }
}

/// The best path that a cell's routers allow.
#[must_use]
pub fn expected(cell: Cell) -> Route {
    let Listener::Behind(listener) = cell.listener else { return Route::Direct };
    let route = |v4| in_family(cell.dialer, listener, v4);
    match cell.families {
        Families::V4 => route(true),
        Families::V6 => route(false),
        Families::Dual => route(true).min(route(false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Route {
        expected(Cell::matching(name).unwrap()[0])
    }

    #[test]
    fn rows_that_everybody_knows() {
        for (name, route) in [
            ("full-cone:symmetric:v4", Route::Direct),
            ("address-restricted:mobile:v4", Route::Direct),
            ("port-restricted:port-restricted:v4", Route::Direct),
            ("port-restricted:symmetric:v4", Route::Direct),
            ("mobile:port-restricted:v4", Route::Direct),
            ("symmetric:mobile:v4", Route::Turn),
            ("symmetric:symmetric:v4", Route::Turn),
            ("symmetric-preserving:symmetric-preserving:v4", Route::Direct),
            ("symmetric-preserving:symmetric:v4", Route::Direct),
            ("symmetric:symmetric:dual", Route::Direct),
            ("symmetric:mobile:v6", Route::Direct),
            ("corporate:open:dual", Route::Relay),
            ("hotel:hotel:v4", Route::Relay),
            ("hotel:lan:v4", Route::Direct),
            ("ipv6-only:symmetric:dual", Route::Direct),
        ] {
            assert_eq!(of(name), route, "{name}");
        }
    }

    #[test]
    fn who_dials_does_not_matter() {
        for cell in Cell::all() {
            if let Listener::Behind(listener) = cell.listener {
                let other = Listener::Behind(cell.dialer);
                let swapped = Cell { dialer: listener, listener: other, ..cell };
                assert_eq!(expected(cell), expected(swapped), "{cell}");
            }
        }
    }
}
