//! This node's name, where nobody gave one: user@host.

use meshwire_signaling::id::check_name;
use meshwire_signaling::limits::MAX_NAME;

/// The name of this user on this machine.
pub(crate) fn default_name() -> String {
    let var = |name| std::env::var(name).ok();
    let user = var("USER").or_else(|| var("LOGNAME"));
    let host = std::fs::read_to_string("/etc/hostname").ok().filter(|h| !h.trim().is_empty());
    let host = host.or_else(|| var("HOSTNAME"));
    from_parts(user.as_deref(), host.as_deref())
}

/// `user@host`, or what there is of it, as a valid name; `node` if nothing is left.
fn from_parts(user: Option<&str>, host: Option<&str>) -> String {
    let user = plain(user.unwrap_or_default());
    // The rest of a host's full name says nothing to people and is long.
    let host = plain(host.unwrap_or_default().trim().split('.').next().unwrap_or_default());
    let name = match (user.is_empty(), host.is_empty()) {
        (false, false) => format!("{user}@{host}"),
        (false, true) => user,
        (true, _) => host,
    };
    let name: String = name.chars().take(MAX_NAME).collect();
    match check_name(&name) {
        Ok(()) => name,
        // Eight or more hex digits alone, as containers are called.
        Err(_) if !name.is_empty() => {
            let name: String = name.chars().take(MAX_NAME - 5).collect();
            format!("node-{name}")
        }
        Err(_) => "node".to_owned(),
    }
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+')).collect()
}

/// A name as clap's value parser: what is wrong with it is said at once.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_names_are_user_at_host() {
        for (user, host, name) in [
            (Some("ana"), Some("laptop.local\n"), "ana@laptop"),
            (Some("ana"), None, "ana"),
            (None, Some("laptop"), "laptop"),
            (None, None, "node"),
            (Some(""), Some("\n"), "node"),
            (None, Some("0123456789ab"), "node-0123456789ab"),
            (Some("@@ana maria"), Some("büro 1"), "anamaria@büro1"),
            (Some("a\u{202e}b\u{7}"), Some("h\u{200b}"), "ab@h"),
        ] {
            assert_eq!(from_parts(user, host), name);
        }
    }

    #[test]
    fn default_names_are_valid_whatever_the_machine_says() {
        let long = "x".repeat(300);
        let hex = "ab".repeat(100);
        for user in [None, Some(long.as_str()), Some(&hex), Some("#"), Some("\u{0}")] {
            for host in [None, Some(long.as_str()), Some(&hex), Some("..."), Some("@x")] {
                let name = from_parts(user, host);
                assert_eq!(check_name(&name), Ok(()), "{user:?} {host:?}");
            }
        }
    }
}
