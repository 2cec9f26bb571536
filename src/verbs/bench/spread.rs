//! Many measurements of one thing, in a few numbers.

use std::time::Duration;

use serde::Serialize;

/// How measurements are spread; times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    /// How many there are.
    pub(super) count: usize,
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
}

impl Spread {
    /// Of at least one measurement.
    pub(super) fn of(times: &[Duration]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        // The smallest that at least so many per cent are not above (nearest rank).
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).map(micros)
        };
        Some(Self {
            count: sorted.len(),
            p50_us: at(50)?,
            p90_us: at(90)?,
            p99_us: at(99)?,
            max_us: at(100)?,
        })
    }
}

fn micros(time: &Duration) -> f64 {
    // Tenths are more than clocks tell.
    (time.as_secs_f64() * 1e7).round() / 10.0
}

/// For people: microseconds, and milliseconds where they are many.
pub(super) fn words(us: f64) -> String {
    if us.abs() < 10_000.0 { format!("{us:.0} us") } else { format!("{:.1} ms", us / 1_000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measurements_that_were_made() {
        assert_eq!(Spread::of(&[]), None);
        let times: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        let spread = Spread::of(&times).unwrap();
        assert_eq!((spread.count, spread.p50_us, spread.p90_us), (200, 100.0, 180.0));
        assert_eq!((spread.p99_us, spread.max_us), (198.0, 200.0));
        let one = Spread::of(&[Duration::from_nanos(1_250)]).unwrap();
        assert_eq!((one.p50_us, one.p99_us), (1.3, 1.3));
    }

    #[test]
    fn long_times_are_told_in_milliseconds() {
        assert_eq!([words(99.6), words(-2.0), words(12_340.0)], ["100 us", "-2 us", "12.3 ms"]);
    }
}
