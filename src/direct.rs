//! The technique for direct paths that this machine's node uses: QUIC over ICE.

use std::sync::Arc;

use meshwire_peer::node::DirectPaths;
use meshwire_peer::path::PathMode;
use meshwire_transport::net::Net;
use meshwire_transport::quic::interfaces::OsInterfaces;
use meshwire_transport::quic::{Config, QuicAdapter, QuicNode};
use tokio::sync::watch;

/// How this machine's node makes direct paths in a mode. Where it has no UDP, everything goes over the
/// relay: that is worth a warning, and no more.
pub(crate) async fn paths(net: Arc<dyn Net>, mode: PathMode) -> DirectPaths {
    if mode == PathMode::RelayOnly {
        return DirectPaths { adapter: None, mode };
    }
    match start(net, mode).await {
        Ok(adapter) => DirectPaths { adapter: Some(Arc::new(adapter)), mode },
        Err(e) => {
            tracing::warn!(
                error = format!("{e:#}"),
                "no direct paths: everything goes over the relay"
            );
            DirectPaths { adapter: None, mode }
        }
    }
}

async fn start(net: Arc<dyn Net>, mode: PathMode) -> anyhow::Result<QuicAdapter> {
    let mut config = Config::new(Arc::new(OsInterfaces::watch().await?));
    config.relayed_only = mode == PathMode::HideAddresses;
    let node = QuicNode::start(net.clone(), config).await?;
    // The node follows the interfaces itself, within its attempts and connections.
    let (_, network) = watch::channel(0);
    Ok(QuicAdapter::new(net, Arc::new(node), network))
}
