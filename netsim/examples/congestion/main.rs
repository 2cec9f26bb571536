//! What congestion controls make of lines: one stream, messages beside it, two or ten streams that share. In virtual time, so
//! that this machine's speed does not count; the figures are those of the seeds.
//!
//! ```text
//! cargo run --release -p meshwire-netsim --example congestion
//! cargo run --release -p meshwire-netsim --example congestion -- one 40 ms --seeds 1 --trace
//! ```
//!
//! Columns: MB/s of all the time and of its second half, packets lost, and what messages beside it wait (p50, p99, in
//! ms); where some share, MB/s in the second half of a flow that the row is about, of one beside them, and of the least of
//! all (means, NaN for none), what the first of all lost, and Jain's index. Words pick the rows that have them all.
//! `--plain` takes QUIC streams with nothing of ours on them.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints and may fail")]

mod flow;
mod rows;

use meshwire_transport::quic::{Algorithm, Congestion};

const SEEDS: u64 = 5;

fn main() {
    let (mut seeds, mut plain, mut trace, mut window, mut words) =
        (SEEDS, false, false, None, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let number = |text: Option<String>| text.and_then(|n| n.parse().ok()).unwrap();
        match arg.as_str() {
            "--seeds" => seeds = number(args.next()),
            "--window" => window = Some(number(args.next())),
            "--plain" => plain = true,
            "--trace" => trace = true,
            _ => words.push(arg),
        }
    }
    let controls = [
        ("Cubic", Algorithm::Cubic),
        ("Cubic by queue", Algorithm::CubicQueue),
        ("NewReno", Algorithm::NewReno),
        ("BBR", Algorithm::Bbr),
    ];
    for mut row in rows::all() {
        row.attempt.plain = plain;
        row.attempt.trace = trace;
        for (name, algorithm) in controls {
            let known = Congestion::default();
            let control =
                Congestion { algorithm, initial_window: window.unwrap_or(known.initial_window) };
            let title = format!("{}, {name}", row.what);
            if words.iter().all(|word| title.contains(word.as_str())) {
                row.print(&title, control, seeds);
            }
        }
    }
}
