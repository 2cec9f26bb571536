//! Durations as people type them: `90s`, `30m`, `12h`, `7d`.

use std::time::Duration;

/// Units with their seconds and the words that people use for them.
const UNITS: [(&str, u64, [&str; 5]); 5] = [
    ("s", 1, ["s", "sec", "secs", "second", "seconds"]),
    ("m", 60, ["m", "min", "mins", "minute", "minutes"]),
    ("h", 3_600, ["h", "hr", "hrs", "hour", "hours"]),
    ("d", 86_400, ["d", "day", "days", "dy", "dys"]),
    ("w", 604_800, ["w", "wk", "wks", "week", "weeks"]),
];
/// Words less alike than this are no suggestion (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.8;
/// Longest text looked at.
const MAX_TEXT: usize = 32;

/// Reads a whole number with a unit: `s`, `m`, `h`, `d` or `w`.
///
/// # Errors
/// What is wrong, what would be valid, and the nearest valid thing.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let given: String = text.trim().chars().take(MAX_TEXT).collect();
    let digits = given.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = given.split_at(digits);
    let fail = |nearest: Option<String>| {
        let tip = nearest.map(|n| format!("; did you mean {n}?")).unwrap_or_default();
        Err(format!("write a whole number and s, m, h, d or w, such as 90s, 30m, 12h or 7d{tip}"))
    };
    let Ok(count) = number.parse::<u64>() else { return fail(None) };
    if count == 0 {
        return Err("a duration is longer than nothing, such as 90s, 30m, 12h or 7d".to_owned());
    }
    match UNITS.iter().find(|(u, ..)| *u == unit) {
        Some((_, seconds, _)) => count
            .checked_mul(*seconds)
            .filter(|s| *s <= u64::from(u32::MAX))
            .map(Duration::from_secs)
            .ok_or_else(|| "that is over a hundred years: write a shorter duration".to_owned()),
        None => fail(nearest(unit).map(|u| format!("{count}{u}"))),
    }
}

fn nearest(unit: &str) -> Option<&'static str> {
    let word = unit.trim().to_lowercase();
    if word.is_empty() {
        return Some("s");
    }
    let likeness =
        |words: &[&str]| words.iter().map(|w| strsim::jaro_winkler(w, &word)).fold(0.0, f64::max);
    let best = UNITS.iter().map(|(u, _, words)| (*u, likeness(words)));
    best.filter(|(_, l)| *l >= ALIKE).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(u, _)| u)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_durations() {
        for (text, seconds) in
            [("90s", 90), ("30m", 1_800), ("12h", 43_200), ("7d", 604_800), (" 1w ", 604_800)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_nearest_duration() {
        for (text, tip) in [
            ("7 days", "7d?"),
            ("30", "30s?"),
            ("12 Hours", "12h?"),
            ("5mnutes", "5m?"),
            ("2weks", "2w?"),
        ] {
            let e = parse(text).unwrap_err();
            assert!(e.contains(tip) && e.contains("30m"), "{text}: {e}");
        }
        for text in ["", "d", "-5m", "1.5h", "5xyzzy", "0s", "99999999999999999999s", "9999999w"] {
            let e = parse(text).unwrap_err();
            assert!(!e.contains("did you mean"), "{text}: {e}");
        }
    }
}
