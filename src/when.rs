//! Times for people: UTC, to the second.

use std::time::Duration;

use meshwire_signaling::UnixMillis;
use meshwire_signaling::limits::ms;

use crate::duration;

const DAY: u64 = 86_400;

/// A round trip, given in microseconds: `3.1 ms`.
pub(crate) fn round_trip(us: u64) -> String {
    format!("{}.{} ms", us / 1_000, us % 1_000 / 100)
}

/// A time as people type it: so long ago, or a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// So long before now.
    Ago(Duration),
    /// Unix milliseconds.
    At(UnixMillis),
}

impl When {
    /// In Unix milliseconds, if it is `now`.
    pub(crate) fn at(self, now: UnixMillis) -> UnixMillis {
        match self {
            Self::Ago(ago) => now.saturating_sub(ms(ago)),
            Self::At(at) => at,
        }
    }
}

/// Reads `2h`, `2026-11-21`, or a time as [`utc`] writes it.
///
/// # Errors
/// What would be valid.
pub(crate) fn parse(text: &str) -> Result<When, String> {
    let text = text.trim();
    match (date(text), duration::parse(text)) {
        (Some(at), _) => Ok(When::At(at)),
        (None, Ok(ago)) => Ok(When::Ago(ago)),
        // What has a dash was meant as a date.
        (None, Err(e)) if !text.contains('-') => Err(format!("{e}; or give a UTC date")),
        (None, Err(_)) => {
            Err("write a UTC date such as 2026-11-21 or 2026-11-21T08:12:03Z, or how \
                               long ago, such as 2h or 30d"
                .to_owned())
        }
    }
}

/// A date, with a time of day or without, in UTC.
fn date(text: &str) -> Option<UnixMillis> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time.trim_end_matches('Z')),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':').or_else(|| {
        let [hour, minute] = numbers(time, ':')?;
        Some([hour, minute, 0])
    })?;
    if !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days of the month are checked by reading the date back.
    let days = days(year, month, day).filter(|d| civil(*d) == (year, month, day))?;
    Some((days * DAY + hour * 3_600 + minute * 60 + second) * 1_000)
}

/// So many plain numbers of at most four digits, and nothing else.
fn numbers<const N: usize>(text: &str, between: char) -> Option<[u64; N]> {
    let number = |part: &str| {
        let plain = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| part.parse().ok()).flatten()
    };
    let all: Option<Vec<u64>> = text.split(between).map(number).collect();
    all?.try_into().ok()
}

/// The day since 1970-01-01 of a date, the way back from [`civil`] (`days_from_civil` there).
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let shifted = (month + 9) % 12;
    let of_year = (153 * shifted + 2) / 5 + day.checked_sub(1)?;
    (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)
}

/// How long something lasts, to one unit: `45s`, `12m`, `3h`, `5d`.
pub(crate) fn rough(ms: u64) -> String {
    match ms / 1_000 {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3_600 => format!("{}m", s / 60),
        s @ 3_600..DAY => format!("{}h", s / 3_600),
        s => format!("{}d", s / DAY),
    }
}

/// `2026-11-21 08:12:03Z`.
pub(crate) fn utc(at: UnixMillis) -> String {
    let seconds = at / 1_000;
    let (year, month, day) = civil(seconds / DAY);
    let s = seconds % DAY;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", s / 3_600, s / 60 % 60, s % 60)
}

/// Year, month and day of a day since 1970-01-01, in the proleptic Gregorian calendar (the
/// algorithm of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    // Years start in March there, so that the leap day is the last of its year.
    let z = days.saturating_add(719_468);
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, wrapped) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + wrapped, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_calendar_times() {
        for (at, text) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399_000, "2000-02-28 23:59:59Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_709_251_199_999, "2024-02-29 23:59:59Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(utc(at), text);
        }
    }

    #[test]
    fn what_is_printed_can_be_typed() {
        for at in [0, 951_782_399_000, 951_782_400_000, 1_709_251_199_000, 4_107_542_400_000] {
            assert_eq!(parse(&utc(at)), Ok(When::At(at)), "{}", utc(at));
        }
        assert_eq!(parse("2000-02-29"), Ok(When::At(951_782_400_000)));
        assert_eq!(parse("2000-02-29T00:01"), Ok(When::At(951_782_460_000)));
        assert_eq!(parse("2h").unwrap().at(7_200_001), 1);
        assert_eq!(parse("30d").unwrap().at(1), 0, "before all times");
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_would_be() {
        for text in ["2026-02-29", "2026-13-01", "2026-00-10", "2026-01-00", "1969-12-31"] {
            let e = parse(text).unwrap_err();
            assert!(e.contains("2026-11-21"), "{text}: {e}");
        }
        for text in ["2026-01-01 24:00:00Z", "2026-1-1-1", "20261-01-01", "2026-01-01Tx", "-"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let e = parse("2 hours").unwrap_err();
        assert!(e.contains("2h?") && e.contains("date"), "{e}");
    }

    #[test]
    fn rough_times_are_short() {
        for (ms, text) in [(0, "0s"), (59_999, "59s"), (60_000, "1m"), (86_399_999, "23h")] {
            assert_eq!(rough(ms), text);
        }
        assert_eq!(rough(10 * 86_400_000), "10d");
    }

    #[test]
    fn no_time_is_too_large() {
        assert!(utc(u64::MAX).ends_with('Z'));
    }
}
