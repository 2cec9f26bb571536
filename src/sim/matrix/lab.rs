//! Plays a cell with the real programs in network namespaces: as a scenario.

use std::fmt::Write as _;

use meshwire_netsim::Preset;
use meshwire_netsim::scenario::Document;
use meshwire_transport::direct::Reach;

use super::cell::{Cell, Families, Listener};
use super::expect::Route;
use super::play::{DIALER, LISTENER, Outcome, Step};
use crate::sim::{Options, Report, SimError, in_lab};

/// Plays one cell in the lab, in real time. Without `quic` the nodes use the relay alone.
///
/// # Errors
/// As [`in_lab`]: there can be no lab, or the cell's world is not what it should be.
pub async fn play_in_lab(cell: Cell, seed: u64, quic: bool) -> Result<Outcome, SimError> {
    let mut outcome = Outcome::new(cell, seed);
    let text = scenario(cell, outcome.expected, quic);
    let document = Document::parse(&text).map_err(|e| SimError::Broken(e.to_string()))?;
    let Some(part) = document.cells().first() else { return Ok(outcome) };
    let options = Options { seed: Some(seed), ..Options::default() };
    let report = Box::pin(in_lab(part, &options)).await?;
    take(&mut outcome, &report);
    Ok(outcome)
}

fn take(outcome: &mut Outcome, report: &Report) {
    let own = || report.paths.iter().filter(|p| p.from == DIALER && p.to == LISTENER);
    let kind = own().next_back().map_or("relay", |p| p.kind);
    if report.delivered > 0 {
        outcome.got = Some(match kind {
            "direct" => Route::Direct,
            "turn" => Route::Turn,
            _ => Route::Relay,
        });
    }
    outcome.reach = (kind == "turn").then_some(Reach::Relayed);
    let us = |ms: u64| ms.saturating_mul(1_000);
    outcome.first_byte_us = report.first_ms.map(us);
    outcome.direct_us = own().find(|p| matches!(p.kind, "direct" | "turn")).map(|p| us(p.ms));
    outcome.steps = report
        .paths
        .iter()
        .map(|p| Step {
            ms: i64::try_from(p.ms).unwrap_or(i64::MAX),
            who: if p.from == DIALER { DIALER } else { LISTENER },
            what: format!("messages go by {}", p.kind),
        })
        .collect();
    let failed = || report.asserts.iter().find(|r| !r.passed);
    let row = || failed().map(|r| format!("{}: wanted {}, got {}", r.name, r.wanted, r.got));
    outcome.trouble = report.trouble.clone().or_else(row);
}

/// The cell as a scenario.
fn scenario(cell: Cell, expected: Route, quic: bool) -> String {
    let paths = if quic { "auto" } else { "relay-only" };
    let mut text = format!("[scenario]\nname = \"cell\"\npaths = \"{paths}\"\n[broker]\n");
    let mut add = |part: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{part}");
    };
    let link = "link = { latency = \"10ms\" }";
    let hosts = match cell.listener {
        Listener::Behind(preset) => {
            for (name, preset) in [(DIALER, cell.dialer), (LISTENER, preset)] {
                add(format_args!("[[node]]\nname = \"{name}\"\npreset = \"{preset}\"\n{link}"));
            }
            [(DIALER, cell.dialer, 1, 2), (LISTENER, preset, 2, 2)]
        }
        Listener::Lan => {
            let preset = cell.dialer;
            add(format_args!(
                "[[home]]\nname = \"home\"\npreset = \"{preset}\"\n{link}\n\
                 machines = [\"one\", \"two\"]"
            ));
            add(format_args!("[[node]]\nname = \"{DIALER}\"\nhost = \"one\""));
            add(format_args!("[[node]]\nname = \"{LISTENER}\"\nhost = \"two\""));
            [("one", preset, 1, 2), ("two", preset, 1, 3)]
        }
    };
    for (host, preset, home, machine) in hosts {
        let v4 = match preset.router().nat {
            Some(_) => format!("10.0.{home}.{machine}"),
            None => format!("11.16.{home}.{machine}"),
        };
        let own = match cell.families {
            Families::V4 => v4,
            Families::V6 => format!("2600:1:3:{home}::{machine}"),
            Families::Dual => continue,
        };
        if preset == Preset::Ipv6Only {
            continue;
        }
        let of = if cell.listener == Listener::Lan { host.to_owned() } else { format!("{host}.0") };
        add(format_args!("[[timeline]]\naddress = {{ of = \"{of}\", addresses = [\"{own}\"] }}"));
    }
    if cell.families != Families::Dual {
        // Connections of addresses that are gone would be waited for.
        for name in [DIALER, LISTENER] {
            add(format_args!("[[timeline]]\nrestart = \"{name}\""));
        }
        for name in [DIALER, LISTENER] {
            add(format_args!("[[timeline]]\nwait_for = {{ connected = \"{name}\" }}"));
        }
    }
    let ends = format!("from = \"{DIALER}\", to = \"{LISTENER}\"");
    let back = format!("from = \"{LISTENER}\", to = \"{DIALER}\"");
    add(format_args!("[[timeline]]\nsend = {{ {ends} }}"));
    let kind = expected.as_str();
    if quic && expected != Route::Relay {
        let path = format!("path = {{ {ends}, kind = \"{kind}\" }}");
        add(format_args!("[[timeline]]\nwait_for = {{ {path}, within = \"20s\" }}"));
    }
    for way in [&ends, &back] {
        add(format_args!("[[timeline]]\nsend = {{ {way}, count = 3 }}"));
        add(format_args!(
            "[[assert]]\ndelivered = {{ {way}, exactly_once = true, in_order = true }}"
        ));
    }
    let within = if expected == Route::Relay { "" } else { ", within = \"25s\"" };
    add(format_args!("[[assert]]\npath = {{ {ends}, kind = \"{kind}\"{within} }}"));
    text
}

#[cfg(test)]
mod tests {
    use super::super::expect::expected;
    use super::*;

    #[test]
    fn every_cell_is_a_scenario() {
        for cell in Cell::all() {
            let text = scenario(cell, expected(cell), true);
            let document = Document::parse(&text).unwrap_or_else(|e| panic!("{cell}: {e}\n{text}"));
            assert_eq!(document.cells().len(), 1);
            document.cells()[0].scenario.plan(1).unwrap_or_else(|e| panic!("{cell}: {e}\n{text}"));
        }
    }
}
