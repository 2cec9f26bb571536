//! From what was measured to a verdict: pure, so that each threshold can be tested.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use super::Check;

/// Clocks further apart than this are worth setting: brokers refuse hellos soon after.
pub const SKEW_WARN: Duration = Duration::from_secs(10);
/// Clocks further apart than this break invites, expiry and hellos.
pub const SKEW_FAIL: Duration = Duration::from_secs(60);
/// Slower brokers make verbs that wait feel broken.
pub const RTT_WARN: Duration = Duration::from_secs(1);
/// Less free space than this, in bytes, fills up within days on a busy node.
pub const DISK_WARN: u64 = 1 << 30;
/// With less free space than this, in bytes, SQLite's log alone may not fit.
pub const DISK_FAIL: u64 = 50 << 20;

/// Judges the broker's clock. `at` is its time, `asked` ours when the question left (both Unix
/// milliseconds), `round_trip` how long the answer took. The broker read its clock somewhere in
/// between, so half the round trip is how wrong the measurement may be, and counts for neither.
#[must_use]
pub fn clock(at: u64, asked: u64, round_trip: Duration) -> Check {
    let half = u64::try_from(round_trip.as_millis() / 2).unwrap_or(u64::MAX);
    let ours = asked.saturating_add(half);
    let apart = at.abs_diff(ours);
    let way = if at >= ours { "ahead of" } else { "behind" };
    let found = format!("the broker's clock is {} {way} this machine's, ±{half} ms", span(apart));
    let certain = Duration::from_millis(apart.saturating_sub(half));
    let advice = "let this machine's clock be set by NTP; if it is right, tell whoever runs the \
                  broker that theirs is not";
    if certain > SKEW_FAIL {
        Check::fail("clock", found, advice)
    } else if certain > SKEW_WARN {
        Check::warn("clock", found, advice)
    } else {
        Check::ok("clock", found)
    }
}

fn span(ms: u64) -> String {
    if ms < 10_000 { format!("{ms} ms") } else { format!("{} s", ms / 1_000) }
}

/// Judges the time that a question to the broker takes.
#[must_use]
pub fn round_trip(took: Duration) -> Check {
    let found = format!("{} ms", took.as_millis());
    if took > RTT_WARN {
        let advice = "the network is slow, or the broker busy: look at its load";
        Check::warn("round_trip", found, advice)
    } else {
        Check::ok("round_trip", found)
    }
}

/// Judges the free space, in bytes, where the home lies.
#[must_use]
pub fn disk(free: u64) -> Check {
    let found = if free < 10 << 30 {
        format!("{} MiB free", free >> 20)
    } else {
        format!("{} GiB free", free >> 30)
    };
    let advice = "make room, or move the home to another disk: a full disk stops the outbox";
    if free < DISK_FAIL {
        Check::fail("disk", found, advice)
    } else if free < DISK_WARN {
        Check::warn("disk", found, advice)
    } else {
        Check::ok("disk", found)
    }
}

/// Judges a broker's program and version, as it calls itself, beside ours. Versions that differ in
/// more than the last number may lack each other's features.
#[must_use]
pub fn broker_version(agent: &str, ours: &str) -> Check {
    let found = format!("{} (this is {ours})", plain(agent));
    let Some(theirs) = agent.strip_prefix("meshwire-broker/") else {
        // Another program may speak the protocol as well.
        return Check::ok("version", found);
    };
    if minor(theirs) == minor(ours) {
        Check::ok("version", found)
    } else {
        Check::warn("version", found, "if something does not work, update the older of the two")
    }
}

fn minor(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(minor, _)| minor)
}

/// Judges the version of the home's background node beside ours.
#[must_use]
pub fn node_version(pid: u32, theirs: &str, ours: &str) -> Check {
    let found = format!("up in the background (process {pid}), version {}", plain(theirs));
    if theirs == ours {
        Check::ok("node", found)
    } else {
        let advice = "start the node anew: meshwire down && meshwire up";
        Check::warn("node", format!("{found}, where this is {ours}"), advice)
    }
}

