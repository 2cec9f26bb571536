//! The broker's certificate: self-signed and pinned, or the operator's.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use meshwire_signaling::Hash;
use meshwire_transport::tls::spki_pin;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::BrokerError;

/// The self-signed certificate's name in the data folder.
pub(crate) const CERT_FILE: &str = "tls.crt";
/// Its private key's.
pub(crate) const TLS_KEY_FILE: &str = "tls.key";

/// A ready TLS configuration.
pub(crate) struct Identity {
    pub(crate) config: Arc<ServerConfig>,
    /// SHA-256 of the public key, where the certificate is our own.
    pub(crate) pin: Option<Hash>,
    /// The same, whoever made the certificate.
    pub(crate) spki: Hash,
    first: CertificateDer<'static>,
}

impl Identity {
    /// The certificate itself, without those that vouch for it.
    pub(crate) fn first(&self) -> &CertificateDer<'static> {
        &self.first
    }
}

/// Loads the self-signed certificate of a data folder, making it at the first start. Clients pin
/// its key, so the name in it does not matter and it does not expire for them.
pub(crate) fn self_signed(data: &Path) -> Result<Identity, BrokerError> {
    let (cert_path, key_path) = (data.join(CERT_FILE), data.join(TLS_KEY_FILE));
    if !key_path.exists() || !cert_path.exists() {
        let made = rcgen::generate_simple_self_signed(["meshwire-broker".to_owned()])
            .map_err(|e| BrokerError::Tls(e.to_string()))?;
        write_private(&key_path, made.signing_key.serialize_pem().as_bytes())?;
        write_private(&cert_path, made.cert.pem().as_bytes())?;
    }
    let identity = load(&cert_path, &key_path)?;
    Ok(Identity { pin: Some(identity.spki), ..identity })
}

/// Loads the operator's certificate, whose key is to fit.
pub(crate) fn load(cert: &Path, key: &Path) -> Result<Identity, BrokerError> {
    let pem = |path: &Path, e| BrokerError::Tls(format!("{}: {e}", path.display()));
    let chain = CertificateDer::pem_file_iter(cert).map_err(|e| pem(cert, e))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|e| pem(cert, e))?;
    let first = chain.first();
    let first = first.ok_or_else(|| BrokerError::Tls(format!("{}: empty", cert.display())))?;
    let first = first.clone();
    let spki = spki_pin(&first).map_err(|e| BrokerError::Tls(e.to_string()))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| pem(key, e))?;
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|b| b.with_no_client_auth().with_single_cert(chain, secret))
            .map_err(|e| BrokerError::Tls(e.to_string()))?;
    Ok(Identity { config: Arc::new(config), pin: None, spki, first })
}

/// Writes a new file that only its owner can read.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), BrokerError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()));
    written.map_err(|error| BrokerError::File { path: path.to_owned(), error })
}
