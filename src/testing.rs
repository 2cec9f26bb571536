//! A broker and a mesh in one call, for programs' own tests.

use std::path::Path;
use std::sync::Arc;

use meshwire_coord::{Broker, BrokerConfig, BrokerError, Database, Policy, Tls};
use meshwire_peer::api::{ApiError, CreateInvite, CreateMesh, ErrorKind};
use meshwire_peer::node::Node;
use meshwire_signaling::invite::Role;
use meshwire_transport::net::OsNet;

/// Uses and life of the invites made here.
const USES: u32 = 1_000;
const TTL_MS: u64 = 3_600_000;

/// A broker on a free loopback port, with SQLite in `dir/broker`.
///
/// # Errors
/// [`BrokerError`].
pub async fn broker(dir: &Path) -> Result<Broker, BrokerError> {
    let config = BrokerConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        public_url: None,
        data: dir.join("broker"),
        database: Database::Sqlite,
        tls: Tls::Auto,
        policy: Policy::default(),
        new_admin_token: true,
        turn: None,
    };
    Broker::start(Arc::new(OsNet), config).await
}

/// Founds a mesh named `lab` with `node` as its owner `ana`; returns an invite link for many.
///
/// # Errors
/// [`ApiError`].
pub async fn found(node: &Node, broker: &Broker) -> Result<String, ApiError> {
    let token = broker.admin_token().ok_or_else(|| {
        ApiError::new(ErrorKind::Auth, "bad_token", "this broker shows no admin token")
    })?;
    let mesh = CreateMesh {
        name: "lab".to_owned(),
        broker_url: broker.url().to_owned(),
        admin_token: token.to_string(),
        member_name: "ana".to_owned(),
    };
    node.create_mesh(mesh).await?;
    let terms = CreateInvite {
        mesh: None,
        uses: USES,
        ttl_ms: TTL_MS,
        role: Role::Member,
        broker_url: None,
    };
    Ok(node.invite(terms).await?.link)
}
