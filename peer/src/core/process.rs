//! Whether a process is the one that it was: numbers are used again, so a process is told by its
//! number and the time of its start (inventory C-011).

use meshwire_signaling::Hash;

/// What the system says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// It has ended, and only its parent has not asked how.
    pub zombie: bool,
    /// When it was started, in a unit of the system's own: good for comparing only.
    pub start: u64,
}

impl Process {
    /// Whether it is still the one that was started at `start`.
    #[must_use]
    pub const fn is(&self, start: u64) -> bool {
        !self.zombie && self.start == start
    }
}

/// Reads `/proc/PID/stat` (proc_pid_stat(5)). Its second field is the program's name in parentheses,
/// which may itself contain spaces and parentheses, so fields are counted from the last one. None
/// if it is not of that form.
#[must_use]
pub fn parse_stat(text: &str) -> Option<Process> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    // Fields 3 (state) and 22 (starttime), counted from 1; `rest` begins with field 3.
    let zombie = matches!(fields.next()?, "Z" | "X" | "x");
    let start = fields.nth(18)?.parse().ok()?;
    Some(Process { zombie, start })
}

/// Reads what `ps -o stat= -o lstart= -p PID` prints, where there is no `/proc`: the state, then the
/// time of the start, to the second, in words. None if there is no such process.
#[must_use]
pub fn parse_ps(text: &str) -> Option<Process> {
    let (state, start) = text.trim().split_once(char::is_whitespace)?;
    let words: Vec<&str> = start.split_ascii_whitespace().collect();
    let hash = Hash::of(words.join(" ").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.0[..8]);
    // Stored as a signed number.
    Some(Process { zombie: state.starts_with('Z'), start: u64::from_be_bytes(first) >> 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "1 4242 4242 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 10 20 30";

    #[test]
    fn a_stat_line_gives_state_and_start() {
        let process = parse_stat(&format!("4242 (sleep) S {TAIL}")).unwrap();
        assert_eq!(process, Process { zombie: false, start: 987_654 });
        assert!(process.is(987_654) && !process.is(987_653));
    }

    #[test]
    fn names_with_spaces_and_parentheses_do_not_shift_the_fields() {
        for name in ["a b", "a) Z 1 2", "(x)", "", ") ) )", "\n"] {
            let process = parse_stat(&format!("1 ({name}) R {TAIL}\n")).unwrap();
            assert_eq!(process, Process { zombie: false, start: 987_654 }, "{name:?}");
        }
    }

    #[test]
    fn the_dead_are_not_running() {
        for state in ["Z", "X", "x"] {
            let process = parse_stat(&format!("1 (gone) {state} {TAIL}")).unwrap();
            assert!(process.zombie && !process.is(987_654));
        }
    }

    #[test]
    fn what_is_no_stat_line_is_none() {
        for bad in ["", "1", "1 (x", "1 (x)", "1 (x) S 1 2 3", "1 (x) S a b c d e f g h i j k l m"]
        {
            assert_eq!(parse_stat(bad), None, "{bad:?}");
        }
        let negative = format!("1 (x) S {TAIL}").replace("987654", "-1");
        assert_eq!(parse_stat(&negative), None);
    }

    #[test]
    fn the_words_of_ps_are_compared_as_a_whole() {
        let a = parse_ps("Ss   Mon Jan  5 10:00:00 2026\n").unwrap();
        assert_eq!(a, parse_ps("S+  Mon Jan 5 10:00:00 2026").unwrap());
        assert_ne!(a.start, parse_ps("Ss Mon Jan  5 10:00:01 2026").unwrap().start);
        assert!(i64::try_from(a.start).is_ok());
        assert!(parse_ps("Z Mon Jan  5 10:00:00 2026").unwrap().zombie);
        assert_eq!(parse_ps(""), None);
        assert_eq!(parse_ps("\n"), None);
    }
}
