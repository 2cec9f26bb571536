//! What may be wrong with a node, and what to do about it (inventory C-035).
//!
//! [`examine`] looks at a home, its background node, its database and keys, and the broker of each
//! mesh. It mends nothing: it makes no home, opens the database for reading alone (SQLite may leave
//! its empty log beside it), and takes the home's lock only to see that nobody has it. So it works
//! beside a background node, without one, and on a home that every other verb refuses. What it finds
//! is plain data, and holds no secrets; [`judge`] has the thresholds.

mod broker;
mod files;
pub mod judge;
mod node;

use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use meshwire_signaling::Hash;
use meshwire_transport::net::Net;
use serde::Serialize;

use crate::core::resolve::MIN_PREFIX;
use crate::home::Home;
use crate::store::MeshRow;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and may soon not.
    Warn,
    /// It does not work, or is not safe.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, a word that stays the same between versions.
    pub name: &'static str,
    /// The mesh that it concerns, if it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// How it came out.
    pub result: Verdict,
    /// What was found, for people.
    pub found: String,
    /// What to do, where there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    /// All is well.
    #[must_use]
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, mesh: None, result: Verdict::Ok, found: found.into(), advice: None }
    }

    /// It works, but `advice` should be followed.
    #[must_use]
    pub fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { result: Verdict::Warn, advice: Some(advice.into()), ..Self::ok(name, found) }
    }

    /// It does not work until `advice` is followed.
    #[must_use]
    pub fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { result: Verdict::Fail, ..Self::warn(name, found, advice) }
    }

    /// The same about a mesh.
    #[must_use]
    pub fn about(self, mesh: &MeshRow) -> Self {
        Self { mesh: Some(mesh.name.clone()), ..self }
    }
}

/// Looks at the home at `path`, which need not exist, and at the broker of each of its meshes, or of
/// the one named by `mesh` (name, id, or an id's start). Brokers are asked at the same time, so this
/// takes as long as the slowest, at most about half a minute.
pub async fn examine(net: &Arc<dyn Net>, path: &Path, mesh: Option<&str>) -> Vec<Check> {
    let disk = files::disk(path);
    if !path.exists() {
        let found = format!("{} is not there yet", path.display());
        let advice = "make it with meshwire join LINK or meshwire mesh create NAME, or name \
                      another with --home";
        return vec![Check::warn("home", found, advice), disk];
    }
    let home = Home::unchecked(path);
    let mut checks = vec![files::folder(&home), files::private(&home), disk];
    let (node, status) = node::holder(&**net, &home).await;
    checks.push(node);
    let (found, meshes) = node::database(&home).await;
    checks.extend(found);
    let Some(meshes) = meshes else { return checks };
    let meant: Vec<&MeshRow> = meshes.iter().filter(|m| means(mesh, m)).collect();
    if let (true, Some(named)) = (meant.is_empty(), mesh) {
        let names: Vec<&str> = meshes.iter().map(|m| m.name.as_str()).collect();
        let advice = match names.as_slice() {
            [] => "it is in none yet: meshwire join LINK".to_owned(),
            names => format!("it is in: {}", names.join(", ")),
        };
        checks.push(Check::fail("mesh", format!("this node is in no mesh {named:?}"), advice));
    } else if meant.is_empty() {
        let advice = "meshwire join LINK, or meshwire mesh create NAME";
        checks.push(Check::warn("mesh", "this node is in no mesh yet", advice));
    }
    let brokers = join_all(meant.iter().map(|m| broker::examine(&**net, m))).await;
    for (mesh, broker) in meant.into_iter().zip(brokers) {
        checks.push(node::key(&home, mesh).about(mesh));
        checks.extend(broker.into_iter().map(|c| c.about(mesh)));
        checks.extend(status.as_ref().and_then(|s| node::link(s, mesh)).map(|c| c.about(mesh)));
    }
    checks
}

/// Where the broker of one of a home's meshes is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshBroker {
    /// The mesh.
    pub mesh: String,
    /// The broker's address, as the invite had it.
    pub url: String,
    /// Its TLS key, where it is self-signed.
    pub pin: Option<Hash>,
}

/// The brokers of the meshes of the home at `path`, or of the one named by `mesh`, read as
/// [`examine`] does; none where that fails.
pub async fn brokers(path: &Path, mesh: Option<&str>) -> Vec<MeshBroker> {
    if !path.exists() {
        return Vec::new();
    }
    let (_, meshes) = node::database(&Home::unchecked(path)).await;
    let meant = meshes.into_iter().flatten().filter(|m| means(mesh, m));
    meant.map(|m| MeshBroker { mesh: m.name, url: m.broker_url, pin: m.pin }).collect()
}

fn means(named: Option<&str>, mesh: &MeshRow) -> bool {
    let id = |named: &str| named.len() >= MIN_PREFIX && mesh.mesh.to_string().starts_with(named);
    named.is_none_or(|named| mesh.name == named || id(named))
}
