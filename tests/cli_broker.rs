//! The broker as a process: what it prints, how it starts and ends, TLS.

mod common;

use common::{Broker, Home, Running, meshwire};
use tempfile::TempDir;

/// A broker that talks to people; its first lines, up to the one that says what is next.
fn said(data: &TempDir, args: &[&str]) -> (Vec<String>, Running) {
    let mut command = meshwire();
    command.args(["broker", "--listen", "127.0.0.1:0", "--data"]).arg(data.path().join("b"));
    command.args(args);
    let running = Running::start(command, None);
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|l: &String| l.starts_with("Next: ")) {
        lines.push(running.line());
    }
    (lines, running)
}

#[test]
fn the_admin_token_stands_alone_and_comes_once() {
    let data = TempDir::new().unwrap();
    let token = |lines: &[String]| {
        let at = lines.iter().position(|l| l.starts_with("mwadmin1."))?;
        assert!(lines[at - 1].contains("admin token"), "{lines:?}");
        assert!(!lines[at].contains(' '), "{lines:?}");
        Some(lines[at].clone())
    };
    let (lines, running) = said(&data, &[]);
    let first = token(&lines).expect("the first start prints it");
    for word in ["listens on", "reached at", "key", "data"] {
        assert!(lines.iter().any(|l| l.starts_with(word)), "{word}: {lines:?}");
    }
    assert_eq!(running.terminate(), 0);
    let (lines, running) = said(&data, &[]);
    assert_eq!(token(&lines), None);
    assert_eq!(running.interrupt(), 0);
    let (lines, _running) = said(&data, &["--new-admin-token"]);
    let second = token(&lines).expect("asked for");
    assert_ne!(first, second);
}

#[test]
fn an_old_admin_token_is_refused() {
    let mut broker = Broker::start(&[]);
    let old = broker.token.clone();
    broker.kill();
    let args = ["broker", "--json", "--listen", "127.0.0.1:0", "--new-admin-token", "--data"];
    let mut command = meshwire();
    command.args(args).arg(&broker.data);
    let renewed = Running::start(command, None);
    let ready = renewed.json_line();
    let home = Home::new();
    let create = |token: &str| {
        let url = ready["url"].as_str().unwrap();
        home.run(&["mesh", "create", "home", "--broker", url, "--admin-token", token])
    };
    let refused = create(&old);
    assert_eq!((refused.status, refused.json["error"]["kind"].as_str()), (2, Some("auth")));
    assert!(!refused.stderr.contains(&old));
    assert_eq!(create(ready["admin_token"].as_str().unwrap()).status, 0);
}

#[test]
fn beyond_loopback_it_speaks_pinned_tls() {
    let data = TempDir::new().unwrap();
    let mut command = meshwire();
    let args = ["broker", "--json", "--listen", "0.0.0.0:0", "--database", "memory", "--data"];
    command.args(args).arg(data.path().join("b"));
    let running = Running::start(command, None);
    let ready = running.json_line();
    assert_eq!(ready["pin"].as_str().map(str::len), Some(64), "{ready}");
    let shown = ready["url"].as_str().unwrap();
    assert!(shown.starts_with("https://") && !shown.contains("0.0.0.0"), "{shown}");
    let port = ready["addr"].as_str().unwrap().rsplit(':').next().unwrap();
    let url = format!("https://127.0.0.1:{port}");
    let (ana, bob) = (Home::new(), Home::new());
    let token = ready["admin_token"].as_str().unwrap();
    ana.ok(&["mesh", "create", "home", "--broker", &url, "--admin-token", token, "--name", "ana"]);
    bob.join(&ana.invite(&[]), "bob");
    bob.up();
    ana.deliver("bob", "through TLS");
    assert_eq!(bob.texts(), ["through TLS"]);
    let plain = ana.run(&["invite"]);
    assert!(plain.stderr.contains("--broker-url"), "{}", plain.stderr);
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let broker = Broker::start(&[]);
    let data = TempDir::new().unwrap();
    let home = Home::new();
    let folder = data.path().join("b");
    let folder = folder.to_str().unwrap();
    let said = home.run(&["broker", "--listen", &broker.addr, "--data", folder]);
    assert_eq!((said.status, said.error_code()), (4, "listen"));
    assert!(said.stderr.contains(&broker.addr));
}

#[test]
fn its_data_is_in_the_home_unless_said_otherwise() {
    let home = Home::new();
    let running = home.start(&["broker", "--listen", "127.0.0.1:0"]);
    running.json_line();
    assert!(home.path().join("broker/broker.db").exists());
    assert_eq!(running.terminate(), 0);
}

/// A broker's first JSON line, started with `args` on a free port of every interface's address.
fn listening(data: &TempDir, args: &[&str]) -> (serde_json::Value, Running) {
    let mut command = meshwire();
    command
        .args(["broker", "--json", "--listen", "0.0.0.0:0", "--data"])
        .arg(data.path().join("b"));
    command.args(args);
    let running = Running::start(command, None);
    (running.json_line(), running)
}

#[test]
fn behind_a_proxy_the_broker_speaks_plainly() {
    let data = TempDir::new().unwrap();
    let args = ["--behind-proxy", "--public-url", "https://broker.example"];
    let (ready, running) = listening(&data, &args);
    assert_eq!(ready["url"], "https://broker.example");
    assert!(ready["pin"].is_null());
    let port = ready["addr"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let home = Home::new();
    let url = format!("http://127.0.0.1:{port}");
    let token = ready["admin_token"].as_str().unwrap();
    home.ok(&["mesh", "create", "lab", "--broker", &url, "--admin-token", token]);
    assert_eq!(running.terminate(), 0);
}

#[test]
fn an_operators_certificate_is_used_and_not_pinned() {
    let data = TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(["broker.example".to_owned()]).unwrap();
    let (cert, key) = (data.path().join("chain.pem"), data.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let (ready, running) = listening(&data, &["--cert", cert, "--key", key]);
    assert!(ready["url"].as_str().unwrap().starts_with("https://"));
    assert!(ready["pin"].is_null());
    // Nobody vouches for it here, and nothing is said to who cannot prove who it is.
    let home = Home::new();
    let port = ready["addr"].as_str().unwrap().rsplit(':').next().unwrap();
    let url = format!("https://127.0.0.1:{port}");
    let token = ready["admin_token"].as_str().unwrap();
    let refused = home.run(&["mesh", "create", "lab", "--broker", &url, "--admin-token", token]);
    assert_eq!((refused.status, refused.error_code()), (7, "tls"));
    assert_eq!(running.terminate(), 0);
}

#[test]
fn a_public_url_that_does_not_fit_is_refused() {
    let data = TempDir::new().unwrap();
    let refused = |args: &[&str]| {
        let mut command = meshwire();
        command.args(["broker", "--data"]).arg(data.path().join("b")).args(args);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for args in [
        ["--listen", "0.0.0.0:0", "--public-url", "http://broker.example"],
        ["--listen", "127.0.0.1:0", "--public-url", "https://broker.example"],
    ] {
        let (code, text) = refused(&args);
        assert_eq!(code, Some(3), "{text}");
        assert!(text.contains("does not fit") && text.contains("--behind-proxy"), "{text}");
    }
}
