//! Looks at a broker's setup without serving and without changing anything.
//!
//! Each part looks at one thing and gives one [`Check`]; none stops the others. What the first start
//! makes (folder, key, certificate, database) may be missing, as long as nothing depends on it.

mod certificate;
pub(crate) mod database;
mod dates;
mod files;
mod system;

use meshwire_transport::net::Net;
use serde::Serialize;

use crate::config::{BrokerConfig, Database};
use crate::tls::Identity;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// The broker starts, but somebody should know.
    Warn,
    /// The broker does not start, or would do harm.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// What: `data`, `key`, `certificate`, `database`, `migrations`, `listen`, `url`, `disk`,
    /// `descriptors`.
    pub name: &'static str,
    /// How it is.
    pub outcome: Outcome,
    /// What was found, for people.
    pub found: String,
    /// What to do, unless it is well.
    pub advice: Option<String>,
}

impl Check {
    /// Something else that whoever runs the broker looked at; with advice unless it is well.
    #[must_use]
    pub fn new(
        name: &'static str,
        outcome: Outcome,
        found: impl Into<String>,
        advice: Option<String>,
    ) -> Self {
        Self { name, outcome, found: found.into(), advice }
    }

    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Ok, found: found.into(), advice: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self { name, outcome: Outcome::Warn, found: found.into(), advice }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { outcome: Outcome::Fail, ..Self::warn(name, found, advice) }
    }
}

/// Checks what a broker with this configuration would find. A broker may be running on the same
/// data meanwhile.
pub async fn check(net: &dyn Net, config: &BrokerConfig) -> Vec<Check> {
    let kept = config.database == Database::Sqlite;
    let (key, own) = files::key(&config.data, kept);
    let (certificate, identity): (_, Option<Identity>) = certificate::check(net.unix_ms(), config);
    let mut all = vec![files::data(&config.data), key, certificate];
    all.extend(if kept {
        database::check(&config.data).await
    } else {
        vec![Check::warn(
            "database",
            "kept in memory",
            "all is lost when the broker ends: leave out --database memory",
        )]
    });
    all.push(system::listen(net, config.listen, identity.as_ref(), own).await);
    all.push(certificate::url(config, identity.as_ref()));
    all.push(system::disk(&config.data));
    all.push(system::descriptors(config.policy.sockets));
    all
}
