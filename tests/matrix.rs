//! The NAT matrix in virtual time: every cell gets the path that it must get.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use meshwire::sim::matrix::{Cell, Families, Outcome, Route, expected, play};

const SEED: u64 = 1;

/// Says what is wrong with a cell, and how to see it again.
fn wrong(outcome: &Outcome) -> Option<String> {
    let Outcome { cell, seed, expected, got, trouble, steps, .. } = outcome;
    (!outcome.passed()).then(|| {
        format!(
            "{cell}: must get {expected:?}, got {got:?}, {trouble:?}; to replay it: \
             meshwire sim matrix --cells {cell} --seed {seed}\n{steps:#?}"
        )
    })
}

fn all_of(families: Families) {
    let cells = Cell::all().into_iter().filter(|c| c.families == families);
    let wrong: Vec<String> = cells.filter_map(|c| wrong(&play(c, SEED, true))).collect();
    assert!(wrong.is_empty(), "{} cells:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn ipv4() {
    all_of(Families::V4);
}

#[test]
fn ipv6() {
    all_of(Families::V6);
}

#[test]
fn both() {
    all_of(Families::Dual);
}

#[test]
fn without_quic_every_cell_with_a_path_of_its_own_is_red() {
    for cell in Cell::all() {
        let outcome = play(cell, SEED, false);
        assert_eq!(outcome.got, Some(Route::Relay), "{cell}");
        assert_eq!(outcome.trouble, None, "{cell}");
        assert_eq!(outcome.passed(), expected(cell) == Route::Relay, "{cell}");
    }
}

#[test]
fn one_seed_is_one_run() {
    for name in ["port-restricted:symmetric:v4", "cgnat:mobile:dual"] {
        let cell = Cell::matching(name).unwrap()[0];
        let first = play(cell, 7, true);
        assert_eq!(first, play(cell, 7, true));
        assert_ne!(first, play(cell, 8, true), "the seed matters");
    }
}
