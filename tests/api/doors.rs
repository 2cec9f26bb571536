//! Who is let in, on the socket and on TCP (inventory C-003, C-004).

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::http::{Api, free_port, up_with_http};
use crate::common::{Home, pair};

#[test]
fn tcp_wants_its_token_its_name_and_no_web_page() {
    let home = Home::new();
    let (node, api) = up_with_http(&home, &[], &[]);
    let Api::Tcp { port, token } = &api else { unreachable!() };
    let mode = |name: &str| home.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("api.token"), mode("api.url")), (0o600, 0o600));
    assert_eq!(token.len(), 43, "32 bytes as base64url");
    let bearer = format!("Bearer {token}");
    let ask = |method: &str, uri: &str, headers: &[(&str, &str)]| {
        let answer = api.raw(method, uri, headers, b"");
        let head = answer.head.to_ascii_lowercase();
        assert!(!head.contains("access-control"), "no CORS, ever: {head}");
        assert!(!answer.body.contains(token.as_str()) && !head.contains(&token.to_lowercase()));
        answer.code()
    };
    let is = |status: u16, code: &str| (status, code.to_owned());
    let local = ("Host", "localhost");
    let auth = ("Authorization", bearer.as_str());

    assert_eq!(ask("GET", "/v1/health", &[local, auth]).0, 200);
    // Without the token nothing is told, not even that the node is well or what there is.
    for uri in ["/v1/health", "/v1/status", "/v1/nothing", "/v1/openapi.json"] {
        assert_eq!(ask("GET", uri, &[local]), is(401, "bad_token"), "{uri}");
    }
    let wrong = format!("Bearer {}", "A".repeat(43));
    assert_eq!(ask("GET", "/v1/health", &[local, ("Authorization", &wrong)]), is(401, "bad_token"));
    assert_eq!(ask("GET", "/v1/health", &[local, auth, auth]), is(401, "bad_token"), "twice");

    let by_url = format!("/v1/health?token={token}");
    assert_eq!(ask("GET", &by_url, &[local, auth]), is(400, "token_in_url"));
    assert_eq!(ask("GET", &by_url, &[local]), is(400, "token_in_url"));

    for host in ["evil.example", "127.0.0.1.evil.example", "localhost:1"] {
        let refused = ask("GET", "/v1/health", &[("Host", host), auth]);
        assert_eq!(refused, is(403, "host_refused"), "{host}");
    }
    let with_port = format!("127.0.0.1:{port}");
    assert_eq!(ask("GET", "/v1/health", &[("Host", &with_port), auth]).0, 200);
    assert_eq!(ask("GET", "/v1/health", &[auth]), is(403, "host_refused"), "none");

    for origin in ["https://evil.example", "null", "http://localhost"] {
        let headers = [local, auth, ("Origin", origin)];
        assert_eq!(ask("GET", "/v1/health", &headers), is(403, "origin_refused"), "{origin}");
        // A browser's question before the real request.
        assert_eq!(ask("OPTIONS", "/v1/send", &headers), is(403, "origin_refused"));
    }
    assert_eq!(ask("POST", "/v1/status", &[local, auth]), is(405, "bad_method"));
    assert_eq!(ask("OPTIONS", "/v1/status", &[local, auth]), is(405, "bad_method"));
    assert_eq!(ask("GET", "/v1/nothing", &[local, auth]), is(404, "unknown_verb"));
    let form = [local, auth, ("Content-Type", "text/plain")];
    assert_eq!(ask("POST", "/v1/send", &form), is(415, "not_json"), "what a form may send");

    // Only loopback listens.
    let listening = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local_port = format!("0100007F:{port:04X}");
    let everywhere = format!("00000000:{port:04X}");
    assert!(listening.contains(&local_port) && !listening.contains(&everywhere));

    assert_eq!(node.terminate(), 0);
    assert!(!home.path().join("api.url").exists(), "nothing listens there any more");
    assert!(home.path().join("api.token").exists());
}

#[test]
fn the_socket_wants_no_token_and_is_strict_all_the_same() {
    let home = Home::new();
    let _node = home.node();
    let api = Api::unix(&home);
    let ask = |headers: &[(&str, &str)], uri: &str| api.raw("GET", uri, headers, b"").code();
    let is = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(ask(&[("Host", "localhost")], "/v1/health").0, 200);
    assert_eq!(ask(&[("Host", "evil.example")], "/v1/health"), is(403, "host_refused"));
    let page = [("Host", "localhost"), ("Origin", "null")];
    assert_eq!(ask(&page, "/v1/health"), is(403, "origin_refused"));
    assert_eq!(ask(&[("Host", "localhost")], "/v1/health?token=x"), is(400, "token_in_url"));
    assert!(!home.path().join("api.token").exists() && !home.path().join("api.url").exists());
}

