//! What `/metrics` shows (inventory B-166, in OpenMetrics text).
//!
//! The registry is filled once. A further series is one more line in [`series!`].

use std::ops::Deref;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use meshwire_signaling::frame::code;
use meshwire_signaling::stream::carry::Gone;

/// A refusal's error code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
}

/// What became of something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub(crate) outcome: &'static str,
}

/// Why something was dropped, or what bytes were of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Cause {
    pub(crate) cause: &'static str,
}

impl Cause {
    /// Bytes of records of streams.
    pub(crate) const STREAM: &'static str = "stream";
    /// Bytes of frames with envelopes.
    pub(crate) const MESSAGE: &'static str = "message";
    /// Bytes of frames with receipts.
    pub(crate) const RECEIPT: &'static str = "receipt";
    /// Bytes of negotiation frames.
    pub(crate) const NEGOTIATION: &'static str = "negotiation";
    /// More than the window was sent.
    pub(crate) const WINDOW: &'static str = "window";
    /// The memory for records was full.
    pub(crate) const MEMORY: &'static str = "memory";
    /// The recipient's connection ended.
    pub(crate) const ENDED: &'static str = "ended";
    const DROPPED: [&'static str; 7] =
        [Self::WINDOW, Self::MEMORY, Self::ENDED, "offline", "away", "unable", "forbidden"];

    /// The word for why a record went nowhere.
    pub(crate) fn of(gone: Gone) -> &'static str {
        match gone {
            Gone::Offline => "offline",
            Gone::Away => "away",
            Gone::Unable => "unable",
            Gone::Forbidden => "forbidden",
            _ => "other",
        }
    }
}

/// A message's priority.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByPriority {
    pub(crate) priority: &'static str,
}

/// Makes [`Metrics`]: a field, its kind, its name after `broker_`, and its help text per line.
/// Counters get `_total` in the output.
macro_rules! series {
    ($($field:ident: $kind:ty = $name:literal, $help:literal;)*) => {
        /// All series; cheap to count in, rendered on demand.
        #[derive(Debug)]
        pub(crate) struct Metrics {
            $(#[doc = $help] pub(crate) $field: $kind,)*
            registry: Registry,
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut metrics = Self {
                    $($field: <$kind>::default(),)*
                    registry: Registry::with_prefix("broker"),
                };
                $(metrics.registry.register($name, $help, metrics.$field.clone());)*
                metrics.prepare();
                metrics
            }
        }
    };
}

series! {
    connections: Counter = "connections", "Hellos accepted";
    connections_rejected: Family<Reason, Counter> = "connections_rejected", "Hellos refused, by code";
    connections_active: Gauge = "connections_active", "Connections now";
    accepted: Family<ByPriority, Counter> = "messages_routed", "Envelopes accepted, by priority";
    duplicates: Counter = "messages_duplicate", "Envelopes that were there";
    rejected: Family<Reason, Counter> = "messages_rejected", "Envelopes refused, by code";
    pushed: Counter = "messages_pushed", "Deliveries pushed";
    redelivered: Counter = "messages_redelivered", "Pushes after the first";
    delivered: Counter = "messages_delivered", "Deliveries acked";
    refused: Counter = "messages_refused", "Deliveries refused for good";
    expired: Counter = "messages_expired", "Deliveries whose time ran out";
    malformed: Counter = "frames_malformed", "Frames that did not decode";
    oversized: Counter = "frames_oversized", "Frames that were larger than the limit and not sent: a fault in the broker";
    slow_consumers: Counter = "slow_consumers", "Readers closed as too slow";
    news_dropped: Counter = "news_dropped", "Presence news that busy readers missed";
    joined: Counter = "presence_joined", "Identities that came";
    left: Counter = "presence_left", "Identities that went, for good or for longer than the lease";
    in_grace: Gauge = "presence_in_grace", "Identities that are waited for";
    resumes: Family<Outcome, Counter> = "resume_tokens", "Resume tokens shown, by outcome";
    disconnects: Family<Outcome, Counter> = "disconnects", "Identities disconnected or kicked by admins";
    signals: Family<Outcome, Counter> = "p2p_signals", "Negotiation frames, by outcome";
    relayed_bytes: Family<Cause, Counter> = "relayed_bytes", "Bytes written to nodes for others, by cause";
    stream_records: Counter = "stream_records", "Records of streams passed on";
    stream_records_dropped: Family<Cause, Counter> = "stream_records_dropped", "Records of streams not passed on, by cause";
    stream_bytes_over_rate: Counter = "stream_bytes_over_rate", "Bytes of records of streams whose credit waits, since their members sent more than their rate";
    streams_waiting: Gauge = "streams_waiting", "Streams of which records wait for their recipients";
    stream_bytes_queued: Gauge = "stream_bytes_queued", "Bytes of records of streams that wait for their recipients";
    sweeps: Counter = "ttl_sweeps", "Expiry sweeps, by batch";
    queue_depth: Gauge = "queue_depth", "Deliveries waiting";
    db_healthy: Gauge = "db_healthy", "1 while the database answers";
    database_bytes: Gauge = "database_bytes", "Size of the database and its log on disk";
    free_bytes: Gauge = "data_free_bytes", "Free space where the data folder is";
    uptime: Gauge = "uptime_seconds", "Time since the start";
    // Inventory B-166 names these too. What would count in them is not built, or on purpose never
    // will be: they stay zero, so that a dashboard made for the inventory finds them.
    dropped_by_grant: Counter = "messages_dropped_by_grant", "Envelopes that a grant kept back";
    legacy_auth: Counter = "legacy_auth_hits", "Hellos by an older way to sign in: there is none";
    hooks: Counter = "hook_requests", "Webhook requests";
    hooks_limited: Counter = "hook_requests_rate_limited", "Webhook requests over their rate";
}

