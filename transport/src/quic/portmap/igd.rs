//! Asking a router by UPnP, with sockets and clock.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::{timeout, timeout_at};

use super::upnp::{
    Call, GROUP, MAX_FOUND, MAX_TEXT, Place, SEARCH_PORT, Service, error_code, external_address,
    location, searches, services,
};
use super::{LIFETIME, Mapping, NoMapping, Protocol, is_useful};
use crate::net::{Net, jitter};
use crate::quic::interfaces::Router;

/// When the search is sent. Devices spread their answers over a second (MX).
const TRIES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(500)];
const PATIENCE: Duration = Duration::from_millis(2000);
/// Longest time of one call.
const CALL: Duration = Duration::from_secs(3);
/// Outside ports that are tried: ours, then any of the private ones.
const PORTS: usize = 3;
/// The first of the private ports (RFC 6335 section 6), and how many there are.
const PRIVATE: (u16, u64) = (49_152, 16_384);

/// UPnP's words for a port that another machine has.
const CONFLICTS: [u16; 2] = [718, 729];
/// A call that failed for no reason that the router gives.
const NO_REASON: u16 = 501;

/// A port that a router forwards, and where it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) mapping: Mapping,
    service: Service,
}

/// Asks for `internal` until a service of the router grants it: at most two searches, and some
/// ten calls.
pub(super) async fn ask(
    net: &dyn Net,
    router: Router,
    internal: u16,
    last: Option<&Grant>,
) -> Result<Grant, NoMapping> {
    // The port that we have is the one to keep.
    if let Some(Grant { mapping, service }) = last
        && let Ok(grant) = map(net, router, internal, mapping.external.port(), service).await
    {
        return Ok(grant);
    }
    let place = search(net, router).await.ok_or(NoMapping::Silent)?;
    let description = http(net, &place, Method::GET, None).await;
    let (_, description) = description.ok_or(NoMapping::Malformed(Protocol::Upnp))?;
    let mut why = NoMapping::Malformed(Protocol::Upnp);
    for service in services(&description, &place) {
        match map(net, router, internal, internal, &service).await {
            Ok(grant) => return Ok(grant),
            Err(e) => why = e,
        }
    }
    Err(why)
}

/// Gives a port back.
pub(super) async fn release(net: &dyn Net, grant: &Grant) {
    let external = grant.mapping.external.port();
    let _ = call(net, &grant.service, Call::Delete { external }).await;
}

/// The description of the router, which alone is heard.
async fn search(net: &dyn Net, router: Router) -> Option<Place> {
    let socket = net.udp_bind(SocketAddr::new(router.own.into(), 0)).await.ok()?;
    let start = net.now();
    let mut buf = [0; MAX_FOUND];
    for (n, after) in TRIES.iter().enumerate() {
        tokio::time::sleep_until(start + *after).await;
        for search in searches() {
            // Some routers mind only one of both.
            for to in [router.gateway, GROUP] {
                let _ = socket.send_to(&search, SocketAddr::new(to.into(), SEARCH_PORT)).await;
            }
        }
        let until = start + TRIES.get(n + 1).copied().unwrap_or(PATIENCE);
        while let Ok(Ok((length, from))) = timeout_at(until, socket.recv_from(&mut buf)).await {
            let answer = buf.get(..length).unwrap_or_default();
            let place = location(answer, router.gateway);
            if let (true, Some(place)) = (from.ip() == IpAddr::from(router.gateway), place) {
                return Some(place);
            }
        }
    }
    None
}

async fn map(
    net: &dyn Net,
    Router { own, .. }: Router,
    internal: u16,
    wanted: u16,
    service: &Service,
) -> Result<Grant, NoMapping> {
    let answer = call(net, service, Call::ExternalAddress).await?;
    let ip: Ipv4Addr = external_address(&answer).ok_or(NoMapping::Malformed(Protocol::Upnp))?;
    let at = |port| SocketAddr::new(ip.into(), port);
    if !is_useful(at(wanted)) {
        return Err(NoMapping::Useless(at(wanted)));
    }
    let mut external = wanted;
    for _ in 0..PORTS {
        let add = Call::Add { external, own, internal, seconds: LIFETIME.as_secs() };
        match call(net, service, add).await {
            Ok(_) => {
                let until = net.now() + LIFETIME;
                let mapping = Mapping { external: at(external), protocol: Protocol::Upnp, until };
                return Ok(Grant { mapping, service: service.clone() });
            }
            Err(NoMapping::Refused { code, .. }) if CONFLICTS.contains(&code) => {
                let any = u16::try_from(jitter(net, PRIVATE.1)).unwrap_or_default();
                external = PRIVATE.0.saturating_add(any);
            }
            Err(e) => return Err(e),
        }
    }
    Err(NoMapping::Refused { protocol: Protocol::Upnp, code: CONFLICTS[0] })
}

/// Calls a service; the answer's text.
async fn call(net: &dyn Net, service: &Service, call: Call) -> Result<String, NoMapping> {
    let answer = http(net, &service.place, Method::POST, Some((service, call))).await;
    let (status, text) = answer.ok_or(NoMapping::Malformed(Protocol::Upnp))?;
    if status.is_success() {
        return Ok(text);
    }
    let code = error_code(&text).unwrap_or(NO_REASON);
    Err(NoMapping::Refused { protocol: Protocol::Upnp, code })
}

/// One request on a connection of its own.
async fn http(
    net: &dyn Net,
    Place { at, path }: &Place,
    method: Method,
    soap: Option<(&Service, Call)>,
) -> Option<(StatusCode, String)> {
    let mut request = Request::builder().method(method).uri(path.as_str());
    request = request.header(HOST, at.to_string()).header(CONNECTION, "close");
    let mut body = String::new();
    if let Some((service, call)) = soap {
        request = request.header(CONTENT_TYPE, "text/xml; charset=\"utf-8\"");
        request = request.header("SOAPAction", call.action(service));
        body = call.body(service);
    }
    let request = request.body(Full::new(Bytes::from(body))).ok()?;
    let exchange = async {
        let stream = net.tcp_connect(&at.ip().to_string(), at.port()).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let talk = async move {
            let response = sender.send_request(request).await.ok()?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_TEXT).collect().await.ok()?;
            Some((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
        };
        // The connection does the I/O; it may end before the answer was looked at.
        match select(pin!(talk), pin!(connection)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((_, talk)) => talk.await,
        }
    };
    timeout(CALL, exchange).await.ok()?
}
