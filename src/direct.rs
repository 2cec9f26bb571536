//! The technique for direct paths that nodes use: QUIC over ICE.

use std::sync::Arc;

use meshwire_peer::node::DirectPaths;
use meshwire_peer::path::PathMode;
use meshwire_transport::net::Net;
use meshwire_transport::quic::interfaces::{Interfaces, OsInterfaces};
use meshwire_transport::quic::{Config, QuicAdapter, QuicError, QuicNode};

/// How this machine's node makes direct paths in a mode. Where it has no UDP, everything goes over the
/// relay: that is worth a warning, and no more.
pub async fn paths(net: Arc<dyn Net>, mode: PathMode) -> DirectPaths {
    if mode == PathMode::RelayOnly {
        return DirectPaths { adapter: None, mode };
    }
    let interfaces = match OsInterfaces::watch().await {
        Ok(interfaces) => Arc::new(interfaces),
        Err(e) => return without(mode, &e),
    };
    match paths_with(net, interfaces, mode).await {
        Ok(paths) => paths,
        Err(e) => without(mode, &e),
    }
}

fn without(mode: PathMode, error: &dyn std::error::Error) -> DirectPaths {
    tracing::warn!(%error, "no direct paths: everything goes over the relay");
    DirectPaths { adapter: None, mode }
}

/// How a node with these interfaces makes direct paths in a mode.
///
/// # Errors
/// [`QuicError`]: it has no UDP.
pub async fn paths_with(
    net: Arc<dyn Net>,
    interfaces: Arc<dyn Interfaces>,
    mode: PathMode,
) -> Result<DirectPaths, QuicError> {
    if mode == PathMode::RelayOnly {
        return Ok(DirectPaths { adapter: None, mode });
    }
    let mut config = Config::new(interfaces);
    config.relayed_only = mode == PathMode::HideAddresses;
    let node = QuicNode::start(net.clone(), config).await?;
    Ok(DirectPaths { adapter: Some(Arc::new(QuicAdapter::new(net, Arc::new(node)))), mode })
}
