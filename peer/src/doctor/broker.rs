//! A mesh's broker, seen from here: reached, with the right keys, in time, and through whatever
//! stands in between.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, CONNECTION, HOST, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::response::Parts;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use meshwire_signaling::codec::{self, Encoding};
use meshwire_signaling::frame::http::BrokerInfo;
use meshwire_transport::dial::{CONNECT_TIMEOUT, dial, tls_for};
use meshwire_transport::net::{BoxStream, Net};
use meshwire_transport::tls::{self, TlsError};
use meshwire_transport::url::BaseUrl;
use tokio::time::timeout;

use super::{Check, judge};
use crate::store::MeshRow;

/// Longest wait for an answer on an open connection.
const ANSWER: Duration = Duration::from_secs(10);
/// Most bytes of an answer; a broker's description has under 1 KiB.
const MAX_ANSWER: usize = 64 * 1024;
/// The sample key of RFC 6455 section 1.3 and what a server must make of it. A fresh key would keep
/// caches from answering, which nothing caches a 101 for.
const WS_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WS_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Looks at a mesh's broker. A check that fails ends it where the next ones need what failed.
pub(super) async fn examine(net: &dyn Net, mesh: &MeshRow) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Err(failed) = look(net, mesh, &mut checks).await {
        checks.push(failed);
    }
    checks
}

async fn look(net: &dyn Net, mesh: &MeshRow, checks: &mut Vec<Check>) -> Result<(), Check> {
    let base: BaseUrl = mesh
        .broker_url
        .parse()
        .map_err(|e| Check::fail("reach", format!("{e}"), "join again with a new invite"))?;
    let (stream, reached) = reach(net, &base).await?;
    checks.push(reached);
    let (stream, secured) = secure(mesh, &base, stream).await?;
    checks.push(secured);
    describe(net, mesh, &base, stream, checks).await?;
    checks.push(websocket(net, mesh, &base).await?);
    Ok(())
}

async fn reach(net: &dyn Net, base: &BaseUrl) -> Result<(BoxStream, Check), Check> {
    let to = base.authority();
    let fail = |why: String| {
        let advice = "see that the broker runs there, that its name resolves, and that no firewall \
                      is in between";
        Check::fail("reach", format!("cannot connect to {to}: {why}"), advice)
    };
    let from = net.now();
    let Ok(stream) = timeout(CONNECT_TIMEOUT, net.tcp_connect(&base.host, base.port)).await else {
        return Err(fail(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())));
    };
    let stream = stream.map_err(|e| fail(e.to_string()))?;
    let took = net.now().saturating_duration_since(from).as_millis();
    Ok((stream, Check::ok("reach", format!("connected to {base} in {took} ms"))))
}

async fn secure(
    mesh: &MeshRow,
    base: &BaseUrl,
    stream: BoxStream,
) -> Result<(BoxStream, Check), Check> {
    let config = tls_for(base, mesh.pin).map_err(|e| untrusted(&e))?;
    let Some(config) = config else {
        let found = "none, as the address says; messages are encrypted all the same, who writes to \
                     whom is not";
        return Ok((stream, Check::ok("tls", found)));
    };
    let Ok(wrapped) = timeout(CONNECT_TIMEOUT, tls::wrap(stream, config, &base.host)).await else {
        let found = format!("no TLS handshake within {} s", CONNECT_TIMEOUT.as_secs());
        return Err(Check::fail("tls", found, "see whether something else listens on that port"));
    };
    let (stream, _) = wrapped.map_err(|e| untrusted(&e))?;
    let found = match mesh.pin {
        Some(pin) => format!("the broker has the pinned key {}", pin.short()),
        None => "this system trusts the broker's certificate".to_owned(),
    };
    Ok((stream, Check::ok("tls", found)))
}

fn untrusted(e: &TlsError) -> Check {
    let advice = match e {
        TlsError::PinMismatch(_) => {
            "ask whoever runs the broker whether its TLS key has changed: if so, they should put \
             the old tls files back; if not, somebody is in between"
        }
        TlsError::Roots(_) => "install the system's root certificates (package ca-certificates)",
        TlsError::PinWithoutTls => "join again with an invite whose address starts with https://",
        _ => {
            "see that the certificate is for this host and still valid, and that this machine's \
              clock is right"
        }
    };
    Check::fail("tls", e.to_string(), advice)
}

