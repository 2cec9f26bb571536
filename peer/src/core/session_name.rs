//! What a session may be called: what a member may, without the `/` that stands between the two in
//! `member/name`.

use meshwire_signaling::id::check_name;
use meshwire_signaling::limits::MAX_NAME;

/// Checks the name of a session that is to be started.
///
/// # Errors
/// For people: what is wrong with it and what would be valid.
pub fn check_session_name(name: &str) -> Result<(), String> {
    check_name(name).map_err(|e| {
        format!(
            "{e}; a session's name has 1 to {MAX_NAME} characters without / and control \
             characters, such as builder"
        )
    })?;
    if name.contains('/') {
        return Err(format!(
            "a session's name holds no /, which stands between a member and its session: try {:?}",
            name.replace('/', "-")
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_typed_as_part_of_an_address_are_refused() {
        for good in ["agent", "a", "agent 2", "agent.py", "münchen", &"x".repeat(64)] {
            assert_eq!(check_session_name(good), Ok(()), "{good}");
        }
        let refused = |name: &str| check_session_name(name).unwrap_err();
        assert!(refused("bob/agent").contains("try \"bob-agent\""), "{}", refused("bob/agent"));
        for bad in ["a\nb", "a\u{7}", "a\u{202e}b", "", " a", "@a", "deadbeef", &"x".repeat(65)] {
            let text = refused(bad);
            assert!(text.contains("1 to 64 characters") && text.len() < 300, "{text}");
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
}
