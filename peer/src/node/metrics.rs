//! What a node's `/v1/metrics` shows, in OpenMetrics text: its direct paths and streams.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Node;
use crate::path::{Cause, What};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pairs {
    mesh: String,
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Negotiations {
    mesh: String,
    result: &'static str,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ends {
    mesh: String,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMesh {
    mesh: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Moved {
    mesh: String,
    path: &'static str,
}

impl Node {
    /// Pairs by path, negotiations by result and cause, what the relay carried that a direct path
    /// could have, and streams, of each mesh.
    #[must_use]
    pub fn metrics(&self) -> String {
        let pairs = Family::<Pairs, Gauge>::default();
        let negotiations = Family::<Negotiations, Counter>::default();
        let ends = Family::<Ends, Counter>::default();
        let avoidable = Family::<OfMesh, Counter>::default();
        let streams = Family::<OfMesh, Gauge>::default();
        let moved = Family::<Moved, Counter>::default();
        for mesh in self.scope(None).unwrap_or_default() {
            let name = || mesh.row.name.clone();
            let counts = mesh.paths.counts();
            let relay = mesh.online_count().unwrap_or(0).saturating_sub(1);
            let relay = relay.saturating_sub(counts.direct.saturating_add(counts.turn));
            for (path, n) in [("direct", counts.direct), ("turn", counts.turn), ("relay", relay)] {
                let n = i64::try_from(n).unwrap_or(i64::MAX);
                pairs.get_or_create(&Pairs { mesh: name(), path }).set(n);
            }
            let tally = mesh.paths.tally();
            let negotiation = |result, cause, count| {
                let labels = Negotiations { mesh: name(), result, cause };
                negotiations.get_or_create(&labels).inc_by(count);
            };
            negotiation("up", "", tally.count(What::Up));
            negotiation("moved", "", tally.count(What::Moved));
            negotiation("stayed", "", tally.count(What::Stayed));
            for cause in Cause::ALL {
                negotiation("failed", cause.as_str(), tally.count(What::Failed(cause)));
                let labels = Ends { mesh: name(), cause: cause.as_str() };
                ends.get_or_create(&labels).inc_by(tally.count(What::Down(cause)));
            }
            avoidable.get_or_create(&OfMesh { mesh: name() }).inc_by(tally.avoidable_bytes());
            let (living, bytes) = mesh.streams.figures();
            let living = i64::try_from(living).unwrap_or(i64::MAX);
            streams.get_or_create(&OfMesh { mesh: name() }).set(living);
            for (path, n) in [("direct", bytes.direct), ("relay", bytes.relay)] {
                moved.get_or_create(&Moved { mesh: name(), path }).inc_by(n);
            }
        }
        let mut registry = Registry::with_prefix("meshwire");
        registry.register("pairs", "Peers that are online, by the path that messages take", pairs);
        registry.register("negotiations", "Direct paths sought, by result and cause", negotiations);
        registry.register("paths_ended", "Direct paths that were up and ended, by cause", ends);
        registry.register(
            "relayed_avoidable_bytes",
            "Bytes of messages that went over the relay to a peer that a direct path could have led to",
            avoidable,
        );
        registry.register("streams", "Streams that live", streams);
        registry.register(
            "stream_bytes",
            "Bytes that programs wrote to streams or that came in them, by the path in use",
            moved,
        );
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &registry);
        out
    }
}
