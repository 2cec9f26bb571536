//! When a certificate is valid: the two times of RFC 5280 section 4.1.2.5, read from its DER.
//!
//! Nothing else of a certificate is read here; rustls has no public way to those two.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Not before and not after, Unix seconds. None: it is no X.509 certificate.
pub(super) fn validity(der: &[u8]) -> Option<(u64, u64)> {
    let (certificate, _) = tagged(der, SEQUENCE)?;
    let (tbs, _) = tagged(certificate, SEQUENCE)?;
    let rest = tagged(tbs, VERSION).map_or(tbs, |(_, rest)| rest);
    let (_serial, rest) = tagged(rest, INTEGER)?;
    let (_algorithm, rest) = tagged(rest, SEQUENCE)?;
    let (_issuer, rest) = tagged(rest, SEQUENCE)?;
    let (validity, _) = tagged(rest, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some((from, until))
}

/// The content of the first element, if it has this tag, and what comes after it.
fn tagged(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(der)?;
    (found == tag).then_some((content, rest))
}

/// The first element's tag, its content, and what comes after it (X.690 section 8.1; low tags only).
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        // Four bytes are 4 GiB.
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        (bytes.iter().fold(0, |n, b| (n << 8) | usize::from(*b)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A time in Unix seconds (0 before 1970), and what comes after it.
fn time(der: &[u8]) -> Option<(u64, &[u8])> {
    let (tag, content, rest) = element(der)?;
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, text) = match tag {
        UTC_TIME => {
            let (year, text) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2_000 + year } else { 1_900 + year }, text)
        }
        GENERALIZED_TIME => {
            let (year, text) = text.split_at_checked(4)?;
            (year.parse().ok()?, text)
        }
        _ => return None,
    };
    if text.len() != 10 {
        return None;
    }
    let part = |at: usize| text.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some((u64::try_from(seconds).unwrap_or(0), rest))
}

/// Days since 1970-01-01 in the Gregorian calendar: years begin in March here, so that the leap day
/// is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn days_count_from_1970() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 2, 29) + 1, days(2000, 3, 1));
        assert_eq!(days(2026, 11, 21), 20_778);
        assert_eq!(days(2100, 3, 1) - days(2100, 2, 28), 1);
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let utc = b"\x17\x0d700101000001Z";
        assert_eq!(time(utc), Some((1, &[][..])));
        let general = b"\x18\x0f20380119031408Zrest";
        assert_eq!(time(general), Some((1 << 31, &b"rest"[..])));
        let broken: [&[u8]; 4] =
            [b"\x17\x0d701301000001Z", b"\x17\x0c700101000001", b"\x16\x0d700101000001Z", b""];
        for broken in broken {
            assert_eq!(time(broken), None, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes: Vec<u8>, cut: usize, at: usize, with: u8) {
            let _ = validity(&bytes);
            let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
            let mut der = made.cert.der().to_vec();
            let at = at % der.len().min(200);
            der[at] = with;
            der.truncate(cut % (der.len() + 1));
            let _ = validity(&der);
        }
    }
}
