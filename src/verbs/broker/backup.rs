//! `meshwire broker --backup DIR`

use std::path::Path;

use meshwire_coord::{Backup, BrokerConfig, backup};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;

/// What `--json` prints.
#[derive(Serialize)]
struct BackedUp {
    event: &'static str,
    #[serde(flatten)]
    backup: Backup,
}

pub(super) async fn run(
    cx: &Context,
    config: &BrokerConfig,
    target: &Path,
) -> anyhow::Result<Exit> {
    let progress = cx.progress("copying the database");
    let backup = backup(&config.data, &config.tls, target).await?;
    drop(progress);
    let done = BackedUp { event: "backed_up", backup };
    cx.out.show(&done, || {
        let Backup { folder, files, database_bytes } = &done.backup;
        format!(
            "Backed up to {}: {} ({database_bytes} bytes of database).\n\
             Whoever reads it can be this broker: keep it as you keep its key.",
            folder.display(),
            files.join(", ")
        )
    })?;
    Ok(Exit::Ok)
}
