//! STUN and TURN as the programs run them: the broker's for its members alone, and `meshwire turn`. The
//! clients are coturn's (Debian's package `coturn`): without them those tests say so and pass, or fail
//! where `MESHWIRE_REQUIRE_LAB` is 1.

// clippy.toml allows it in tests, not in their helpers; who skips says so.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;
mod proto;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Broker, Home, Pair, Running, meshwire, pair, until};
use meshwire::OsNet;
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::http::CreateMesh;
use meshwire_signaling::frame::{Features, TurnServer, TurnServers, feature};
use meshwire_signaling::invite::{Genesis, mesh_id};
use meshwire_signaling::sign::{Signed, domains};
use meshwire_signaling::{Hash, InstanceId};
use meshwire_transport::http as calls;
use meshwire_transport::net::{Net as _, random};
use meshwire_transport::relay::{CounterError, HelloCounter, RelayConfig};
use proto::{new_key, now, relay, within};

struct Counter(InstanceId, AtomicU64);

#[async_trait::async_trait]
impl HelloCounter for Counter {
    async fn next(&self) -> Result<(InstanceId, u64), CounterError> {
        Ok((self.0, self.1.fetch_add(1, Ordering::Relaxed)))
    }
    async fn renew(&self) -> Result<(), CounterError> {
        panic!("no broker has seen this counter before");
    }
}

/// What a broker tells a member's node of STUN and TURN: the owner of a new mesh.
async fn offered(broker: &Broker) -> TurnServers {
    let key = new_key();
    let base = broker.url.parse().unwrap();
    let genesis = Genesis {
        name: "home".into(),
        owner: key.public(),
        owner_name: "ana".into(),
        broker: broker.key.parse().unwrap(),
        created_at: now(),
        nonce: Hash(random(&OsNet)),
    };
    let genesis = Signed::new(&key, domains::GENESIS, &genesis);
    let mesh = mesh_id(&genesis);
    let token = broker.token.parse().unwrap();
    calls::create_mesh(&OsNet, &base, &token, &CreateMesh { genesis }).await.unwrap();
    let (link, _events) = relay(RelayConfig {
        base,
        pin: None,
        mesh,
        broker: broker.key.parse().unwrap(),
        identity: key,
        encoding: Encoding::MsgPack,
        features: Features::new(),
        requires: vec![feature::DEDUPE.into(), feature::RECEIPTS.into()],
        agent: "test/1".into(),
        counter: Arc::new(Counter(InstanceId(random(&OsNet)), AtomicU64::new(1))),
    });
    // The link is up in a moment.
    let asked = async {
        loop {
            if let Ok(servers) = link.turn_credentials().await {
                return servers;
            }
            tokio::task::yield_now().await;
        }
    };
    within("an answer", asked).await
}

/// Host and port of an offered address.
fn place<'a>(server: &'a TurnServer, transport: &str) -> (&'a str, &'a str) {
    let found = server.addresses.iter().find_map(|a| a.strip_prefix(transport));
    found.unwrap_or_else(|| panic!("{transport} {server:?}")).rsplit_once(':').unwrap()
}

/// Whether coturn's client is there. Panics where it must be.
fn has_client() -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&paths).any(|p| p.join("turnutils_uclient").exists()) {
        return true;
    }
    let message = "turnutils_uclient is not here: install Debian's package coturn";
    assert!(std::env::var_os("MESHWIRE_REQUIRE_LAB").is_none_or(|v| v != "1"), "{message}");
    eprintln!("skipped: {message}");
    false
}

/// Sends 5 messages each way between two allocations; what coturn's client says of that.
fn exchange((host, port): (&str, &str), user: (&str, &str), more: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["60", "turnutils_uclient", "-y", "-c", "-n", "5", "-m", "2", "-l", "400"]);
    command.args(["-z", "5", "-p", port, "-u", user.0, "-w", user.1]).args(more).arg(host);
    let output = command.stdin(Stdio::null()).current_dir("/").output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn assert_arrived(said: &str) {
    assert!(said.contains("tot_send_msgs=10, tot_recv_msgs=10"), "{said}");
}

