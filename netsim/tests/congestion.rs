//! The congestion control that nodes use, on lines where it matters. `examples/congestion` has the figures.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "../examples/congestion/flow.rs"]
mod flow;

use std::time::Duration;

use flow::{Line, Seen, Try};
use meshwire_transport::quic::{Algorithm, Congestion};

/// 40 ms and 20 Mbit/s for ten seconds.
fn seen(loss: f64, queue: u64, flows: Vec<Congestion>) -> Seen {
    let line = Line { rtt: Duration::from_millis(40), mbit: 20, queue, loss };
    let lasts = Duration::from_secs(10);
    let messages = flows.len() == 1;
    let seen = Try { line, flows, lasts, messages, plain: false, trace: false }.run(1);
    println!("{:?} MB/s, {:.2} % lost", seen.rates, seen.lost);
    assert_eq!(seen.died, 0);
    seen
}

#[test]
fn a_loss_without_a_queue_costs_little() {
    let ours = seen(1.0, 100_000, vec![Congestion::default()]);
    let cubic = Congestion { algorithm: Algorithm::Cubic, ..Congestion::default() };
    let cubic = seen(1.0, 100_000, vec![cubic]);
    let (ours_rate, cubic_rate) = (ours.rates[0][1], cubic.rates[0][1]);
    assert!(ours_rate > 1.5, "{ours_rate} of 2.4 MB/s");
    assert!(ours_rate > 2.0 * cubic_rate, "{ours_rate} against Cubic's {cubic_rate} MB/s");
    // One message in a hundred is lost itself.
    let mut waits = ours.waits;
    waits.sort_unstable();
    let p50 = waits[waits.len() / 2];
    assert!(p50 < Duration::from_millis(40), "{p50:?}");
}

#[test]
fn two_share_a_line() {
    let cubic = Congestion { algorithm: Algorithm::Cubic, ..Congestion::default() };
    for (other, beside) in [(Congestion::default(), "its like"), (cubic, "Cubic")] {
        let seen = seen(0.0, 100_000, vec![Congestion::default(), other]);
        let [first, second] = [seen.rates[0][1], seen.rates[1][1]];
        assert!(first + second > 2.0, "beside {beside}: {first} and {second} of 2.4 MB/s");
        // Ten seconds are too short for equal shares.
        let ratio = first.max(second) / first.min(second);
        assert!(ratio < 4.0, "beside {beside}: {first} and {second} MB/s");
    }
}
