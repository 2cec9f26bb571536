//! How far away a broker is, over HTTP on one connection, as its relay is.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use meshwire_signaling::Hash;
use serde::Serialize;
use tokio::time::timeout;

use super::facts::micros;
use crate::dial::{dial, tls_for};
use crate::net::Net;
use crate::text::clean;
use crate::url::BaseUrl;

/// Round trips that are measured; the median counts.
pub const PINGS: usize = 5;
/// Longest time for all of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of an answer; a broker's has three.
const MAX_ANSWER: usize = 4096;

/// A broker to be measured.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Where.
    pub url: BaseUrl,
    /// Its TLS key, where it is self-signed.
    pub pin: Option<Hash>,
}

/// A broker that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Relay {
    /// Its address.
    pub url: String,
    /// Its port.
    pub port: u16,
    /// The median round trip of a request and its answer; none if it was not reached.
    #[serde(serialize_with = "micros", rename = "rtt_us")]
    pub rtt: Option<Duration>,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Measures a broker; takes at most 20 s.
pub async fn measure(net: &dyn Net, broker: &Broker) -> Relay {
    let url = broker.url.to_string();
    let port = broker.url.port;
    match pings(net, broker).await {
        Ok(rtt) => Relay { url, port, rtt: Some(rtt), error: None },
        Err(why) => Relay { url, port, rtt: None, error: Some(why) },
    }
}

async fn pings(net: &dyn Net, broker: &Broker) -> Result<Duration, String> {
    let config = tls_for(&broker.url, broker.pin).map_err(|e| e.to_string())?;
    let dialed = dial(net, &broker.url, config).await.map_err(|e| e.to_string())?;
    let talk = async {
        let io = TokioIo::new(dialed.stream);
        let (sender, connection) = http1::handshake(io).await.map_err(|e| e.to_string())?;
        // The connection does the I/O; it may end before the last answer was looked at.
        match select(pin!(ask(net, &broker.url, sender)), pin!(connection)).await {
            Either::Left((took, _)) => took,
            Either::Right((_, asking)) => asking.await,
        }
    };
    let took = timeout(PATIENCE, talk).await;
    took.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
}

async fn ask(
    net: &dyn Net,
    url: &BaseUrl,
    mut sender: SendRequest<Empty<Bytes>>,
) -> Result<Duration, String> {
    let mut took = [Duration::ZERO; PINGS];
    for took in &mut took {
        let request = Request::get(url.target("/health")).header(HOST, url.authority());
        let request = request.body(Empty::new()).map_err(|e| e.to_string())?;
        sender.ready().await.map_err(|e| e.to_string())?;
        let from = net.now();
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        body.map_err(|e| clean(&e.to_string()))?;
        if !status.is_success() {
            return Err(format!("{url} does not answer like a meshwire broker: HTTP {status}"));
        }
        *took = net.now().saturating_duration_since(from);
    }
    took.sort_unstable();
    Ok(took.get(PINGS / 2).copied().unwrap_or_default())
}
