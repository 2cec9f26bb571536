//! Whether the router forwards a port when it is asked to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use crate::net::Net;
use crate::quic::interfaces::Router;
use crate::quic::portmap::{Line, NoMapping};

/// What became of asking the router for a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum PortMapping {
    /// Nobody asked.
    #[default]
    NotTried,
    /// No router to ask is known.
    NoRouter,
    /// It does not answer.
    Silent {
        /// The router.
        router: Ipv4Addr,
    },
    /// It says no.
    Refused {
        /// The router.
        router: Ipv4Addr,
        /// Why, for people.
        reason: String,
    },
    /// It does.
    Mapped {
        /// The router.
        router: Ipv4Addr,
        /// By which protocol.
        protocol: &'static str,
        /// The address that it forwards.
        external: SocketAddr,
    },
}

impl PortMapping {
    /// The address that is forwarded.
    #[must_use]
    pub fn external(&self) -> Option<SocketAddr> {
        match self {
            Self::Mapped { external, .. } => Some(*external),
            _ => None,
        }
    }
}

/// Asks the router for a port by PCP, NAT-PMP and UPnP, and gives it back; takes seconds.
pub async fn ask_router(net: Arc<dyn Net>, router: Option<Router>) -> PortMapping {
    let Some(router) = router else { return PortMapping::NoRouter };
    let mut line = match Line::open(net, router, None).await {
        Ok(line) => line,
        Err(e) => return PortMapping::Refused { router: router.gateway, reason: e.to_string() },
    };
    line.settle().await;
    let mapping = line.mapping();
    line.release().await;
    let router = router.gateway;
    match mapping {
        Ok(m) => PortMapping::Mapped { router, protocol: m.protocol.name(), external: m.external },
        Err(NoMapping::Silent) => PortMapping::Silent { router },
        Err(why) => PortMapping::Refused { router, reason: why.to_string() },
    }
}
