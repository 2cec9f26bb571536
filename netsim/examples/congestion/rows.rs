//! The lines, and how a row is printed.

use std::time::Duration;

use meshwire_transport::quic::{Algorithm, Congestion};

use crate::flow::{Line, Seen, Try};

/// Who shares the line. Each begins two seconds after the one before, if nothing else is said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Company {
    Nobody,
    /// One of its kind.
    Same,
    /// Cubic.
    Cubic,
    /// Cubic, which has had the line for ten seconds.
    CubicBefore,
    /// Nine of its kind.
    Nine,
    /// Four of its kind and five of Cubic, in turns.
    FourAndFive,
}

impl Company {
    /// All of them; `control` is what the row is about.
    fn flows(self, control: Congestion) -> Vec<Congestion> {
        let cubic = Congestion { algorithm: Algorithm::Cubic, ..control };
        match self {
            Self::Nobody => vec![control],
            Self::Same => vec![control; 2],
            Self::Cubic => vec![control, cubic],
            Self::CubicBefore => vec![cubic, control],
            Self::Nine => vec![control; 10],
            Self::FourAndFive => [control, cubic].repeat(5),
        }
    }

    /// Which of the flows the row is about.
    fn ours(self) -> Vec<usize> {
        match self {
            Self::Nobody | Self::Same | Self::Cubic => vec![0],
            Self::CubicBefore => vec![1],
            Self::Nine => (0..10).collect(),
            Self::FourAndFive => (0..10).step_by(2).collect(),
        }
    }
}

pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) attempt: Try,
    company: Company,
}

fn row(what: &str, line: Line, seconds: u64, company: Company) -> Row {
    let lasts = Duration::from_secs(seconds);
    let apart = Duration::from_secs(if company == Company::CubicBefore { 10 } else { 2 });
    let messages = company == Company::Nobody;
    let (flows, plain, trace) = (Vec::new(), false, false);
    let attempt = Try { line, flows, apart, lasts, messages, plain, trace };
    Row { what: what.to_owned(), attempt, company }
}

fn line(rtt: u64, mbit: u64, queue: u64, loss: f64) -> Line {
    Line { rtt: Duration::from_millis(rtt), mbit, queue, loss }
}

/// All lines.
pub(crate) fn all() -> Vec<Row> {
    use Company::{Cubic, CubicBefore, FourAndFive, Nine, Nobody, Same};
    let alone = [
        ("one: LAN, 1 Gbit/s, 1 ms", line(1, 1_000, 512 << 10, 0.0), 10),
        ("one: 1 Gbit/s, 40 ms", line(40, 1_000, 2 << 20, 0.0), 20),
        ("one: 2.5 Gbit/s, 40 ms", line(40, 2_500, 4 << 20, 0.0), 10),
        ("one: 1 Gbit/s, 40 ms, 0.1 % lost", line(40, 1_000, 2 << 20, 0.1), 20),
        ("one: 100 Mbit/s, 200 ms, 1 % lost", line(200, 100, 1 << 20, 1.0), 60),
        ("one: 5 Mbit/s, 40 ms, 1 s of queue", line(40, 5, 640 << 10, 0.0), 60),
        ("one: 5 Mbit/s, 40 ms, 5 s of queue", line(40, 5, 3 << 20, 0.0), 60),
    ];
    let shared = [
        ("two: 100 Mbit/s, 40 ms, 40 ms of queue", line(40, 100, 500_000, 0.0), 60),
        ("two: 100 Mbit/s, 40 ms, 10 ms of queue", line(40, 100, 125_000, 0.0), 60),
        ("two: 100 Mbit/s, 40 ms, 2 ms of queue", line(40, 100, 25_000, 0.0), 60),
        ("two: 100 Mbit/s, 40 ms, 40 ms of queue, 0.1 % lost", line(40, 100, 500_000, 0.1), 60),
    ];
    let mut rows: Vec<Row> = alone.map(|(what, line, s)| row(what, line, s, Nobody)).into();
    for (company, with) in [(Same, "its like"), (Cubic, "Cubic")] {
        rows.extend(
            shared.map(|(what, line, s)| row(&format!("{what}, beside {with}"), line, s, company)),
        );
    }
    // Cubic by itself never lets these queues run empty.
    let standing = [
        ("standing: 20 Mbit/s, 40 ms, 100 ms of queue", line(40, 20, 250_000, 0.0), 300),
        ("standing: 20 Mbit/s, 40 ms, 20 ms of queue", line(40, 20, 50_000, 0.0), 300),
    ];
    rows.extend(standing.map(|(what, line, s)| row(what, line, s, CubicBefore)));
    let ten = [
        ("ten: 100 Mbit/s, 40 ms, 40 ms of queue", line(40, 100, 500_000, 0.0), 60),
        ("ten: 100 Mbit/s, 40 ms, 10 ms of queue", line(40, 100, 125_000, 0.0), 60),
    ];
    for (company, with) in [(Nine, "of its like"), (FourAndFive, "five of them Cubic")] {
        rows.extend(ten.map(|(what, line, s)| row(&format!("{what}, {with}"), line, s, company)));
    }
    rows
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn percentile(seen: &Seen, percent: usize) -> f64 {
    let mut waits = seen.waits.clone();
    waits.sort_unstable();
    let rank = (waits.len() * percent).div_ceil(100).max(1);
    waits.get(rank - 1).map_or(f64::NAN, |wait| wait.as_secs_f64() * 1e3)
}

/// Jain's index: 1 if all have as much, 1/n if one has everything.
fn fairness(rates: &[[f64; 2]]) -> f64 {
    let sum: f64 = rates.iter().map(|r| r[1]).sum();
    let squares: f64 = rates.iter().map(|r| r[1] * r[1]).sum();
    sum * sum / (squares * rates.len() as f64)
}

/// What a flow of some has in the second half.
fn mean(rates: &[[f64; 2]], of: impl Fn(usize) -> bool) -> f64 {
    let some: Vec<f64> = (0..rates.len()).filter(|n| of(*n)).map(|n| rates[n][1]).collect();
    some.iter().sum::<f64>() / some.len() as f64
}

impl Row {
    /// Medians of the seeds.
    pub(crate) fn print(&self, title: &str, control: Congestion, seeds: u64) {
        let mut attempt = self.attempt.clone();
        attempt.flows = self.company.flows(control);
        let seen: Vec<Seen> = (1..=seeds).map(|seed| attempt.run(seed)).collect();
        let of = |pick: &dyn Fn(&Seen) -> f64| median(seen.iter().map(pick).collect());
        let lost = of(&|s| s.lost);
        let died: usize = seen.iter().map(|s| s.died).sum();
        let title =
            if died > 0 { format!("{title} ({died} connections died)") } else { title.to_owned() };
        if self.company == Company::Nobody {
            println!(
                "| {title} | {:.1} | {:.1} | {lost:.2} % | {:.0} | {:.0} |",
                of(&|s| s.rates[0][0]),
                of(&|s| s.rates[0][1]),
                of(&|s| percentile(s, 50)),
                of(&|s| percentile(s, 99)),
            );
            return;
        }
        let ours = self.company.ours();
        let least = |s: &Seen| s.rates.iter().map(|r| r[1]).fold(f64::INFINITY, f64::min);
        println!(
            "| {title} | {:.2} | {:.2} | {:.2} | {lost:.2} % | {:.2} |",
            of(&|s| mean(&s.rates, |n| ours.contains(&n))),
            of(&|s| mean(&s.rates, |n| !ours.contains(&n))),
            of(&least),
            of(&|s| fairness(&s.rates)),
        );
    }
}
