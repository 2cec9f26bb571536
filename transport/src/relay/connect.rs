//! From nothing to a connection that has said hello.

use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt as _;
use meshwire_signaling::Hash;
use meshwire_signaling::frame::close;
use meshwire_signaling::limits::HELLO_TIMEOUT;
use meshwire_signaling::sign::Signed;
use rustls::ClientConfig;
use tokio::time::timeout;

use super::RelayConfig;
use super::backoff::{Next, after_close, after_refusal};
use super::hello::{Greeting, Handshake, HelloError, Step, Welcome};
use super::wire::{self, Incoming, Ws};
use crate::dial::{CONNECT_TIMEOUT, DialError, dial};
use crate::net::{self, Net};
use crate::text::clean;
use crate::tls::TlsError;

/// How long to wait for the close code behind a refusal: it says whether trying again can help.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Why there is no connection any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// For people.
    pub(super) reason: String,
    /// The broker's word.
    pub(super) code: Option<String>,
    /// What to do about it.
    pub(super) next: Next,
    /// When the broker wants to be asked again.
    pub(super) hint: Option<Duration>,
}

impl Loss {
    pub(super) fn new(reason: impl AsRef<str>) -> Self {
        Self { reason: clean(reason.as_ref()), code: None, next: Next::Retry, hint: None }
    }

    /// The broker closed the socket.
    pub(super) fn closed(frame: Option<(u16, String)>) -> Self {
        let Some((code, word)) = frame else {
            return Self::new("the broker closed the connection");
        };
        let why = match code {
            close::GOING_AWAY => "the broker is stopping",
            close::TOO_BIG => "a frame was too large for the broker",
            close::TRY_LATER => "the broker is too busy",
            close::KICKED => "an admin has removed this node; connect again by hand",
            close::REVOKED => "this node's key is revoked",
            close::ALREADY_CONNECTED => "the same key is connected from another place",
            close::SLOW_CONSUMER => "this node did not keep up",
            close::FEATURE => "a required feature is missing",
            _ => "the broker closed the connection",
        };
        let word = word.trim();
        let reason = if word.is_empty() {
            format!("{why} ({code})")
        } else {
            format!("{why} ({code}: {word})")
        };
        Self {
            code: Some(format!("close_{code}")),
            next: after_close(Some(code)),
            ..Self::new(reason)
        }
    }

    fn unreached(error: &DialError) -> Self {
        let next = match error {
            // As with another broker's key: only an operator can mend it.
            DialError::Tls(TlsError::PinMismatch(_)) => Next::Slow,
            _ => Next::Retry,
        };
        Self { next, ..Self::new(error.to_string()) }
    }

    fn refused(error: &HelloError, close: Option<u16>) -> Self {
        let hint = match error {
            HelloError::Refused(e) => e.retry_after_ms.map(Duration::from_millis),
            _ => None,
        };
        let word = clean(error.code());
        Self {
            next: after_refusal(&word, close),
            hint,
            code: Some(word),
            ..Self::new(error.to_string())
        }
    }
}

/// Connects and says hello.
pub(super) async fn connect(
    net: &dyn Net,
    config: &RelayConfig,
    tls: Option<Arc<ClientConfig>>,
    resume: Option<Signed>,
) -> Result<(Ws, Welcome), Loss> {
    let reach = async {
        let dialed = dial(net, &config.base, tls).await.map_err(|e| Loss::unreached(&e))?;
        let ws = wire::upgrade(dialed.stream, &config.base, config.encoding).await;
        let ws =
            ws.map_err(|why| Loss::new(format!("no meshwire broker at {}: {why}", config.base)));
        Ok((ws?, dialed.exporter))
    };
    let Ok(reached) = timeout(CONNECT_TIMEOUT, reach).await else {
        let secs = CONNECT_TIMEOUT.as_secs();
        return Err(Loss::new(format!("{} did not answer within {secs} s", config.base)));
    };
    let (mut ws, exporter) = reached?;
    match timeout(HELLO_TIMEOUT, say_hello(net, config, &mut ws, exporter, resume)).await {
        Ok(Ok(welcome)) => Ok((ws, welcome)),
        Ok(Err(Failed::Loss(loss))) => Err(loss),
        Ok(Err(Failed::Hello(error))) => {
            let close = match &error {
                HelloError::Refused(_) => last_word(&mut ws, config).await,
                _ => None,
            };
            Err(Loss::refused(&error, close))
        }
        Err(_) => {
            let secs = HELLO_TIMEOUT.as_secs();
            Err(Loss::new(format!("the broker did not answer the hello within {secs} s")))
        }
    }
}

enum Failed {
    Hello(HelloError),
    Loss(Loss),
}

async fn say_hello(
    net: &dyn Net,
    config: &RelayConfig,
    ws: &mut Ws,
    exporter: Option<Hash>,
    resume: Option<Signed>,
) -> Result<Welcome, Failed> {
    let lost = |reason: String| Failed::Loss(Loss::new(reason));
    let (instance, counter) = config.counter.next().await.map_err(|e| lost(e.to_string()))?;
    let mut handshake = Handshake::new(Greeting {
        mesh: config.mesh,
        broker: config.broker,
        identity: config.identity.clone(),
        instance,
        counter,
        features: config.features.clone(),
        requires: config.requires.clone(),
        resume,
        agent: config.agent.clone(),
        nonce: Hash(net::random(net)),
        exporter,
    });
    loop {
        let frame = match wire::next(ws, config.encoding).await {
            Incoming::Frame(frame) => *frame,
            Incoming::Unknown(_) | Incoming::Alive => continue,
            Incoming::Carry(_) => return Err(lost("the broker sent no frame".into())),
            Incoming::Broken(reason) => return Err(lost(reason)),
            Incoming::Closed(Some((close::REFUSED, word))) => {
                let loss = Loss::closed(Some((close::REFUSED, word.clone())));
                let next = after_refusal(&word, Some(close::REFUSED));
                return Err(Failed::Loss(Loss { code: Some(clean(&word)), next, ..loss }));
            }
            Incoming::Closed(frame) => return Err(Failed::Loss(Loss::closed(frame))),
        };
        match handshake.on_frame(frame, net.unix_ms()).map_err(Failed::Hello)? {
            Step::Send(frame) => {
                let message = wire::encode(config.encoding, &frame);
                ws.send(message).await.map_err(|e| lost(e.to_string()))?;
            }
            Step::Done(welcome) => return Ok(*welcome),
        }
    }
}

async fn last_word(ws: &mut Ws, config: &RelayConfig) -> Option<u16> {
    let closed = async {
        loop {
            match wire::next(ws, config.encoding).await {
                Incoming::Closed(frame) => return frame.map(|(code, _)| code),
                Incoming::Broken(_) => return None,
                _ => {}
            }
        }
    };
    timeout(LAST_WORD, closed).await.ok().flatten()
}
