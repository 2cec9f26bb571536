//! Each target on its whole corpus and on seeded mutants of it.
//!
//! `MESHWIRE_FUZZ_SECONDS=600` goes on for so long with further seeds; `MESHWIRE_FUZZ_SEED` begins there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use meshwire_fuzz::{TARGETS, Target, mutant};
use tokio::time::Instant;

/// Most files of a corpus, and most bytes of one: they are checked in.
const FILES: usize = 100;
const BYTES: usize = 4 << 10;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The corpus, by name, so that a seed means the same everywhere.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(target.folder()).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    assert!((1..=FILES).contains(&files.len()), "{}: {} files", target.name, files.len());
    files
}

fn run(target: &Target, what: &str, input: &[u8]) {
    let done = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(done.is_ok(), "{}: {what} breaks it: {}", target.name, hex::encode(input));
}

fn smoke(name: &str) {
    let target = Target::named(name).unwrap();
    let files = corpus(target);
    for (file, bytes) in &files {
        assert!(bytes.len() <= BYTES, "{name}/{file} has {} bytes", bytes.len());
        run(target, file, bytes);
    }
    let inputs: Vec<Vec<u8>> = files.into_iter().map(|(_, bytes)| bytes).collect();
    let (begun, first) = (Instant::now(), number("MESHWIRE_FUZZ_SEED").unwrap_or(1));
    let longer = Duration::from_secs(number("MESHWIRE_FUZZ_SECONDS").unwrap_or(0));
    for seed in first.. {
        if seed >= first.saturating_add(target.mutants) && begun.elapsed() >= longer {
            break;
        }
        run(target, &format!("seed {seed}"), &mutant(&inputs, seed));
    }
}

macro_rules! smoke {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name));
        })*

        #[test]
        fn every_target_is_played_here_and_is_one_of_libfuzzers() {
            let played = [$(stringify!($name)),*];
            let libfuzzer = include_str!("../libfuzzer/Cargo.toml");
            for target in TARGETS {
                assert!(played.contains(&target.name), "{}", target.name);
                assert!(libfuzzer.contains(&format!("name = \"{}\"\n", target.name)));
            }
            assert_eq!(played.len(), TARGETS.len());
        }
    };
}

smoke! {
    demux stun turn_server frames offers candidates ice link_frames netcheck port_mapper upnp
    stream_wire streams
}
