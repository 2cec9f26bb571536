//! For this crate's unit tests: a net of in-memory pipes (every connection made arrives at the other
//! end of a channel; a closed channel refuses), and TLS servers.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use meshwire_signaling::UnixMillis;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rcgen::{CertifiedKey, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::net::{BoxStream, Listener, Net};

/// The wall clock of every test.
pub(crate) const NOW: UnixMillis = 1_700_000_000_000;
/// Bytes in flight per direction; small, so that writes do block.
const PIPE: usize = 4_096;

pub(crate) struct TestNet {
    conns: mpsc::Sender<DuplexStream>,
    rng: Mutex<ChaCha8Rng>,
}

impl fmt::Debug for TestNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestNet")
    }
}

impl TestNet {
    pub(crate) fn new(seed: u64) -> (Arc<Self>, mpsc::Receiver<DuplexStream>) {
        let (conns, rx) = mpsc::channel(16);
        let rng = Mutex::new(ChaCha8Rng::seed_from_u64(seed));
        (Arc::new(Self { conns, rng }), rx)
    }
}

#[async_trait]
impl Net for TestNet {
    fn unix_ms(&self) -> UnixMillis {
        NOW
    }
    fn fill(&self, buf: &mut [u8]) {
        self.rng.lock().unwrap().fill_bytes(buf);
    }
    async fn tcp_connect(&self, _: &str, _: u16) -> io::Result<BoxStream> {
        let (near, far) = tokio::io::duplex(PIPE);
        let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
        self.conns.send(far).await.map_err(refused)?;
        Ok(Box::new(near))
    }
    async fn tcp_bind(&self, _: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A self-signed certificate for a name that nobody asks for.
pub(crate) fn certificate() -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed(vec!["elsewhere.example".into()]).unwrap()
}

/// A server that shows one certificate and signs with the key of another (or the same) one.
pub(crate) fn acceptor(shown: &CertifiedKey<KeyPair>, key: &CertifiedKey<KeyPair>) -> TlsAcceptor {
    let key = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let provider = Arc::new(ring::default_provider());
    let signer = provider.key_provider.load_private_key(key.into()).unwrap();
    // Not `with_single_cert`, which refuses a key that does not fit the certificate.
    let certified = rustls::sign::CertifiedKey::new(vec![shown.cert.der().clone()], signer);
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    TlsAcceptor::from(Arc::new(server))
}
