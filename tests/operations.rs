//! What whoever runs a broker relies on: logs, metrics with their dashboard and alerts, units,
//! backups and `broker --check`.

// Helpers fail their test, as assertions do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

#[path = "operations/backup.rs"]
mod backup;
#[path = "operations/check.rs"]
mod check;
#[path = "operations/logs.rs"]
mod logs;
#[path = "operations/series.rs"]
mod series;
#[path = "operations/units.rs"]
mod units;

use std::path::PathBuf;

/// A file of docs/operations.
fn document(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/operations").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
