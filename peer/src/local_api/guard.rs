//! Who is let in: pure rules over a request's head (inventory C-003, C-004).
//!
//! A web page can make a browser send requests to any port of this machine. Such a request carries
//! `Origin`, or, after DNS rebinding, the page's name as `Host`: both are refused on every listener,
//! and no answer has CORS headers. On TCP a token is asked for as well, in a header: addresses end up
//! in logs and histories.

use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri};

use super::failure::Failure;
use super::token::Token;
use crate::api::ErrorKind;

/// Names of this machine's loopback.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
/// Parts of parameters' names that promise a secret; no verb has such a parameter.
const SECRETS: [&str; 8] =
    ["token", "auth", "bearer", "secret", "passw", "session", "apikey", "api_key"];

/// How somebody got here.
#[derive(Debug)]
pub(super) enum Door {
    /// By the socket, which only the home's owner can open.
    Unix,
    /// By loopback TCP, which everybody on this machine can.
    Tcp {
        /// Its port.
        port: u16,
        /// What to show.
        token: Token,
    },
}

/// Lets a request in, or says why not.
pub(super) fn check(door: &Door, head: &Parts) -> Result<(), Failure> {
    host(door, head)?;
    if head.headers.contains_key(ORIGIN) {
        let text = "requests of web pages are refused: leave the header Origin out";
        return Err(Failure::new(ErrorKind::Denied, "origin_refused", text));
    }
    query(door, &head.uri)?;
    match door {
        Door::Unix => Ok(()),
        Door::Tcp { token, .. } => bearer(token, &head.headers),
    }
}

/// The only value of a header; none if it is there twice, or not text.
pub(super) fn only(headers: &HeaderMap, name: impl Into<HeaderName>) -> Option<&str> {
    let mut values = headers.get_all(name.into()).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

fn host(door: &Door, head: &Parts) -> Result<(), Failure> {
    let fits = |text: &str| {
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (text, None),
        };
        let right_port = match (port, door) {
            (None, _) => true,
            (Some(shown), Door::Tcp { port, .. }) => shown == port.to_string(),
            (Some(_), Door::Unix) => false,
        };
        right_port && LOCAL.iter().any(|local| local.eq_ignore_ascii_case(name))
    };
    // A request line may name a host as well.
    let line = head.uri.authority().is_none_or(|a| fits(a.as_str()));
    if line && only(&head.headers, HOST).is_some_and(fits) {
        return Ok(());
    }
    let text =
        "the header Host is to be localhost, 127.0.0.1 or [::1], with this API's port or none";
    Err(Failure::new(ErrorKind::Denied, "host_refused", text))
}

fn query(door: &Door, uri: &Uri) -> Result<(), Failure> {
    let query = uri.query().unwrap_or_default();
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query)
        .map_err(|_| Failure::invalid("malformed", "the query is to be NAME=VALUE&NAME=VALUE"))?;
    let secret = |(name, value): &(String, String)| {
        let name = name.to_ascii_lowercase();
        let shown = matches!(door, Door::Tcp { token, .. } if token.is(value.as_bytes()));
        shown || SECRETS.iter().any(|s| name.contains(s))
    };
    if pairs.iter().any(secret) {
        let text = "no secret belongs into an address: send Authorization: Bearer TOKEN, or \
                    Meshwire-Session: TOKEN";
        return Err(Failure::invalid("token_in_url", text));
    }
    Ok(())
}