/// Judges what the environment says. `home` is MESHWIRE_HOME, `used` the home that is examined,
/// `session` whether MESHWIRE_SESSION is set; its value is nobody's business.
#[must_use]
pub fn environment(home: Option<&OsStr>, used: &Path, session: bool) -> Vec<Check> {
    let name = "env_home";
    let home = match home.map(Path::new) {
        None => Check::ok(name, format!("MESHWIRE_HOME is not set; using {}", used.display())),
        Some(path) if path != used => {
            let path = path.display();
            Check::ok(name, format!("MESHWIRE_HOME is {path}; --home says {}", used.display()))
        }
        Some(path) if path.is_relative() => {
            let found = format!("MESHWIRE_HOME is {}, which is relative", path.display());
            let advice = "set it to a path that starts with /, or each folder you stand in has a \
                          home of its own";
            Check::warn(name, found, advice)
        }
        Some(path) => Check::ok(name, format!("MESHWIRE_HOME is {}", path.display())),
    };
    let session = if session {
        "MESHWIRE_SESSION is set: verbs here speak as a session, not as the member"
    } else {
        "MESHWIRE_SESSION is not set: verbs here speak as the member"
    };
    vec![home, Check::ok("env_session", session)]
}

/// Other people's words on one line, without what a terminal obeys, and not many of them.
pub(super) fn plain(text: &str) -> String {
    /// Enough for a name and a version.
    const MAX: usize = 80;
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{self, Fail, Ok, Warn};
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn clock_off(by: i64, round_trip_ms: u64) -> Verdict {
        clock(NOW.saturating_add_signed(by), NOW, Duration::from_millis(round_trip_ms)).result
    }

    #[test]
    fn clocks_are_judged_beyond_half_the_round_trip() {
        for sign in [1, -1] {
            assert_eq!(clock_off(0, 0), Ok);
            assert_eq!(clock_off(sign * 10_000, 0), Ok);
            assert_eq!(clock_off(sign * 10_001, 0), Warn);
            assert_eq!(clock_off(sign * 60_000, 0), Warn);
            assert_eq!(clock_off(sign * 60_001, 0), Fail);
        }
        // The answer took four seconds: the middle is two later, and two are uncertain.
        assert_eq!(clock_off(14_000, 4_000), Ok);
        assert_eq!(clock_off(14_001, 4_000), Warn);
        assert_eq!(clock_off(-10_000, 4_000), Ok);
        assert_eq!(clock_off(-10_001, 4_000), Warn);
        assert!(clock(NOW + 75_000, NOW, Duration::ZERO).found.contains("75 s ahead of"));
    }

    #[test]
    fn clocks_at_the_ends_of_time_do_not_overflow() {
        assert_eq!(clock(u64::MAX, 0, Duration::ZERO).result, Fail);
        assert_eq!(clock(0, u64::MAX, Duration::MAX).result, Ok, "nothing is certain then");
        assert_eq!(clock(0, u64::MAX, Duration::ZERO).result, Fail);
    }

    #[test]
    fn disks_have_two_marks() {
        assert_eq!(disk(DISK_FAIL - 1).result, Fail);
        assert_eq!(disk(DISK_FAIL).result, Warn);
        assert_eq!(disk(DISK_WARN - 1).result, Warn);
        assert_eq!(disk(DISK_WARN).result, Ok);
        assert_eq!(disk(u64::MAX).found, "17179869183 GiB free");
    }

    #[test]
    fn versions_may_differ_in_the_last_number_at_a_broker_and_in_none_at_home() {
        assert_eq!(broker_version("meshwire-broker/0.1.0", "0.1.7").result, Ok);
        assert_eq!(broker_version("meshwire-broker/0.2.0", "0.1.7").result, Warn);
        assert_eq!(broker_version("other/9", "0.1.7").result, Ok);
        let hostile = broker_version(&"\x1b]0;x".repeat(1_000), "0.1.7");
        assert!(hostile.found.len() < 200 && !hostile.found.contains('\x1b'));
        assert_eq!(node_version(7, "0.1.7", "0.1.7").result, Ok);
        assert_eq!(node_version(7, "0.1.6", "0.1.7").result, Warn);
    }

    #[test]
    fn slow_brokers_are_worth_a_word() {
        assert_eq!(round_trip(RTT_WARN).result, Ok);
        assert_eq!(round_trip(RTT_WARN + Duration::from_millis(1)).result, Warn);
    }

    #[test]
    fn the_environment_says_which_home_and_whose_words() {
        let of = |home: Option<&str>, used: &str| {
            environment(home.map(OsStr::new), used.as_ref(), true)[0].clone()
        };
        assert_eq!(of(None, "/h").found, "MESHWIRE_HOME is not set; using /h");
        assert_eq!(of(Some("/h"), "/h").found, "MESHWIRE_HOME is /h");
        assert!(of(Some("/a"), "/h").found.ends_with("--home says /h"));
        assert_eq!(of(Some("h"), "h").result, Warn);
        assert!(environment(None, "/h".as_ref(), true)[1].found.contains("is set"));
    }
}
