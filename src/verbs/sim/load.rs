//! Which scenario is meant: a file, or one that is built in.

use std::path::Path;

use meshwire_netsim::scenario::{BUILT_IN, Document, MAX_FILE, built_in};
use meshwire_peer::api::{ApiError, ErrorKind};
use tokio::io::AsyncReadExt as _;

use crate::exit::invalid;

/// Names less alike than this are no suggestion (Jaro-Winkler, 0 to 1).
const ALIKE: f64 = 0.75;

/// The text of a scenario by its file, or by its name where there is no such file.
pub(super) async fn text(named: &str) -> anyhow::Result<String> {
    let file = match tokio::fs::File::open(Path::new(named)).await {
        Ok(file) => file,
        Err(e) => {
            return match built_in(named) {
                Some(text) => Ok(text.to_owned()),
                None if e.kind() == std::io::ErrorKind::NotFound => Err(unknown(named).into()),
                None => Err(anyhow::Error::new(e).context(named.to_owned())),
            };
        }
    };
    // One byte more than is read, so that what is too long is seen to be.
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    let read = file.take(limit).read_to_end(&mut bytes).await;
    read.map_err(|e| anyhow::Error::new(e).context(named.to_owned()))?;
    let wrong =
        |_| invalid("scenario", format!("{named} is not text: a scenario is TOML in UTF-8"));
    Ok(String::from_utf8(bytes).map_err(wrong)?)
}

fn unknown(named: &str) -> ApiError {
    let names = BUILT_IN.iter().map(|(name, _)| *name);
    let alike = names.clone().map(|n| (n, strsim::jaro_winkler(n, named)));
    let near = alike.filter(|(_, l)| *l >= ALIKE).max_by(|a, b| a.1.total_cmp(&b.1));
    let tip = near.map(|(n, _)| format!("; did you mean {n}?")).unwrap_or_default();
    let all = names.collect::<Vec<_>>().join(", ");
    let text =
        format!("there is no file {named}, and no such built-in scenario{tip}; there are {all}");
    ApiError::new(ErrorKind::NotFound, "no_such_scenario", text)
}

/// Reads a scenario.
pub(super) async fn document(named: &str) -> anyhow::Result<Document> {
    let text = text(named).await?;
    let flaws = |e: meshwire_netsim::scenario::Flaws| {
        let each: Vec<String> = e.all().iter().map(|f| format!("{named}: {f}")).collect();
        invalid("scenario", each.join("\n"))
    };
    Ok(Document::parse(&text).map_err(flaws)?)
}

/// Keeps the cells of a scenario's matrix that `set` (`key=value`) names.
pub(super) fn only(mut document: Document, set: &[String]) -> Result<Document, ApiError> {
    for pair in set {
        let wrong =
            || invalid("set", format!("{pair:?}: write --set KEY=VALUE, such as preset=hotel"));
        let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
        document = document.only(key, value).map_err(|e| invalid("set", e))?;
    }
    Ok(document)
}