/// Asks the broker who it is: its key, version, clock, and how long that takes.
async fn describe(
    net: &dyn Net,
    mesh: &MeshRow,
    base: &BaseUrl,
    stream: BoxStream,
    checks: &mut Vec<Check>,
) -> Result<(), Check> {
    let fail = |why: &str| {
        let advice = "see what listens at that address, and whether a proxy in front changes paths";
        Check::fail("broker", format!("no meshwire broker answers at {base}: {why}"), advice)
    };
    let request = get(base, "/v2/broker", &[(ACCEPT, "application/json")]).map_err(|e| fail(&e))?;
    let (asked, from) = (net.unix_ms(), net.now());
    let (parts, bytes) = exchange(stream, request).await.map_err(|e| fail(&e))?;
    let took = net.now().saturating_duration_since(from);
    if !parts.status.is_success() {
        return Err(fail(&format!("HTTP status {}", parts.status)));
    }
    let info: BrokerInfo =
        codec::decode(Encoding::Json, &bytes).map_err(|e| fail(&e.to_string()))?;
    let (got, want) = (info.broker.short(), mesh.broker_key.short());
    checks.push(if info.broker == mesh.broker_key {
        Check::ok("broker", format!("it has this mesh's broker key {want}"))
    } else {
        let advice = "the broker was set up anew, or another one has its address: ask whoever runs \
                      it to restore its data folder";
        Check::fail("broker", format!("the key there is {got}, this mesh's is {want}"), advice)
    });
    checks.push(judge::broker_version(&info.agent, env!("CARGO_PKG_VERSION")));
    checks.push(judge::clock(info.at, asked, took));
    checks.push(judge::round_trip(took));
    Ok(())
}

/// Whether a WebSocket can be opened: proxies that pass HTTP need not pass that.
async fn websocket(net: &dyn Net, mesh: &MeshRow, base: &BaseUrl) -> Result<Check, Check> {
    let fail = |why: &str| {
        let advice = "a proxy in front must pass Upgrade and Connection on for /v2/ws";
        Check::fail("websocket", why, advice)
    };
    let headers = [
        (CONNECTION, "Upgrade"),
        (UPGRADE, "websocket"),
        (SEC_WEBSOCKET_VERSION, "13"),
        (SEC_WEBSOCKET_KEY, WS_KEY),
        (SEC_WEBSOCKET_PROTOCOL, Encoding::MsgPack.subprotocol()),
    ];
    let request = get(base, "/v2/ws", &headers).map_err(|e| fail(&e))?;
    let config = tls_for(base, mesh.pin).map_err(|e| untrusted(&e))?;
    let dialed = dial(net, base, config).await.map_err(|e| fail(&e.to_string()))?;
    let (parts, _) = exchange(dialed.stream, request).await.map_err(|e| fail(&e))?;
    let header = |name: HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok());
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        let found = format!("/v2/ws answered HTTP {} instead of opening one", parts.status);
        return Ok(fail(&found));
    }
    if header(SEC_WEBSOCKET_ACCEPT) != Some(WS_ACCEPT) {
        return Ok(fail("whoever answers at /v2/ws does not speak WebSocket (RFC 6455)"));
    }
    if header(SEC_WEBSOCKET_PROTOCOL) != Some(Encoding::MsgPack.subprotocol()) {
        return Ok(fail("/v2/ws opens without meshwire's subprotocol"));
    }
    Ok(Check::ok("websocket", "/v2/ws opens"))
}

