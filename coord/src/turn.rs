//! Where the broker gets TURN credentials from: whoever starts both the broker and a TURN server.

use std::fmt;

use meshwire_signaling::frame::TurnServer;
use meshwire_signaling::{PublicKey, UnixMillis};

/// Servers that help a member's node to reach others; as in
/// [`TurnServers`](meshwire_signaling::frame::TurnServers).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnOffer {
    /// TURN servers with the member's credentials, best first.
    pub servers: Vec<TurnServer>,
    /// STUN servers, as `HOST:PORT`.
    pub stun: Vec<String>,
}

/// Hands out credentials for TURN (design section 10). Called on the connections' tasks: it must not
/// block.
pub trait TurnDesk: fmt::Debug + Send + Sync {
    /// Credentials that only this member may use, and only for a while. `now` is Unix milliseconds.
    fn credentials(&self, member: &PublicKey, now: UnixMillis) -> TurnOffer;

    /// The STUN servers of every [`TurnOffer`], which anybody may be told.
    fn stun(&self) -> Vec<String>;

    /// The member does not belong to the mesh any more: ends its credentials and allocations.
    fn delete_member(&self, member: &PublicKey);

    /// What `/metrics` shows beside the broker's own series: families in OpenMetrics text, whole lines,
    /// without the `# EOF`.
    fn metrics(&self) -> String {
        String::new()
    }
}
