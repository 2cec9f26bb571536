//! Who is at the other end: raw public keys (RFC 7250) that are pinned both ways.
//!
//! A node makes a fresh ed25519 key at each start. Its fingerprint, SHA-256 of the subject public key
//! info (DER), travels in the signed offer and answer; a handshake accepts the key with that
//! fingerprint and no other. Names, dates and issuers do not exist here. Nothing is resumed, so that
//! every connection proves its key anew and nothing is sent before that.
//!
//! The client of a handshake is done before the server has seen the client's key: a server that
//! refuses it closes the connection a moment after the client called it connected.

use std::fmt;
use std::sync::Arc;

use meshwire_signaling::Hash;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};

use super::QuicError;
use crate::net::{Net, random};

/// The application protocol: another version of the frames on the stream is another name.
const ALPN: &[u8] = b"meshwire/2";

/// What a client calls the server. Keys are pinned, so it means nothing; QUIC wants one.
pub(super) const SERVER_NAME: &str = "meshwire";

/// What PKCS #8 (RFC 8410 section 7) has before an ed25519 seed.
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A node's key for as long as it runs.
pub(super) struct Identity {
    key: Arc<CertifiedKey>,
    fingerprint: Hash,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint.short())
    }
}

impl Identity {
    /// A fresh key.
    pub(super) fn new(net: &dyn Net) -> Result<Self, QuicError> {
        let mut der = PKCS8_ED25519.to_vec();
        der.extend_from_slice(&random::<32>(net));
        let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der)).map_err(tls)?;
        let spki = key.public_key().map(|k| CertificateDer::from(k.to_vec()));
        let spki = spki.ok_or_else(|| QuicError::Tls("the key has no public half".to_owned()))?;
        let fingerprint = Hash::of(&spki);
        let key = Arc::new(CertifiedKey::new(vec![spki], key));
        Ok(Self { key, fingerprint, provider: Arc::new(ring::default_provider()) })
    }

    /// SHA-256 of its SPKI.
    pub(super) fn fingerprint(&self) -> Hash {
        self.fingerprint
    }

    /// For connecting to whoever holds the key with that fingerprint.
    pub(super) fn client(&self, peer: Hash) -> Result<Arc<QuicClientConfig>, QuicError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.pinned(peer)))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                Arc::clone(&self.key),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        let config = QuicClientConfig::try_from(config);
        Ok(Arc::new(config.map_err(|e| QuicError::Tls(e.to_string()))?))
    }

    /// For being connected to by whoever holds the key with that fingerprint.
    pub(super) fn server(&self, peer: Hash) -> Result<Arc<QuicServerConfig>, QuicError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(Arc::new(self.pinned(peer)))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(
                &self.key,
            ))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        // There is nothing to keep; the usual storage has room for 256 sessions, for every connection.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let config = QuicServerConfig::try_from(config);
        Ok(Arc::new(config.map_err(|e| QuicError::Tls(e.to_string()))?))
    }

    fn pinned(&self, pin: Hash) -> Pinned {
        Pinned { pin, algorithms: self.provider.signature_verification_algorithms }
    }
}

fn tls(e: Error) -> QuicError {
    QuicError::Tls(e.to_string())
}

/// Accepts one key.
#[derive(Debug)]
struct Pinned {
    pin: Hash,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn check(&self, spki: &CertificateDer<'_>) -> Result<(), Error> {
        if Hash::of(spki) == self.pin {
            return Ok(());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn signed(
        &self,
        message: &[u8],
        spki: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, dss, &self.algorithms)
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
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
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
        self.signed(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
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
        self.signed(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
