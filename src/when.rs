//! Times for people: UTC, to the second.

use meshwire_signaling::UnixMillis;

const DAY: u64 = 86_400;

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
    fn no_time_is_too_large() {
        assert!(utc(u64::MAX).ends_with('Z'));
    }
}
