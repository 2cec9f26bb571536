//! What a person sees of a pipe beside its bytes: a line that is rewritten, and the sum at the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use meshwire_peer::api::PeerPath;

use super::flow::Counted;

/// How much weight the last look at the rate has beside those before it: of eight.
const WEIGHT: f64 = 2.0 / 8.0;

/// How fast bytes move, as of late.
#[derive(Debug, Default)]
pub(super) struct Rate {
    last: u64,
    per_second: Option<f64>,
}

impl Rate {
    /// Takes note of how many bytes there were in all, so long after the last look.
    pub(super) fn look(&mut self, all: u64, since: Duration) {
        let new = per_second(all.saturating_sub(self.last), since);
        self.last = all;
        self.per_second = Some(self.per_second.map_or(new, |old| old + (new - old) * WEIGHT));
    }
}

fn per_second(bytes: u64, since: Duration) -> f64 {
    bytes as f64 / since.as_secs_f64().max(0.001)
}

impl Counted {
    /// Bytes, both ways.
    pub(super) fn all(&self) -> u64 {
        let (sent, received) = self.get();
        sent.saturating_add(received)
    }

    /// Bytes, out and in.
    pub(super) fn get(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }
}

/// The line while bytes flow.
pub(super) fn line(counted: &Counted, rate: &Rate, path: Option<PeerPath>) -> String {
    let rate = rate.per_second.map_or_else(String::new, |rate| format!(", {}/s", size(rate)));
    format!("{}{rate}, {}", moved(counted), way(path))
}

/// The line at the end.
pub(super) fn sum(
    counted: &Counted,
    peer: &str,
    elapsed: Duration,
    path: Option<PeerPath>,
) -> String {
    let rate = size(per_second(counted.all(), elapsed));
    let seconds = elapsed.as_secs_f64();
    format!("{peer}: {} in {seconds:.1} s ({rate}/s), {}", moved(counted), way(path))
}

fn moved(counted: &Counted) -> String {
    let (sent, received) = counted.get();
    match (sent, received) {
        (sent, 0) => format!("{} sent", size(sent as f64)),
        (0, received) => format!("{} received", size(received as f64)),
        (sent, received) => {
            format!("{} sent, {} received", size(sent as f64), size(received as f64))
        }
    }
}

fn way(path: Option<PeerPath>) -> String {
    match path {
        None => "no path now".to_owned(),
        Some(PeerPath { kind, rtt_us: None }) => kind.as_str().to_owned(),
        Some(PeerPath { kind, rtt_us: Some(us) }) => {
            format!("{} ({})", kind.as_str(), crate::when::round_trip(us))
        }
    }
}

/// Bytes in three digits or so.
fn size(bytes: f64) -> String {
    let mut size = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1_000.0 {
            let digits = usize::from(unit != "B" && size < 100.0);
            return format!("{size:.digits$} {unit}");
        }
        size /= 1_024.0;
    }
    format!("{size:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshwire_peer::api::PeerPathKind;

    #[test]
    fn sizes_have_about_three_digits() {
        for (bytes, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1_000.0, "1.0 KiB"),
            (123_456.0, "121 KiB"),
            (10_485_760.0, "10.0 MiB"),
            (5_368_709_120.0, "5.0 GiB"),
            (2_199_023_255_552.0, "2.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_pipe_is_a_line() {
        let counted = Counted::default();
        let mut rate = Rate::default();
        let direct = Some(PeerPath { kind: PeerPathKind::Direct, rtt_us: Some(1_234) });
        assert_eq!(line(&counted, &rate, None), "0 B sent, no path now");
        counted.received.store(1 << 20, Ordering::Relaxed);
        rate.look(counted.all(), Duration::from_millis(500));
        assert_eq!(line(&counted, &rate, direct), "1.0 MiB received, 2.0 MiB/s, direct (1.2 ms)");
        rate.look(counted.all(), Duration::from_millis(500));
        assert!(line(&counted, &rate, direct).contains("1.5 MiB/s"), "it falls little by little");
        counted.sent.store(2 << 20, Ordering::Relaxed);
        let relay = Some(PeerPath { kind: PeerPathKind::Relay, rtt_us: None });
        let sum = sum(&counted, "bob", Duration::from_secs(3), relay);
        assert_eq!(sum, "bob: 2.0 MiB sent, 1.0 MiB received in 3.0 s (1.0 MiB/s), relay");
    }
}
