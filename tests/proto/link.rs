//! Relay links of members without a node, and certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use meshwire::{OsNet, Tls};
use meshwire_signaling::codec::Encoding;
use meshwire_signaling::frame::{Features, feature};
use meshwire_signaling::{Hash, InstanceId};
use meshwire_transport::link::LinkEvent;
use meshwire_transport::relay::{CounterError, HelloCounter, RelayConfig, RelayLink};
use meshwire_transport::url::BaseUrl;
use tokio::sync::mpsc::Receiver;

use super::{Member, World, within};

/// Hello counters from a given one on. A broker that has seen one before would be a fault.
struct Counter(InstanceId, AtomicU64);

#[async_trait]
impl HelloCounter for Counter {
    async fn next(&self) -> Result<(InstanceId, u64), CounterError> {
        Ok((self.0, self.1.fetch_add(1, Ordering::Relaxed)))
    }
    async fn renew(&self) -> Result<(), CounterError> {
        panic!("no broker has seen this counter before");
    }
}

/// What a member's relay link to `base` is told.
pub fn relay_config(
    world: &World,
    member: &Member,
    encoding: Encoding,
    base: &str,
    pin: Option<Hash>,
) -> RelayConfig {
    let base: BaseUrl = base.parse().unwrap();
    RelayConfig {
        base,
        pin,
        mesh: world.mesh,
        broker: world.broker.key(),
        identity: member.key.clone(),
        encoding,
        features: Features::new(),
        requires: vec![feature::DEDUPE.into(), feature::RECEIPTS.into()],
        agent: "test/1".into(),
        counter: Arc::new(Counter(member.instance, AtomicU64::new(member.next_counter()))),
    }
}

/// Opens a relay link.
pub fn relay(config: RelayConfig) -> (Arc<RelayLink>, Receiver<LinkEvent>) {
    RelayLink::open(Arc::new(OsNet), config)
}

/// Why a relay link did not come up: reason and code.
pub async fn refusal(config: RelayConfig) -> (String, Option<String>) {
    let (_link, mut events) = relay(config);
    match within("the link's first event", events.recv()).await {
        Some(LinkEvent::Down { reason, code, .. }) => (reason, code),
        other => panic!("not refused: {other:?}"),
    }
}

/// A certificate for this machine in two PEM files.
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub pin: Hash,
}

impl Certificate {
    pub fn make(dir: &Path, name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let pin = meshwire_transport::tls::spki_pin(made.cert.der()).unwrap();
        Self { cert, key, pin }
    }

    pub fn tls(&self) -> Tls {
        Tls::Files { cert: self.cert.clone(), key: self.key.clone() }
    }
}