fn get(
    base: &BaseUrl,
    path: &str,
    headers: &[(HeaderName, &'static str)],
) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(base.target(path)).header(HOST, base.authority());
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request.body(Empty::new()).map_err(|e| e.to_string())
}

/// Asks once; the answer's head, and its body where it has one.
async fn exchange(
    stream: BoxStream,
    request: Request<Empty<Bytes>>,
) -> Result<(Parts, Bytes), String> {
    let asked = async move {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let call = async move {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let (parts, body) = response.into_parts();
            if parts.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok((parts, Bytes::new()));
            }
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            Ok((parts, body.map_err(|e| e.to_string())?.to_bytes()))
        };
        // The connection does the I/O; it may end before the call has seen its answer.
        match select(pin!(call), pin!(connection)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((_, call)) => call.await,
        }
    };
    match timeout(ANSWER, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use meshwire_signaling::invite::{Chain, Genesis, Role};
    use meshwire_signaling::sign::{Signed, domains};
    use meshwire_signaling::{Hash, MeshId, SecretKey};
    use meshwire_transport::net::Listener;
    use std::io;
    use std::net::SocketAddr;
    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;

    /// Connects to a broker that says nothing, or, without one, never connects.
    #[derive(Debug)]
    struct Silent(Option<mpsc::UnboundedSender<DuplexStream>>);

    #[async_trait::async_trait]
    impl Net for Silent {
        fn unix_ms(&self) -> u64 {
            0
        }
        fn fill(&self, buf: &mut [u8]) {
            buf.fill(0);
        }
        async fn tcp_connect(&self, _: &str, _: u16) -> io::Result<BoxStream> {
            let Some(far_ends) = &self.0 else { return std::future::pending().await };
            let (near, far) = tokio::io::duplex(4_096);
            far_ends.send(far).map_err(io::Error::other)?;
            Ok(Box::new(near))
        }
        async fn tcp_bind(&self, _: SocketAddr) -> io::Result<Box<dyn Listener>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn mesh(broker_url: &str, pin: Option<Hash>) -> MeshRow {
        let key = SecretKey::from_seed(&[1; 32]);
        let genesis = Genesis {
            name: "lab".into(),
            owner: key.public(),
            owner_name: "ana".into(),
            broker: key.public(),
            created_at: 0,
            nonce: Hash([1; 32]),
        };
        MeshRow {
            mesh: MeshId([1; 32]),
            name: "lab".into(),
            broker_url: broker_url.into(),
            broker_key: key.public(),
            pin,
            chain: Chain::owner(Signed::new(&key, domains::GENESIS, &genesis)),
            self_key: key.public(),
            self_name: "ana".into(),
            role: Role::Owner,
            joined_at: 0,
        }
    }

    async fn last(net: Silent, mesh: &MeshRow) -> (&'static str, String) {
        let check = examine(&net, mesh).await.pop().unwrap();
        assert_eq!(check.result, Verdict::Fail);
        (check.name, check.found)
    }

    #[tokio::test(start_paused = true)]
    async fn brokers_that_say_nothing_are_given_up() {
        let (far_ends, _kept) = mpsc::unbounded_channel();
        let (plain, pinned) = ("http://broker.test", "https://broker.test");
        let (name, found) = last(Silent(None), &mesh(plain, None)).await;
        assert!(name == "reach" && found.contains("no answer within 10 s"), "{name}: {found}");
        let silent = || Silent(Some(far_ends.clone()));
        let (name, found) = last(silent(), &mesh(plain, None)).await;
        assert!(name == "broker" && found.contains("no answer within 10 s"), "{name}: {found}");
        let (name, found) = last(silent(), &mesh(pinned, Some(Hash([1; 32])))).await;
        assert!(name == "tls" && found.contains("within 10 s"), "{name}: {found}");
    }

    #[tokio::test]
    async fn a_pin_is_not_dropped_and_bad_addresses_are_named() {
        let (far_ends, _kept) = mpsc::unbounded_channel();
        let row = mesh("http://broker.test", Some(Hash([1; 32])));
        let (name, found) = last(Silent(Some(far_ends)), &row).await;
        assert!(name == "tls" && found.contains("http://"), "{name}: {found}");
        let (name, found) = last(Silent(None), &mesh("broker", None)).await;
        assert!(name == "reach" && found.contains("broker address"), "{name}: {found}");
    }
}