fn bearer(token: &Token, headers: &HeaderMap) -> Result<(), Failure> {
    let shown = only(headers, AUTHORIZATION).and_then(|value| value.split_once(' '));
    let right = shown.is_some_and(|(scheme, shown)| {
        scheme.eq_ignore_ascii_case("bearer") && token.is(shown.trim().as_bytes())
    });
    if right {
        return Ok(());
    }
    let text = "send Authorization: Bearer TOKEN, with what the file api.token in this node's home \
                holds";
    let failure = Failure::new(ErrorKind::Auth, "bad_token", text);
    Err(failure.with_status(StatusCode::UNAUTHORIZED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;
    use axum::http::Request;
    use axum::response::IntoResponse as _;
    use meshwire_transport::net::OsNet;

    struct World {
        tcp: Door,
        secret: String,
        _dir: tempfile::TempDir,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(&dir.path().join("home")).unwrap();
        let token = Token::of(&home, &OsNet, false).unwrap();
        let secret = std::fs::read_to_string(home.api_token()).unwrap().trim().to_owned();
        World { tcp: Door::Tcp { port: 7901, token }, secret, _dir: dir }
    }

    fn ask(door: &Door, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let request = headers.iter().fold(Request::get(uri), |r, (k, v)| r.header(*k, *v));
        let (head, ()) = request.body(()).unwrap().into_parts();
        check(door, &head).map_or_else(|f| f.into_response().status().as_u16(), |()| 200)
    }

    #[test]
    fn only_names_of_this_machine_are_hosts() {
        let World { tcp, secret, .. } = world();
        let bearer = format!("Bearer {secret}");
        let tcp =
            |host: &str| ask(&tcp, "/v1/status", &[("host", host), ("authorization", &bearer)]);
        let good = ["localhost", "LocalHost:7901", "127.0.0.1", "127.0.0.1:7901", "[::1]:7901"];
        for host in good.into_iter().chain(["[::1]"]) {
            assert_eq!(tcp(host), 200, "{host}");
        }
        let bad = ["", "evil.example", "localhost.evil.example", "localhost:80", "127.0.0.1:07901"];
        for host in bad.into_iter().chain(["127.0.0.2", "0.0.0.0", "::1", "localhost:", "[::1"]) {
            assert_eq!(tcp(host), 403, "{host}");
        }
        let unix = |headers: &[(&str, &str)]| ask(&Door::Unix, "/v1/status", headers);
        assert_eq!(unix(&[("host", "localhost")]), 200);
        assert_eq!(unix(&[]), 403, "none");
        assert_eq!(unix(&[("host", "localhost"), ("host", "localhost")]), 403, "two");
        assert_eq!(unix(&[("host", "localhost:7901")]), 403, "a socket has no port");
        assert_eq!(unix(&[("host", "evil.example")]), 403);
        let line = "http://evil.example/v1/status";
        assert_eq!(ask(&Door::Unix, line, &[("host", "localhost")]), 403, "the request line's");
    }

    #[test]
    fn web_pages_are_refused_whoever_they_say_they_are() {
        let World { tcp, secret, .. } = world();
        let bearer = format!("Bearer {secret}");
        for origin in ["https://evil.example", "null", "http://localhost:7901", ""] {
            let headers =
                [("host", "localhost"), ("authorization", bearer.as_str()), ("origin", origin)];
            assert_eq!(ask(&tcp, "/v1/status", &headers), 403, "{origin}");
            assert_eq!(ask(&Door::Unix, "/v1/status", &headers), 403, "{origin}");
        }
    }

    #[test]
    fn tcp_asks_for_the_token_in_its_header() {
        let World { tcp, secret, .. } = world();
        let ask = |value: &str| {
            ask(&tcp, "/v1/health", &[("host", "localhost"), ("authorization", value)])
        };
        assert_eq!(ask(&format!("Bearer {secret}")), 200);
        assert_eq!(ask(&format!("bearer {secret}")), 200, "schemes have no case");
        let wrong = "A".repeat(43);
        for value in ["", "Bearer", "Bearer ", &secret, &format!("Basic {secret}"), &wrong] {
            assert_eq!(ask(value), 401, "{value}");
        }
        assert_eq!(ask(&format!("Bearer {}", &secret[..42])), 401);
        assert_eq!(ask(&format!("Bearer {secret}A")), 401);
        assert_eq!(ask(&format!("Bearer {wrong}")), 401);
    }

    #[test]
    fn no_secret_comes_by_address() {
        let World { tcp, secret, .. } = world();
        let bearer = format!("Bearer {secret}");
        let headers = [("host", "localhost"), ("authorization", bearer.as_str())];
        let names = ["token", "access_token", "TOKEN", "%74oken", "Authorization", "session"];
        for name in names {
            assert_eq!(ask(&tcp, &format!("/v1/status?{name}=x"), &headers), 400, "{name}");
            assert_eq!(ask(&tcp, &format!("/v1/status?a=b&{name}"), &headers), 400, "{name}");
            assert_eq!(ask(&Door::Unix, &format!("/v1/status?{name}=x"), &headers), 400, "{name}");
        }
        assert_eq!(ask(&tcp, &format!("/v1/status?t={secret}"), &headers), 400, "by any name");
        assert_eq!(ask(&tcp, "/v1/inbox?mesh=home&unread=true&limit=5", &headers), 200);
    }
}
