//! The broker's HTTP endpoints, as a client: one request per connection, JSON both ways, a bounded
//! answer and a deadline. See [`meshwire_signaling::frame::http`] for the shapes.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use meshwire_signaling::codec::{self, Encoding};
use meshwire_signaling::frame::http::{
    BrokerInfo, ClaimAnswer, ClaimRequest, CreateMesh, HttpError, InvitePreview, MeshCreated,
};
use meshwire_signaling::invite::AdminToken;
use meshwire_signaling::{Hash, PublicKey};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::dial::{DialError, dial, tls_for};
use crate::net::{BoxStream, Net};
use crate::text::clean;
use crate::tls::TlsError;
use crate::url::BaseUrl;

/// Most bytes of an answer; the largest, an invite's preview, has under 100 KiB.
pub const MAX_ANSWER: usize = 1 << 20;
/// Longest time from connecting to the answer's last byte.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpCallError {
    /// The broker was not reached, or did not answer.
    #[error("{reason}")]
    Connect {
        /// For people.
        reason: String,
    },
    /// No TLS, or not with the pinned key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The broker refused.
    #[error("the broker refused ({status}): {}", .error.message)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Code and message.
        error: HttpError,
    },
    /// The answer is not what it should be: no meshwire broker, or a proxy in between.
    #[error("{from} does not answer like a meshwire broker: {reason}")]
    Malformed {
        /// The address.
        from: String,
        /// What is wrong.
        reason: String,
    },
}

impl From<DialError> for HttpCallError {
    fn from(e: DialError) -> Self {
        match e {
            DialError::Tls(e) => Self::Tls(e),
            connect => Self::Connect { reason: connect.to_string() },
        }
    }
}

/// Makes one request and decodes its answer strictly. `path` starts with a slash and goes behind the
/// base's prefix; `pin` is the broker's TLS key, where it is self-signed.
///
/// # Errors
/// [`HttpCallError`].
pub async fn call<B: Serialize, A: DeserializeOwned>(
    net: &dyn Net,
    base: &BaseUrl,
    pin: Option<Hash>,
    method: Method,
    path: &str,
    bearer: Option<&str>,
    body: Option<&B>,
) -> Result<A, HttpCallError> {
    let body = body.map(|b| codec::encode(Encoding::Json, b));
    let malformed = |reason: String| HttpCallError::Malformed { from: base.to_string(), reason };
    let request = request(base, method, path, bearer, body)
        .map_err(|reason| HttpCallError::Connect { reason })?;
    let exchange = async {
        let config = tls_for(base, pin)?;
        let dialed = dial(net, base, config).await?;
        exchange(dialed.stream, request).await.map_err(malformed)
    };
    let Ok(answer) = tokio::time::timeout(CALL_TIMEOUT, exchange).await else {
        let reason = format!("{base} did not answer within {} s", CALL_TIMEOUT.as_secs());
        return Err(HttpCallError::Connect { reason });
    };
    let (status, bytes) = answer?;
    if status.is_success() {
        return codec::decode(Encoding::Json, &bytes).map_err(|e| malformed(e.to_string()));
    }
    match codec::decode(Encoding::Json, &bytes) {
        Ok(HttpError { code, message }) => {
            let error = HttpError { code: clean(&code), message: clean(&message) };
            Err(HttpCallError::Refused { status: status.as_u16(), error })
        }
        Err(_) => Err(malformed(format!("HTTP status {status}"))),
    }
}

fn request(
    base: &BaseUrl,
    method: Method,
    path: &str,
    bearer: Option<&str>,
    body: Option<Vec<u8>>,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(method)
        .uri(base.target(path))
        .header(HOST, base.authority())
        .header(ACCEPT, "application/json");
    if let Some(token) = bearer {
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value =
            value.map_err(|_| "the token has characters that no token has".to_owned())?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|e| e.to_string())
}

async fn exchange(
    stream: BoxStream,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let call = async move {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.map_err(|e| e.to_string())?.to_bytes()))
    };
    // The connection does the I/O; it may end (server closes) before the call has seen its answer.
    match select(pin!(call), pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, call)) => call.await,
    }
}

const NO_BODY: Option<&()> = None;

/// Who the broker is.
///
/// # Errors
/// [`HttpCallError`].
pub async fn broker_info(
    net: &dyn Net,
    base: &BaseUrl,
    pin: Option<Hash>,
) -> Result<BrokerInfo, HttpCallError> {
    call(net, base, pin, Method::GET, "/v2/broker", None, NO_BODY).await
}

