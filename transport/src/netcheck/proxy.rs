//! What the environment says of HTTP proxies.

use serde::Serialize;

/// The variables that programs look at, by convention.
pub const PROXY_VARIABLES: [&str; 8] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// A variable that is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProxyVar {
    /// Its name.
    pub name: &'static str,
    /// Its value, without what may be a password.
    pub value: String,
}

/// The variables that are set and not empty, as `look` gives them.
pub fn proxies(look: impl Fn(&str) -> Option<String>) -> Vec<ProxyVar> {
    let set = PROXY_VARIABLES.into_iter().filter_map(|name| {
        let value = look(name).filter(|v| !v.trim().is_empty())?;
        Some(ProxyVar { name, value: without_password(value.trim()) })
    });
    set.collect()
}

/// `http://user:secret@proxy:8080` → `http://…@proxy:8080`.
fn without_password(value: &str) -> String {
    let (scheme, rest) = value.split_once("://").map_or(("", value), |(s, r)| (s, r));
    let slashes = if scheme.is_empty() { "" } else { "://" };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{slashes}…@{host}"),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_shown_without_passwords() {
        let rows = [
            ("http://proxy:8080", "http://proxy:8080"),
            ("http://ana:pa@ss@proxy:8080", "http://…@proxy:8080"),
            ("ana:secret@proxy", "…@proxy"),
            (" proxy ", "proxy"),
        ];
        for (value, shown) in rows {
            let found = proxies(|name| (name == "https_proxy").then(|| value.to_owned()));
            let expected = ProxyVar { name: "https_proxy", value: shown.to_owned() };
            assert_eq!(found, [expected]);
        }
        assert_eq!(proxies(|_| Some(" ".to_owned())), []);
    }
}
