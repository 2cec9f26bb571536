//! Client TLS: 1.3 only, ring's algorithms, and two ways to trust a broker.
//!
//! With a pin, exactly the certificate whose public key (SPKI, DER) has that SHA-256 is accepted:
//! name, dates and issuer say nothing then, for the pin came with the invite. The handshake's
//! signature is verified all the same, so whoever answers holds the pinned key. Without a pin the
//! operating system's roots decide, by rustls's clock.

use std::sync::Arc;

use meshwire_signaling::Hash;
use meshwire_signaling::frame::EXPORTER_LABEL;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, PeerIncompatible,
    RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use crate::net::BoxStream;

/// Why TLS could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The server's key is not the pinned one.
    #[error(
        "the server's TLS key is not the one that the invite pins: either somebody is in between, \
         or the broker has a new key (expected {}, got {})", .0.expected.short(), .0.got.short()
    )]
    PinMismatch(PinMismatch),
    /// A pin was given for an address without TLS.
    #[error("the invite pins a TLS key, but the broker's address starts with http://")]
    PinWithoutTls,
    /// The operating system has no usable root certificates.
    #[error("no usable root certificates on this system: {0}")]
    Roots(String),
    /// Not a certificate.
    #[error("malformed certificate: {0}")]
    Certificate(String),
    /// Not a host that a certificate could name.
    #[error("{0:?} is no host name")]
    Host(String),
    /// The handshake failed.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
}

/// Which key was pinned and which one the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's key is not the pinned one")]
pub struct PinMismatch {
    /// SHA-256 of the pinned SPKI.
    pub expected: Hash,
    /// SHA-256 of the server's SPKI.
    pub got: Hash,
}

/// The pin of a certificate: SHA-256 of its subject public key info, DER.
///
/// # Errors
/// [`TlsError::Certificate`].
pub fn spki_pin(cert_der: &[u8]) -> Result<Hash, TlsError> {
    let cert = CertificateDer::from(cert_der);
    pin_of(&cert).map_err(|e| TlsError::Certificate(e.to_string()))
}

fn pin_of(cert: &CertificateDer<'_>) -> Result<Hash, Error> {
    Ok(Hash::of(&ParsedCertificate::try_from(cert)?.subject_public_key_info()))
}

/// A client configuration that trusts the pinned key alone, or else the system's roots (which are
/// read from disk by this call).
///
/// # Errors
/// [`TlsError::Roots`], or [`TlsError::Handshake`] should ring lack what TLS 1.3 needs.
pub fn client_config(pin: Option<Hash>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| TlsError::Handshake(e.to_string()))?;
    let mut config = match pin {
        Some(pin) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned::new(pin, &provider)))
            .with_no_client_auth(),
        None => builder.with_root_certificates(system_roots()?).with_no_client_auth(),
    };
    // Proxies in front of a broker choose HTTP/2 where nobody says otherwise.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that webpki does not read; the others still count.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(TlsError::Roots(why));
    }
    Ok(roots)
}

/// Speaks TLS over `stream` to `host` (IPv6 without brackets). Returns the encrypted stream and this
/// connection's exporter (RFC 5705, [`EXPORTER_LABEL`], no context, 32 bytes), to which the hello
/// is bound.
///
/// # Errors
/// [`TlsError::PinMismatch`], [`TlsError::Host`], [`TlsError::Handshake`].
pub async fn wrap(
    stream: BoxStream,
    config: Arc<ClientConfig>,
    host: &str,
) -> Result<(BoxStream, Hash), TlsError> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(handshake_error)?;
    let exporter = stream
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(|e| TlsError::Handshake(e.to_string()))?;
    Ok((Box::new(stream), Hash(exporter)))
}

fn handshake_error(e: std::io::Error) -> TlsError {
    match e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) => {
            match inner.downcast_ref::<PinMismatch>() {
                Some(mismatch) => TlsError::PinMismatch(*mismatch),
                None => TlsError::Handshake(inner.to_string()),
            }
        }
        _ => TlsError::Handshake(e.to_string()),
    }
}

#[derive(Debug)]
struct Pinned {
    pin: Hash,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn new(pin: Hash, provider: &CryptoProvider) -> Self {
        Self { pin, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let got = pin_of(end_entity)?;
        if got == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let mismatch = PinMismatch { expected: self.pin, got };
        Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{acceptor, certificate};
    use rcgen::{CertifiedKey, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// One connection; the server's exporter and what both ends made of it.
    async fn meet(
        pin: Hash,
        shown: &CertifiedKey<KeyPair>,
        key: &CertifiedKey<KeyPair>,
    ) -> (Result<(BoxStream, Hash), TlsError>, Option<Hash>) {
        let acceptor = acceptor(shown, key);
        let (near, far) = tokio::io::duplex(16_384);
        let serve = async move {
            let mut tls = acceptor.accept(far).await.ok()?;
            let exporter = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None);
            tls.write_all(b"hi").await.ok()?;
            tls.flush().await.ok()?;
            Some(Hash(exporter.ok()?))
        };
        let connect = async {
            wrap(Box::new(near), client_config(Some(pin)).unwrap(), "broker.example").await
        };
        tokio::join!(connect, serve)
    }

    #[tokio::test]
    async fn the_pinned_key_is_accepted_whatever_its_name_and_both_ends_export_the_same() {
        let cert = certificate();
        let pin = spki_pin(cert.cert.der()).unwrap();
        let (client, server) = meet(pin, &cert, &cert).await;
        let (mut stream, exporter) = client.unwrap();
        assert_eq!(Some(exporter), server);
        let mut hi = [0; 2];
        stream.read_exact(&mut hi).await.unwrap();
        assert_eq!(&hi, b"hi");
    }

    #[tokio::test]
    async fn another_key_is_a_pin_mismatch() {
        let (pinned, other) = (certificate(), certificate());
        let expected = spki_pin(pinned.cert.der()).unwrap();
        let got = spki_pin(other.cert.der()).unwrap();
        let (client, _) = meet(expected, &other, &other).await;
        let error = client.err().unwrap();
        assert_eq!(error, TlsError::PinMismatch(PinMismatch { expected, got }));
        assert!(error.to_string().contains("not the one that the invite pins"));
    }

    #[tokio::test]
    async fn the_pinned_certificate_without_its_key_does_not_help() {
        let (pinned, thief) = (certificate(), certificate());
        let pin = spki_pin(pinned.cert.der()).unwrap();
        let (client, _) = meet(pin, &pinned, &thief).await;
        assert!(matches!(client.err(), Some(TlsError::Handshake(_))));
    }

    #[test]
    fn what_is_no_certificate_has_no_pin() {
        assert!(matches!(spki_pin(b"hello"), Err(TlsError::Certificate(_))));
        assert!(matches!(spki_pin(b""), Err(TlsError::Certificate(_))));
    }
}