#[test]
fn a_token_stays_until_a_new_one_is_asked_for() {
    let home = Home::new();
    let token = || std::fs::read_to_string(home.path().join("api.token")).unwrap();
    let (node, old) = up_with_http(&home, &[], &[]);
    let first = token();
    assert_eq!(node.terminate(), 0);
    let (node, _) = up_with_http(&home, &[], &[]);
    assert_eq!(token(), first, "it outlives the node");
    assert_eq!(node.terminate(), 0);
    let (_node, new) = up_with_http(&home, &["--new-http-token"], &[]);
    assert_ne!(token(), first);
    let (Api::Tcp { token, .. }, Api::Tcp { port, .. }) = (old, &new) else { unreachable!() };
    assert_eq!(new.get("/v1/health").status, 200);
    assert_eq!(Api::Tcp { port: *port, token }.get("/v1/health").status, 401, "the old one");
}

#[test]
fn a_background_node_serves_where_it_was_told_to() {
    let home = Home::new();
    // Somebody else may take the port that was free a moment ago.
    let up = (0..10).map(|_| home.run(&["up", "--http", &free_port().to_string()]));
    let up = up.into_iter().find(|up| up.status == 0).expect("some port stays free").json;
    let port = up["http"].as_str().unwrap().strip_prefix("http://127.0.0.1:").unwrap();
    let url = std::fs::read_to_string(home.path().join("api.url")).unwrap();
    assert_eq!(url.trim(), up["http"]);
    let again = home.ok(&["up", "--http", port]);
    assert_eq!((&again["already_running"], &again["http"]), (&json!(true), &up["http"]));
    for other in [&["up", "--http", "65535"][..], &["up", "--http", port, "--new-http-token"]] {
        let other = home.run(other);
        assert_eq!(
            (other.status, other.json["error"]["code"].as_str()),
            (1, Some("already_running"))
        );
    }
    home.down();
    assert_eq!(home.ok(&["up"])["http"], json!(null), "only where it is asked for");
    let without = home.run(&["up", "--http", port]);
    assert_eq!(
        (without.status, without.json["error"]["code"].as_str()),
        (1, Some("already_running"))
    );
}

#[test]
fn a_container_needs_an_explicit_port() {
    let home = Home::new();
    let mut command = home.command(&["--json", "up", "--foreground", "--http"]);
    command.env("CONTAINER", "1");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("http_port") && said.contains("--http PORT"), "{said}");
    let mut command = home.command(&["--json", "up", "--foreground"]);
    command.env("CONTAINER", "1").env("MESHWIRE_HTTP", "0");
    assert_eq!(command.output().unwrap().status.code(), Some(3), "by its environment, too");
}

#[test]
fn tokens_are_in_no_log_and_no_output() {
    let pair = pair();
    let (node, api) = up_with_http(&pair.ana, &["-v", "-v"], &[("RUST_LOG", "trace")]);
    let Api::Tcp { token, .. } = &api else { unreachable!() };
    // What works, what is refused, what is malformed; each with the token somewhere.
    let bearer = format!("Bearer {token}");
    let host = ("Host", "localhost");
    let mut said = String::new();
    let mut note = |answer: super::http::Answer| {
        said.push_str(&answer.head);
        said.push_str(&answer.body);
    };
    note(api.get("/v1/status"));
    note(api.post("/v1/send", &json!({"to": "bob", "message": "hi"})));
    note(api.get(&format!("/v1/status?token={token}")));
    note(api.get(&format!("/v1/status?x={token}")));
    note(api.get(&format!("/v1/{token}")));
    note(api.raw("GET", "/v1/status", &[host, ("Authorization", &format!("{bearer}x"))], b""));
    note(api.raw("GET", "/v1/status", &[host, ("Meshwire-Session", token)], b""));
    let headers = [host, ("Authorization", bearer.as_str()), ("Meshwire-Session", token.as_str())];
    note(api.raw("GET", "/v1/status", &headers, b""));
    note(api.post_with("/v1/send", &[("Idempotency-Key", "")], &json!({"to": token})));
    for verb in ["status", "peers", "outbox", "doctor"] {
        let output = pair.ana.run(&["-v", "-v", verb]);
        said.push_str(&output.stdout);
        said.push_str(&output.stderr);
    }
    assert_eq!(node.terminate(), 0);
    said.push_str(&std::fs::read_to_string(pair.ana.node_log()).unwrap());
    assert!(said.contains("DEBUG"), "the log says everything that there is to say");
    assert!(!said.contains(token.as_str()), "the token is written somewhere");
}