fn assert_refused(said: &str) {
    assert!(said.contains("Cannot complete Allocation"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_alone_allocate_over_udp_and_tcp() {
    let broker = Broker::start(&[]);
    let (ana, bob) = (offered(&broker).await, offered(&broker).await);
    // Two ports of one host: a node can tell how its NAT behaves.
    let [first, second] = &ana.stun[..] else { panic!("{ana:?}") };
    assert!(first.starts_with("127.0.0.1:") && second.starts_with("127.0.0.1:"), "{ana:?}");
    assert_ne!(first, second);
    let ([ana], [bob]) = (&ana.servers[..], &bob.servers[..]) else { panic!("one server each") };
    assert_ne!(ana.username, bob.username);
    assert!(ana.expires_at > now() + 3_600_000);
    if !has_client() {
        return;
    }
    for (transport, more) in [("udp:", &[][..]), ("tcp:", &["-t"])] {
        let at = place(ana, transport);
        assert_arrived(&exchange(at, (&ana.username, &ana.password), more));
        assert_refused(&exchange(at, (&ana.username, &bob.password), more));
        // Expired; the password is of another name, so it is wrong as well.
        let (_, rest) = ana.username.split_once(':').unwrap();
        assert_refused(&exchange(at, (&format!("1:{rest}"), &ana.password), more));
    }
    assert!(broker.metric("turn_allocated_total") >= 4);
    let member = r#"{to="peer",member="member",transport="tcp"}"#;
    assert!(broker.metric(&format!("turn_relayed_datagrams_total{member}")) >= 10);
    assert!(broker.metric(r#"turn_refused_total{cause="wrong-credential"}"#) > 0);
    assert!(broker.metric(r#"turn_refused_total{cause="expired-credential"}"#) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_off_and_where_it_was_told_to_be() {
    let broker = Broker::start(&["--turn", "off"]);
    let none = offered(&broker).await;
    assert!(none.servers.is_empty() && none.stun.is_empty(), "{none:?}");

    let taken = OsNet.udp_bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let home = Home::new();
    let said = home.run(&["broker", "--listen", "127.0.0.1:0", "--turn", &at]);
    assert_eq!((said.status, said.error_code()), (4, "listen"), "{}", said.stderr);
    assert!(said.stderr.contains("TURN") && said.stderr.contains(&at), "{}", said.stderr);
    let checked = home.run(&["broker", "--check", "--listen", "127.0.0.1:0", "--turn", &at]);
    assert_eq!((checked.status, checked.error_code()), (1, "check_failed"), "{}", checked.stderr);
    assert!(checked.stderr.contains("failed: turn"), "{}", checked.stderr);
    drop(taken);
    let checked = home.ok(&["broker", "--check", "--listen", "127.0.0.1:0", "--turn", &at]);
    let turn = checked["checks"].as_array().unwrap().iter().find(|c| c["name"] == "turn").unwrap();
    assert!(turn["found"].as_str().unwrap().contains(&at), "{turn}");
    let broker = Broker::start(&["--turn", &at]);
    let args = ["broker", "--check", "--listen", &broker.addr, "--turn", &at, "--data"];
    home.ok(&[&args[..], &[broker.data.to_str().unwrap()]].concat());
    let servers = offered(&broker).await.servers;
    assert_eq!(servers[0].addresses, [format!("udp:{at}"), format!("tcp:{at}")]);
}

#[test]
fn nodes_that_hide_their_addresses_meet_at_the_brokers_turn() {
    let Pair { ana, bob, broker } = pair();
    let hidden = [("MESHWIRE_PATHS", "hide-addresses")];
    let (_ana, _bob) = (ana.node_with_env(&hidden), bob.node_with_env(&hidden));
    ana.deliver("bob", "by the relay, most likely");
    let direct = until("a path over TURN", || {
        let report = ana.ok(&["path", "bob"]);
        (report["via"] == "direct").then(|| report["direct"].clone())
    });
    assert_eq!(direct["reach"], "relayed", "{direct}");
    ana.deliver("bob", "over TURN");
    assert_eq!(bob.texts(), ["by the relay, most likely", "over TURN"]);
    let member = r#"{to="client",member="member",transport="udp"}"#;
    assert!(broker.metric(&format!("turn_relayed_bytes_total{member}")) > 0);
}

#[test]
fn a_broker_says_where_its_turn_is() {
    let home = Home::new();
    for (args, is) in
        [(&[][..], "TURN        udp:127.0.0.1:"), (&["--turn", "off"], "TURN        off")]
    {
        let mut command = home.command(&["broker", "--listen", "127.0.0.1:0"]);
        command.args(args);
        let running = Running::start(command, None);
        let line = loop {
            let line = running.line();
            if line.starts_with("TURN") {
                break line;
            }
        };
        assert!(line.starts_with(is), "{line}");
        assert_eq!(running.terminate(), 0);
    }
    let wrong = home.run(&["broker", "--turn", "maybe"]);
    assert_eq!((wrong.status, wrong.error_code()), (3, "usage"));
    assert!(wrong.stderr.contains("neither off nor an address"), "{}", wrong.stderr);
}

/// `meshwire turn` on loopback, and the first line that it says.
fn alone(args: &[&str]) -> (Running, serde_json::Value) {
    let mut command = meshwire();
    command.args(["turn", "--json", "--listen", "127.0.0.1:0"]).args(args);
    let running = Running::start(command, None);
    let said = running.json_line();
    assert_eq!(said["event"], "listening", "{said}");
    (running, said)
}

/// Host and port that a running server named.
fn at<'a>(said: &'a serde_json::Value, transport: &str) -> (&'a str, &'a str) {
    said[transport][0].as_str().unwrap().rsplit_once(':').unwrap()
}

#[test]
fn alone_it_shows_credentials_or_takes_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = proto::Certificate::make(folder.path(), "turn");
    let meshwire::Tls::Files { cert, key } = certificate.tls() else { panic!("files") };
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let tls = ["--tls", "127.0.0.1:0", "--cert", cert, "--key", key];
    let (running, said) = alone(&tls);
    assert_eq!((&said["realm"], &said["relay"][0]), (&"meshwire".into(), &"127.0.0.1".into()));
    assert!(said["behaviour"].is_string(), "{said}");
    if has_client() {
        let trial = &said["trial"];
        let user = (trial["username"].as_str().unwrap(), trial["password"].as_str().unwrap());
        for (transport, more) in [("udp", &[][..]), ("tcp", &["-t"]), ("tls", &["-t", "-S"])] {
            assert_arrived(&exchange(at(&said, transport), user, more));
        }
        assert_refused(&exchange(at(&said, "udp"), (user.0, "wrong"), &[]));
    }
    assert_eq!(running.terminate(), 0);

    let file = folder.path().join("secret");
    std::fs::write(&file, "correct horse battery staple\n").unwrap();
    let file = file.to_str().unwrap();
    let (running, said) = alone(&["--secret-file", file]);
    assert!(said["trial"].is_null(), "{said}");
    if has_client() {
        // coturn's client makes the credentials by itself (-W), as every TURN REST issuer does.
        let rest = ["-W", "correct horse battery staple"];
        assert_arrived(&exchange(at(&said, "udp"), ("alice", ""), &rest));
        assert_refused(&exchange(at(&said, "udp"), ("alice", ""), &["-W", "correct horse"]));
    }
    assert_eq!(running.interrupt(), 0);

    std::fs::write(file, "short\n").unwrap();
    let refused = Home::new().run(&["turn", "--listen", "127.0.0.1:0", "--secret-file", file]);
    assert_eq!((refused.status, refused.error_code()), (3, "secret"), "{}", refused.stderr);
}