/// Founds a mesh; the TLS pin is the token's.
///
/// # Errors
/// [`HttpCallError`].
pub async fn create_mesh(
    net: &dyn Net,
    base: &BaseUrl,
    token: &AdminToken,
    mesh: &CreateMesh,
) -> Result<MeshCreated, HttpCallError> {
    let bearer = token.bearer();
    let bearer = Some(bearer.as_str());
    call(net, base, token.pin, Method::POST, "/v2/meshes", bearer, Some(mesh)).await
}

/// What an invite offers, unverified.
///
/// # Errors
/// [`HttpCallError`].
pub async fn invite_preview(
    net: &dyn Net,
    base: &BaseUrl,
    pin: Option<Hash>,
    invite: &PublicKey,
) -> Result<InvitePreview, HttpCallError> {
    let path = format!("/v2/invites/{invite}");
    call(net, base, pin, Method::GET, &path, None, NO_BODY).await
}

/// Uses an invite; the chain in the answer is unverified.
///
/// # Errors
/// [`HttpCallError`].
pub async fn claim(
    net: &dyn Net,
    base: &BaseUrl,
    pin: Option<Hash>,
    invite: &PublicKey,
    claim: &ClaimRequest,
) -> Result<ClaimAnswer, HttpCallError> {
    let path = format!("/v2/invites/{invite}/claim");
    call(net, base, pin, Method::POST, &path, None, Some(claim)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestNet;
    use meshwire_signaling::SecretKey;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    const BASE: &str = "http://broker.test:7900/mw";

    /// Answers one request with `answer`; returns the request's text.
    async fn serve(mut stream: DuplexStream, answer: Vec<u8>) -> String {
        let mut seen = Vec::new();
        while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
            seen.push(stream.read_u8().await.unwrap());
        }
        let _ = stream.write_all(&answer).await;
        String::from_utf8(seen).unwrap()
    }

    fn answer(status: &str, body: &str) -> Vec<u8> {
        let len = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}")
            .into_bytes()
    }

    async fn info(answer: Vec<u8>) -> (Result<BrokerInfo, HttpCallError>, String) {
        let (net, mut conns) = TestNet::new(1);
        let base: BaseUrl = BASE.parse().unwrap();
        tokio::join!(broker_info(&*net, &base, None), async {
            serve(conns.recv().await.unwrap(), answer).await
        })
    }

    #[tokio::test]
    async fn a_good_answer_is_decoded_and_the_request_carries_prefix_and_host() {
        let key = SecretKey::from_seed(&[1; 32]).public();
        let body = format!(r#"{{"broker":"{key}","agent":"x/1","at":5,"later":true}}"#);
        let (got, request) = info(answer("200 OK", &body)).await;
        let told = BrokerInfo { broker: key, agent: "x/1".into(), at: 5, stun: None };
        assert_eq!(got, Ok(told));
        assert!(request.starts_with("GET /mw/v2/broker HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("host: broker.test:7900\r\n"), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_keeps_status_code_and_message() {
        let body = r#"{"code":"bad_token","message":"no such token"}"#;
        let (got, _) = info(answer("401 Unauthorized", body)).await;
        let error = HttpError { code: "bad_token".into(), message: "no such token".into() };
        assert_eq!(got, Err(HttpCallError::Refused { status: 401, error }));
    }

    #[tokio::test]
    async fn what_is_no_broker_is_malformed() {
        let proxy = answer("502 Bad Gateway", "<html>");
        for bad in [proxy, answer("200 OK", "{}"), b"SSH-2.0-x\r\n\r\n".to_vec(), Vec::new()] {
            let (got, _) = info(bad).await;
            assert!(matches!(got, Err(HttpCallError::Malformed { .. })), "{got:?}");
        }
        let huge = answer("200 OK", &" ".repeat(MAX_ANSWER + 1));
        assert!(matches!(info(huge).await.0, Err(HttpCallError::Malformed { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_the_deadline_and_a_refused_connection_says_so() {
        let (net, mut conns) = TestNet::new(1);
        let base: BaseUrl = BASE.parse().unwrap();
        let got = broker_info(&*net, &base, None).await.unwrap_err();
        assert!(got.to_string().contains("did not answer within 15 s"), "{got}");
        conns.close();
        let got = broker_info(&*net, &base, None).await.unwrap_err();
        assert!(got.to_string().starts_with("cannot connect to broker.test:7900: "), "{got}");
    }

    #[tokio::test]
    async fn a_pin_is_never_dropped_for_plain_http() {
        let (net, _conns) = TestNet::new(1);
        let base: BaseUrl = BASE.parse().unwrap();
        let got = broker_info(&*net, &base, Some(Hash([1; 32]))).await;
        assert_eq!(got, Err(HttpCallError::Tls(TlsError::PinWithoutTls)));
    }
}
