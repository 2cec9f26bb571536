//! Scenarios as files: what is read, what is refused and where, and the worlds they make.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod flaws;
mod pictures;
mod worlds;

use std::collections::BTreeSet;

use meshwire_netsim::Preset;
use meshwire_netsim::scenario::{BUILT_IN, Document, Scenario};

/// The first cell of a scenario that is as it should be.
fn read(text: &str) -> Scenario {
    let document = Document::parse(text).unwrap_or_else(|e| panic!("{e}"));
    document.cells()[0].scenario.clone()
}

/// A scenario of these lines, which begin in line 3.
fn with(lines: &str) -> String {
    format!("[scenario]\nname = \"t\"\n{lines}")
}

#[test]
fn what_is_built_in_is_called_by_its_name() {
    for (name, text) in BUILT_IN {
        let document = Document::parse(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        for cell in document.cells() {
            assert_eq!(cell.scenario.name, name);
            assert!(!cell.scenario.about.is_empty(), "{name}");
            assert!(!cell.scenario.asserts.is_empty(), "{name}");
        }
        // One that has no use for another address: that of a machine in a cloud is what it is.
        let all = Preset::ALL.len() - usize::from(name == "uplink-change");
        let routers = document.cells().iter().flat_map(|c| &c.scenario.routers);
        let presets: BTreeSet<&str> = routers.filter_map(|r| r.preset).map(Preset::name).collect();
        assert!(presets.len() >= all, "{name} runs with every preset: {presets:?}");
    }
}

#[test]
fn a_matrix_makes_a_cell_of_each_combination() {
    let text = "[scenario]\nname = \"t\"\n[matrix]\npreset = [\"open\", \"hotel\"]\nfar = [\"10ms\", \"1s\"]\n\
                [[home]]\nname = \"a\"\npreset = \"$preset\"\nlink = { latency = \"$far\" }\n";
    let document = Document::parse(text).unwrap();
    let labels: Vec<String> = document.cells().iter().map(|c| c.label()).collect();
    let all = [
        "far=10ms preset=open",
        "far=10ms preset=hotel",
        "far=1s preset=open",
        "far=1s preset=hotel",
    ];
    assert_eq!(labels.len(), 4);
    assert!(all.iter().all(|l| labels.iter().any(|k| k == l)), "{labels:?}");
    let hotel = document.clone().only("preset", "hotel").unwrap();
    assert_eq!(hotel.cells().len(), 2);
    let wrong = document.clone().only("preset", "hostel").unwrap_err();
    assert!(wrong.contains("did you mean \"hotel\"?"), "{wrong}");
    let wrong = document.only("presets", "hotel").unwrap_err();
    assert!(wrong.contains("did you mean \"preset\"?"), "{wrong}");
}