/// Codes that hellos are refused with most: shown as zero from the start, so that a rate over them
/// sees the first one. Others appear with their first refusal.
const CONNECTION_CODES: [&str; 10] = [
    code::ALREADY_CONNECTED,
    code::BAD_BINDING,
    code::BAD_CHALLENGE,
    code::BAD_SIGNATURE,
    code::CAPACITY,
    code::HELLO_TIMEOUT,
    code::MALFORMED,
    code::STALE_INSTANCE,
    code::TIMESTAMP_SKEW,
    code::UNAUTHORIZED,
];
/// As [`CONNECTION_CODES`], for envelopes.
const MESSAGE_CODES: [&str; 9] = [
    code::BAD_ENVELOPE,
    code::CONFLICT,
    code::EXPIRED,
    code::FORBIDDEN,
    code::QUEUE_FULL,
    code::RATE_LIMITED,
    code::TOO_LARGE,
    code::UNAVAILABLE,
    code::UNKNOWN_TARGET,
];
/// As [`CONNECTION_CODES`]: all there are.
const PRIORITIES: [&str; 3] = ["now", "next", "low"];

impl Metrics {
    /// Makes the known label values, and what never changes.
    fn prepare(&mut self) {
        for reason in CONNECTION_CODES {
            drop(self.connections_rejected.get_or_create(&Reason { reason }));
        }
        for reason in MESSAGE_CODES {
            drop(self.rejected.get_or_create(&Reason { reason }));
        }
        for priority in PRIORITIES {
            drop(self.accepted.get_or_create(&ByPriority { priority }));
        }
        for cause in [Cause::STREAM, Cause::MESSAGE, Cause::RECEIPT, Cause::NEGOTIATION] {
            drop(self.relayed(cause));
        }
        for cause in Cause::DROPPED {
            drop(self.dropped_records(cause));
        }
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        self.registry.register("build", "What runs here", version);
    }

    /// Where bytes are counted that were written to a node for others.
    pub(crate) fn relayed(&self, cause: &'static str) -> impl Deref<Target = Counter> {
        self.relayed_bytes.get_or_create(&Cause { cause })
    }

    /// Where records are counted that were not passed on.
    pub(crate) fn dropped_records(&self, cause: &'static str) -> impl Deref<Target = Counter> {
        self.stream_records_dropped.get_or_create(&Cause { cause })
    }

    /// The text of `/metrics`, with families of others behind the broker's own.
    pub(crate) fn render(&self, more: &str) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode_registry(&mut out, &self.registry);
        out.push_str(more);
        let _ = text::encode_eof(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_series_of_the_inventory_are_there_and_zero() {
        let text = Metrics::default().render("");
        for line in [
            "broker_connections_total 0",
            "broker_connections_rejected_total{reason=\"capacity\"} 0",
            "broker_connections_active 0",
            "broker_messages_routed_total{priority=\"next\"} 0",
            "broker_messages_rejected_total{reason=\"unavailable\"} 0",
            "broker_messages_dropped_by_grant_total 0",
            "broker_legacy_auth_hits_total 0",
            "broker_queue_depth 0",
            "broker_ttl_sweeps_total 0",
            "broker_hook_requests_total 0",
            "broker_hook_requests_rate_limited_total 0",
            "broker_db_healthy 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
        assert!(text.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.connections.inc();
        metrics.rejected.get_or_create(&Reason { reason: code::OFFLINE }).inc();
        for _ in 0..2 {
            let text = metrics.render("turn_x 1\n");
            assert!(text.contains("\nbroker_connections_total 1\n"), "{text}");
            assert!(text.contains("{reason=\"offline\"} 1\n"), "{text}");
            assert!(text.ends_with("turn_x 1\n# EOF\n"), "{text}");
        }
    }
}
