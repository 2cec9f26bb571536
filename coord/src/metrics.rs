//! What `/metrics` shows (inventory B-166, in OpenMetrics text).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A refusal's error code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
}

/// A message's priority.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByPriority {
    pub(crate) priority: &'static str,
}

#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Counter,
    pub(crate) connections_rejected: Family<Reason, Counter>,
    pub(crate) connections_active: Gauge,
    pub(crate) accepted: Family<ByPriority, Counter>,
    pub(crate) duplicates: Counter,
    pub(crate) rejected: Family<Reason, Counter>,
    pub(crate) pushed: Counter,
    pub(crate) redelivered: Counter,
    pub(crate) delivered: Counter,
    pub(crate) refused: Counter,
    pub(crate) expired: Counter,
    pub(crate) malformed: Counter,
    pub(crate) slow_consumers: Counter,
    pub(crate) news_dropped: Counter,
    pub(crate) queue_depth: Gauge,
    pub(crate) db_healthy: Gauge,
}

impl Metrics {
    /// The text of `/metrics`.
    pub(crate) fn render(&self) -> String {
        let mut r = Registry::with_prefix("broker");
        r.register("connections", "Hellos accepted", self.connections.clone());
        r.register(
            "connections_rejected",
            "Hellos refused, by code",
            self.connections_rejected.clone(),
        );
        r.register("connections_active", "Connections now", self.connections_active.clone());
        r.register("messages_routed", "Envelopes accepted, by priority", self.accepted.clone());
        r.register("messages_duplicate", "Envelopes that were there", self.duplicates.clone());
        r.register("messages_rejected", "Envelopes refused, by code", self.rejected.clone());
        r.register("messages_pushed", "Deliveries pushed", self.pushed.clone());
        r.register("messages_redelivered", "Pushes after the first", self.redelivered.clone());
        r.register("messages_delivered", "Deliveries acked", self.delivered.clone());
        r.register("messages_refused", "Deliveries refused for good", self.refused.clone());
        r.register("messages_expired", "Deliveries whose time ran out", self.expired.clone());
        r.register("frames_malformed", "Frames that did not decode", self.malformed.clone());
        r.register("slow_consumers", "Readers closed as too slow", self.slow_consumers.clone());
        r.register(
            "news_dropped",
            "Presence news that busy readers missed",
            self.news_dropped.clone(),
        );
        r.register("queue_depth", "Deliveries waiting", self.queue_depth.clone());
        r.register("db_healthy", "1 while the database answers", self.db_healthy.clone());
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &r);
        text
    }
}
