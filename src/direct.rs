//! The technique for direct paths that nodes use: QUIC over ICE.

use std::sync::Arc;

use meshwire_peer::node::DirectPaths;
use meshwire_peer::path::PathMode;
use meshwire_transport::net::Net;
use meshwire_transport::quic::interfaces::{Interfaces, OsInterfaces};
use meshwire_transport::quic::{Config, QuicAdapter, QuicError, QuicNode};

/// What a machine's owner decides about direct paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which paths messages may take.
    pub mode: PathMode,
    /// The UDP port; 0 takes a free one.
    pub udp_port: u16,
    /// Whether the router is asked to forward a port (PCP, NAT-PMP, UPnP).
    pub port_mapping: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { mode: PathMode::default(), udp_port: 0, port_mapping: true }
    }
}

/// How this machine's node makes direct paths. Where it has no UDP, everything goes over the relay: that
/// is worth a warning, and no more.
pub async fn paths(net: Arc<dyn Net>, settings: Settings) -> DirectPaths {
    let mode = settings.mode;
    if mode == PathMode::RelayOnly {
        return DirectPaths { adapter: None, mode };
    }
    let interfaces = match OsInterfaces::watch().await {
        Ok(interfaces) => Arc::new(interfaces),
        Err(e) => return without(mode, &e),
    };
    match paths_with(net, interfaces, settings).await {
        Ok(paths) => paths,
        Err(e) => without(mode, &e),
    }
}

fn without(mode: PathMode, error: &dyn std::error::Error) -> DirectPaths {
    tracing::warn!(%error, "no direct paths: everything goes over the relay");
    DirectPaths { adapter: None, mode }
}

/// How a node with these interfaces makes direct paths.
///
/// # Errors
/// [`QuicError`]: it has no UDP.
pub async fn paths_with(
    net: Arc<dyn Net>,
    interfaces: Arc<dyn Interfaces>,
    settings: Settings,
) -> Result<DirectPaths, QuicError> {
    let mode = settings.mode;
    if mode == PathMode::RelayOnly {
        return Ok(DirectPaths { adapter: None, mode });
    }
    let config = Config {
        port: settings.udp_port,
        relayed_only: mode == PathMode::HideAddresses,
        port_mapping: settings.port_mapping,
        ..Config::new(interfaces)
    };
    let node = QuicNode::start(net.clone(), config).await?;
    Ok(DirectPaths { adapter: Some(Arc::new(QuicAdapter::new(net, Arc::new(node)))), mode })
}
