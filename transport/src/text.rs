//! Other people's words, before they get into an error message, a log or a terminal.

/// Longest text that is passed on, in characters.
const MAX_TEXT: usize = 300;

/// The text without control characters (a terminal would obey them), cut to [`MAX_TEXT`].
pub(crate) fn clean(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_told_what_to_do_and_logs_do_not_drown() {
        assert_eq!(clean("a\x1b[2Jb\r\nc"), "a [2Jb  c");
        assert_eq!(clean(&"é".repeat(100_000)).chars().count(), MAX_TEXT);
    }
}
