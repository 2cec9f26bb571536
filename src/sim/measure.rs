//! Measures a lab's links before a scenario counts.

use std::sync::Arc;

use meshwire_netsim::lab::{Expected, Lab};
use meshwire_netsim::scenario::{Map, Scenario};
use tokio::task::spawn_blocking;

use super::report::SimError;
use super::run::Options;

/// Does what blocks for long on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SimError> {
    spawn_blocking(work).await.map_err(|e| SimError::Broken(e.to_string()))
}

/// Measures the way from each host to the broker's, or to the first public one; equal ways once.
pub(super) async fn measure(
    lab: &Arc<Lab>,
    scenario: &Scenario,
    map: &Map,
    options: &Options,
) -> Result<(), SimError> {
    let named = scenario.broker.as_ref().and_then(|b| map.host(&b.host));
    let Some(target) = named.or_else(|| map.hosts().map(|(_, m)| m).find(|m| m.public)) else {
        return Ok(());
    };
    let mut known: Vec<Expected> = Vec::new();
    for (name, machine) in map.hosts().filter(|(_, m)| m.id != target.id) {
        let (from, to) = (machine.id, target.id);
        // Hosts that the target cannot be reached from are the scenario's business.
        let Ok(expected) = lab.expected(from, to) else { continue };
        if known.contains(&expected) {
            continue;
        }
        options.tell(|| format!("{}: measuring the links of {name}", scenario.name));
        known.push(expected);
        let lab = Arc::clone(lab);
        let verified = blocking(move || lab.verify(from, to, &expected).map(drop)).await?;
        verified.map_err(|e| SimError::SetUp(format!("the links of {name}: {e}")))?;
    }
    Ok(())
}
