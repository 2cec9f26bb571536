//! Sizes as people type them: `1GiB`, `64MiB`, `100MB`, `4096`.

/// Units with their bytes.
const UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];
/// The most that one run moves in a round: more takes minutes, and says nothing else.
const MOST: u64 = 64 << 30;

/// Reads a whole number with a unit.
///
/// # Errors
/// What is wrong, what would be valid, and the nearest valid thing.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let valid = "write a whole number and B, KB, MB, GB, KiB, MiB or GiB, such as 256MiB or 1GiB";
    let Ok(count) = number.parse::<u64>() else { return Err(valid.to_owned()) };
    let Some((_, size)) = UNITS.iter().find(|(u, _)| *u == unit) else {
        let known = |u: &str| {
            u.eq_ignore_ascii_case(unit) || u.get(..1).is_some_and(|u| u.eq_ignore_ascii_case(unit))
        };
        // Whoever writes 1G means 1GiB.
        let near = UNITS.iter().rev().find(|(u, _)| known(u));
        let tip = near.map(|(u, _)| format!("; did you mean {count}{u}?")).unwrap_or_default();
        return Err(format!("{valid}{tip}"));
    };
    match count.checked_mul(*size) {
        Some(0) => Err("nothing takes no time: write a size such as 256MiB".to_owned()),
        Some(bytes) if bytes <= MOST => Ok(bytes),
        _ => Err("that is more than 64GiB: write a smaller size, such as 1GiB".to_owned()),
    }
}

/// For people.
pub(super) fn words(bytes: u64) -> String {
    let units = UNITS.iter().rev().filter(|(u, size)| *size > 1 && u.ends_with("iB"));
    let exact = units.clone().find(|(_, size)| bytes.is_multiple_of(*size));
    exact.map_or_else(|| format!("{bytes} B"), |(u, size)| format!("{} {u}", bytes / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_sizes() {
        for (text, bytes) in [("1GiB", 1 << 30), ("100 MB", 100_000_000), ("4096", 4_096)] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        assert_eq!([words(1 << 30), words(1_000 << 20)], ["1 GiB", "1000 MiB"]);
        assert_eq!(words(1_001), "1001 B");
    }

    #[test]
    fn mistakes_are_told_what_would_be_right() {
        for (text, tip) in [
            ("1g", "did you mean 1GiB?"),
            ("64mib", "did you mean 64MiB?"),
            ("many", "such as 256MiB"),
            ("3 apples", "such as 256MiB"),
            ("0", "256MiB"),
            ("65GiB", "1GiB"),
            ("99999999999999999999", "whole number"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(tip), "{text}: {said}");
        }
    }
}
