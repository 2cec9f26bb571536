//! The congestion control that nodes use, on lines where it matters. `examples/congestion` has the figures.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "../examples/congestion/flow.rs"]
mod flow;

use std::time::Duration;

use flow::{Line, Seen, Try};
use meshwire_transport::quic::{Algorithm, Congestion};

fn cubic() -> Congestion {
    Congestion { algorithm: Algorithm::Cubic, ..Congestion::default() }
}

/// 40 ms and 20 Mbit/s for ten seconds.
fn seen(loss: f64, queue: u64, flows: Vec<Congestion>) -> Seen {
    let line = Line { rtt: Duration::from_millis(40), mbit: 20, queue, loss };
    share(line, flows, Duration::from_secs(2), Duration::from_secs(10))
}

fn share(line: Line, flows: Vec<Congestion>, apart: Duration, lasts: Duration) -> Seen {
    let messages = flows.len() == 1;
    let seen = Try { line, flows, apart, lasts, messages, plain: false, trace: false }.run(1);
    println!("{:?} MB/s, {:.2} % lost", seen.rates, seen.lost);
    assert_eq!(seen.died, 0);
    seen
}

/// Jain's index of the second half: 1 if all have as much, 1/n if one has everything.
fn fairness(seen: &Seen) -> f64 {
    let rates = || seen.rates.iter().map(|r| r[1]);
    let squares: f64 = rates().map(|r| r * r).sum();
    rates().sum::<f64>().powi(2) / (squares * rates().count() as f64)
}

/// Of a fair share, what the flow that has least has in the second half.
fn least(seen: &Seen) -> f64 {
    let rates = || seen.rates.iter().map(|r| r[1]);
    rates().fold(f64::INFINITY, f64::min) * rates().count() as f64 / rates().sum::<f64>()
}

#[test]
fn a_loss_without_a_queue_costs_little() {
    let ours = seen(1.0, 100_000, vec![Congestion::default()]);
    let cubic = seen(1.0, 100_000, vec![cubic()]);
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
    for (other, beside) in [(Congestion::default(), "its like"), (cubic(), "Cubic")] {
        let seen = seen(0.0, 100_000, vec![Congestion::default(), other]);
        let [first, second] = [seen.rates[0][1], seen.rates[1][1]];
        assert!(first + second > 2.0, "beside {beside}: {first} and {second} of 2.4 MB/s");
        // Ten seconds are too short for equal shares.
        let ratio = first.max(second) / first.min(second);
        assert!(ratio < 4.0, "beside {beside}: {first} and {second} MB/s");
    }
}

/// Ten flows on one line, which together may keep a queue that none of them sees empty.
fn ten(flows: Vec<Congestion>) {
    let line = Line { rtt: Duration::from_millis(40), mbit: 20, queue: 100_000, loss: 0.0 };
    let seen = share(line, flows, Duration::from_millis(500), Duration::from_secs(40));
    let all: f64 = seen.rates.iter().map(|r| r[1]).sum();
    assert!(all > 2.2, "{all} of 2.4 MB/s");
    let (jain, least) = (fairness(&seen), least(&seen));
    println!("Jain {jain:.2}, least {least:.2} of a share");
    assert!(jain > 0.9, "{jain}");
    assert!(least > 0.6, "{least} of a share");
}

#[test]
fn ten_share_a_line() {
    ten(vec![Congestion::default(); 10]);
}

#[test]
fn five_and_five_of_cubic_share_a_line() {
    ten([Congestion::default(), cubic()].repeat(5));
}

/// Whoever comes to a line where another keeps a queue never sees the way without it. Five minutes: as long as the
/// shortest round trip is remembered at the least.
#[test]
fn who_joins_a_standing_queue_shares_it() {
    for queue in [12_500, 62_500] {
        let line = Line { rtt: Duration::from_millis(40), mbit: 5, queue, loss: 0.0 };
        let flows = vec![cubic(), Congestion::default()];
        let seen = share(line, flows, Duration::from_secs(10), Duration::from_secs(300));
        let (jain, least) = (fairness(&seen), least(&seen));
        println!("{queue}: Jain {jain:.2}, least {least:.2} of a share");
        assert!(jain > 0.9, "{queue}: {jain}");
        assert!(least > 0.6, "{queue}: {least} of a share");
    }
}
