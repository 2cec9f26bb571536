//! A broker's base address: `http(s)://host[:port][/prefix]`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Longest address accepted; a host name has at most 253 characters (RFC 1035 section 2.3.4).
const MAX_URL: usize = 1_024;
/// Longest host name.
const MAX_HOST: usize = 253;

/// Where a broker is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// Whether to speak TLS.
    pub tls: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// TCP port; 443 or 80 where the text names none.
    pub port: u16,
    /// What stands in front of every path: empty, or `/…` without a slash at its end.
    pub prefix: String,
}

/// Why a text is no broker address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no broker address ({1}): it looks like https://broker.example or http://127.0.0.1:7900", excerpt(.text), .why)]
pub struct UrlError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

fn excerpt(s: &str) -> String {
    s.chars().take(80).collect()
}

impl BaseUrl {
    /// Host and port as HTTP's `Host` header wants them (RFC 9110 section 7.2): brackets around
    /// IPv6, no default port.
    #[must_use]
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == default_port(self.tls) { host } else { format!("{host}:{}", self.port) }
    }

    /// Whether it is this machine: a loopback address, or the name `localhost` (RFC 6761 section 6.3).
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        address
            .map_or(self.host.eq_ignore_ascii_case("localhost"), |a| a.to_canonical().is_loopback())
    }

    /// The request target of `path`, which starts with a slash.
    #[must_use]
    pub fn target(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

impl FromStr for BaseUrl {
    type Err = UrlError;

    fn from_str(s: &str) -> Result<Self, UrlError> {
        let s = s.trim();
        parse(s).map_err(|why| UrlError { text: excerpt(s), why })
    }
}

fn parse(s: &str) -> Result<BaseUrl, &'static str> {
    if s.len() > MAX_URL {
        return Err("it is too long");
    }
    let (tls, rest) = match s.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some(_) => return Err("only https:// and http:// are known"),
        None => return Err("https:// or http:// is missing in front"),
    };
    let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let prefix = prefix.trim_end_matches('/');
    // RFC 3986 section 3.3, without the characters that some proxies rewrite.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~%/".contains(&b);
    if !prefix.bytes().all(plain) {
        return Err("its path holds more than letters, digits and - . _ ~ % /");
    }
    let (host, port) = split_port(authority)?;
    let port = match port {
        None => default_port(tls),
        // `u16::from_str` would let a sign through.
        Some(p) if p.bytes().all(|b| b.is_ascii_digit()) => p.parse().unwrap_or(0),
        Some(_) => 0,
    };
    if port == 0 {
        return Err("its port is no number from 1 to 65535");
    }
    Ok(BaseUrl { tls, host, port, prefix: prefix.to_owned() })
}

fn split_port(authority: &str) -> Result<(String, Option<&str>), &'static str> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("a ] is missing behind the IPv6 address")?;
        let address: Ipv6Addr =
            host.parse().map_err(|_| "what stands in [ ] is no IPv6 address")?;
        return match port.strip_prefix(':') {
            None if port.is_empty() => Ok((address.to_string(), None)),
            Some(port) => Ok((address.to_string(), Some(port))),
            None => Err("behind the ] there is neither : nor /"),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    if port.is_some_and(|p| p.contains(':')) {
        return Err("an IPv6 address needs [ ] around it");
    }
    let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if host.len() > MAX_HOST || !host.bytes().all(name) {
        return Err("its host holds more than letters, digits and - . _");
    }
    Ok((host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(s: &str) -> BaseUrl {
        s.parse().unwrap()
    }

    #[test]
    fn defaults_prefixes_and_ipv6_are_understood() {
        let u = url("https://Broker.Example");
        assert_eq!(
            (u.tls, u.host.as_str(), u.port, u.prefix.as_str()),
            (true, "broker.example", 443, "")
        );
        let u = url(" http://127.0.0.1:7900/mesh/wire// ");
        assert_eq!((u.tls, u.port, u.target("/v2/ws").as_str()), (false, 7900, "/mesh/wire/v2/ws"));
        let u = url("https://[2001:db8::1]:8443/");
        assert_eq!(
            (u.host.as_str(), u.authority().as_str()),
            ("2001:db8::1", "[2001:db8::1]:8443")
        );
        assert_eq!(url("http://[::1]").authority(), "[::1]");
        assert_eq!(url("http://h:443").authority(), "h:443");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (bad, why) in [
            ("broker.example:7900", "missing in front"),
            ("ftp://x", "only https://"),
            ("https://", "host is missing"),
            ("https://:80", "host is missing"),
            ("https://h:0", "port"),
            ("https://h:+1", "port"),
            ("https://h:65536", "port"),
            ("https://h:", "port"),
            ("https://::1", "host is missing"),
            ("https://2001:db8::1", "needs [ ]"),
            ("https://[::1", "] is missing"),
            ("https://[zz]", "no IPv6"),
            ("https://[::1]x", "neither"),
            ("https://user@h", "host holds"),
            ("https://h?x=1", "host holds"),
            ("https://h/a?x=1", "path holds"),
            ("https://h/#frag", "path holds"),
            ("https://h/a\r\nX: y", "path holds"),
        ] {
            let e = bad.parse::<BaseUrl>().unwrap_err().to_string();
            assert!(e.contains(why), "{bad}: {e}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_itself(s in "(https?://)?[a-z0-9.:\\[\\]/%@-]{0,30}") {
            if let Ok(u) = s.parse::<BaseUrl>() {
                prop_assert_eq!(u.to_string().parse::<BaseUrl>(), Ok(u));
            }
        }
    }
}
