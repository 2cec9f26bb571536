//! From a broker's address to a byte stream, with TLS where the address says so.

use std::sync::Arc;
use std::time::Duration;

use meshwire_signaling::Hash;
use rustls::ClientConfig;

use crate::net::{BoxStream, Net};
use crate::tls::{self, TlsError};
use crate::url::BaseUrl;

/// Longest wait for TCP and TLS together: name servers and lossy paths need seconds, people who
/// wait for an answer do not have more.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a broker was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No TCP connection.
    #[error("cannot connect to {to}: {reason}")]
    Connect {
        /// Host and port.
        to: String,
        /// What the system said.
        reason: String,
    },
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A connection to a broker.
pub struct Dialed {
    /// The stream, encrypted where the address says so.
    pub stream: BoxStream,
    /// The TLS exporter; none without TLS.
    pub exporter: Option<Hash>,
}

impl std::fmt::Debug for Dialed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialed").field("tls", &self.exporter.is_some()).finish_non_exhaustive()
    }
}

/// The TLS configuration that `base` needs; none without TLS.
///
/// # Errors
/// As [`tls::client_config`], and [`TlsError::PinWithoutTls`]: an invite's pin must never be
/// dropped silently.
pub fn tls_for(base: &BaseUrl, pin: Option<Hash>) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    match (base.tls, pin) {
        (true, pin) => tls::client_config(pin).map(Some),
        (false, Some(_)) => Err(TlsError::PinWithoutTls),
        (false, None) => Ok(None),
    }
}

/// Connects within [`CONNECT_TIMEOUT`]; `config` is from [`tls_for`].
///
/// # Errors
/// [`DialError`].
pub async fn dial(
    net: &dyn Net,
    base: &BaseUrl,
    config: Option<Arc<ClientConfig>>,
) -> Result<Dialed, DialError> {
    let failed = |reason: String| DialError::Connect { to: base.authority(), reason };
    let connect = async {
        let stream = net.tcp_connect(&base.host, base.port).await;
        let stream = stream.map_err(|e| failed(e.to_string()))?;
        let Some(config) = config else { return Ok(Dialed { stream, exporter: None }) };
        let (stream, exporter) = tls::wrap(stream, config, &base.host).await?;
        Ok(Dialed { stream, exporter: Some(exporter) })
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(done) => done,
        Err(_) => Err(failed(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
    }
}
