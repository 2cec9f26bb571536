//! Quantities as people write them: `40ms`, `5%`, `10mbit`, `64kB`.

use std::time::Duration;

use crate::dice::Chance;

/// Longest time that a scenario can speak of: a day, as [`crate::simnet::LIMIT`].
const MAX_NANOS: f64 = 86_400e9;

/// A number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let end = text.find(|c| !digits(c)).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok().filter(|n: &f64| n.is_finite())?, unit.trim()))
}

/// A whole number of something that a unit is `factor` of; None beyond 2^53.
fn scaled(number: f64, factor: f64) -> Option<u64> {
    let whole = (number * factor).round();
    let exact = (0.0..=9_007_199_254_740_992.0).contains(&whole);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
    exact.then_some(whole as u64)
}

/// `40ms`, `1.5s`, `250us`, `2m`, `1h`; `0` needs no unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time with its unit: ns, us, ms, s, m or h, such as \"40ms\"".to_owned();
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        "" if number == 0.0 => 1.0,
        _ => return Err(wrong()),
    };
    let nanos = scaled(number, factor).filter(|_| number * factor <= MAX_NANOS);
    nanos.map(Duration::from_nanos).ok_or_else(|| "the longest time is a day, \"24h\"".to_owned())
}

/// `5%`, `0.5%`.
pub(super) fn share(text: &str) -> Result<Chance, String> {
    let wrong = || "write a share from \"0%\" to \"100%\", such as \"5%\" or \"0.5%\"".to_owned();
    let (number, unit) = split(text).ok_or_else(wrong)?;
    if unit != "%" {
        return Err(wrong());
    }
    Chance::new(number / 100.0).map_err(|_| wrong())
}

/// `10mbit`, `56kbit`, `1gbit`: bits per second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let wrong =
        || "write a rate in bit, kbit, mbit or gbit per second, such as \"10mbit\"".to_owned();
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit.strip_suffix("/s").unwrap_or(unit).to_ascii_lowercase().as_str() {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return Err(wrong()),
    };
    scaled(number, factor).filter(|r| *r > 0).ok_or_else(wrong)
}

/// `1280`, `512B`, `64kB`, `64KiB`, `1MB`: bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || "write bytes, such as \"512\", \"64kB\", \"64KiB\" or \"1MB\"".to_owned();
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        _ => return Err(wrong()),
    };
    scaled(number, factor).ok_or_else(wrong)
}

/// A time for people, the shortest way that says it: `40ms`, `1.5s`, `0s`.
#[must_use]
pub fn say_duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    let of = |unit: u128, name: &str| {
        let (whole, rest) = (nanos / unit, nanos % unit * 1000 / unit);
        let rest = format!("{rest:03}");
        match rest.trim_end_matches('0') {
            "" => format!("{whole}{name}"),
            rest => format!("{whole}.{rest}{name}"),
        }
    };
    match nanos {
        0 => "0s".to_owned(),
        n if n % 3_600_000_000_000 == 0 => of(3_600_000_000_000, "h"),
        n if n % 60_000_000_000 == 0 => of(60_000_000_000, "m"),
        1_000_000_000.. => of(1_000_000_000, "s"),
        1_000_000.. => of(1_000_000, "ms"),
        1000.. => of(1000, "us"),
        _ => format!("{nanos}ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        assert_eq!(duration("40ms"), Ok(Duration::from_millis(40)));
        assert_eq!(duration("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(rate("10mbit"), Ok(10_000_000));
        assert_eq!(rate("1.5 Mbit/s"), Ok(1_500_000));
        assert_eq!(size("1280"), Ok(1280));
        assert_eq!(size("64kB"), Ok(64_000));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(share("5%"), Ok(Chance::new(0.05).unwrap()));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "ms", "40", "-1s", "40 parsecs", "25h", "1e3s", "1.2.3s", "999999999999h"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["5", "101%", "-1%", "%"] {
            assert!(share(text).is_err(), "{text}");
        }
        for text in ["10", "0mbit", "10mb", "99999999999gbit"] {
            assert!(rate(text).is_err(), "{text}");
        }
        for text in ["kB", "1TB", "-1"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_said_as_they_are_written() {
        for text in ["40ms", "1.5s", "250us", "2m", "24h", "0s", "90ms", "7ns"] {
            assert_eq!(say_duration(duration(text).unwrap()), text);
        }
    }
}
