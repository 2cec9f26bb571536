//! Who has the home, what is in its database, and its keys.

use std::time::Duration;

use meshwire_transport::net::Net;
use tokio::time::timeout;

use super::{Check, judge};
use crate::agent::Agent;
use crate::api::{ApiError, Done, Status};
use crate::client::Client;
use crate::home::Home;
use crate::keyring::Keyring;
use crate::store::{MeshRow, SqliteStore, StoreError};

/// How long a verb that has the home for a moment is waited for.
const MOMENT: Duration = Duration::from_secs(2);
/// Between two looks at the lock.
const POLL: Duration = Duration::from_millis(50);
/// A node that has not answered by now hangs.
const ANSWER: Duration = Duration::from_secs(5);
/// This program's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who works with the home; also the background node's status, if it is one.
pub(super) async fn holder(net: &dyn Net, home: &Home) -> (Check, Option<Status>) {
    let until = net.now() + MOMENT;
    loop {
        match free(home) {
            Ok(true) => {
                let found = "not up; verbs do their work themselves, and mail waits at the broker";
                return (Check::ok("node", found), None);
            }
            Ok(false) => {}
            Err(e) => {
                let advice = "see whose it is (ls -l) and run this as that user";
                return (Check::fail("node", e.message, advice), None);
            }
        }
        let agent = Agent::Remote(Client::new(home.socket()));
        let error = match timeout(ANSWER, agent.status(Done {})).await {
            Ok(Ok(status)) => {
                let check = judge::node_version(status.pid, &status.version, VERSION);
                return (check, Some(status));
            }
            Ok(Err(e)) => e.message,
            Err(_) => format!("it did not answer within {} s", ANSWER.as_secs()),
        };
        if net.now() >= until {
            let found = format!("something has this home, and is no node that answers: {error}");
            let advice = "if it is meshwire inbox --follow, all is well; else end that process \
                          (fuser on node.lock names it), then meshwire up";
            return (Check::warn("node", found, advice), None);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether nobody has the home. Makes no lock file: where there is none, nobody has locked it.
fn free(home: &Home) -> Result<bool, ApiError> {
    let never = !home.path().join("node.lock").exists();
    Ok(never || home.try_lock()?.is_some())
}

/// Whether the database can be read, and how old its schema is; also its meshes.
pub(super) async fn database(home: &Home) -> (Vec<Check>, Option<Vec<MeshRow>>) {
    let path = home.database();
    if !path.exists() {
        let found = "there is none yet";
        let advice = "meshwire join LINK or meshwire mesh create NAME makes it";
        return (vec![Check::warn("database", found, advice)], None);
    }
    let seen = match SqliteStore::inspect(&path).await {
        Ok(seen) => seen,
        Err(e @ StoreError::Newer { .. }) => {
            return (vec![Check::fail("schema", e.to_string(), "update meshwire")], None);
        }
        Err(e) => {
            let advice = "restore it from a backup; without one, move it away and join again";
            return (vec![Check::fail("database", e.to_string(), advice)], None);
        }
    };
    let meshes = seen.meshes.len();
    let opens = Check::ok("database", format!("{} is sound; meshes: {meshes}", path.display()));
    let schema = match seen.schema {
        Some(version) if version == seen.known => {
            Check::ok("schema", format!("version {version}, the newest that this program knows"))
        }
        version => {
            let version = version.map_or_else(|| "none".to_owned(), |v| v.to_string());
            let found = format!("version {version}, where this program knows {}", seen.known);
            Check::warn("schema", found, "back it up; the next meshwire up brings it up to date")
        }
    };
    (vec![opens, schema], Some(seen.meshes))
}

/// Whether the mesh's key is there and the one that the mesh knows us by.
pub(super) fn key(home: &Home, mesh: &MeshRow) -> Check {
    let name = "key";
    let advice = "restore the home's folder keys from a backup; without one, this identity is \
                  lost: join again with a new invite and another name";
    let folder = home.keys();
    let loaded = if folder.is_dir() {
        Keyring::open(folder.clone()).and_then(|ring| ring.load(&mesh.mesh))
    } else {
        Ok(None)
    };
    match loaded {
        Ok(Some(key)) if key.public() == mesh.self_key => {
            Check::ok(name, format!("{}, as {}", mesh.self_key.short(), mesh.self_name))
        }
        Ok(Some(key)) => {
            let (got, want) = (key.public().short(), mesh.self_key.short());
            let found = format!("the key file holds {got}, this mesh knows us as {want}");
            Check::fail(name, found, advice)
        }
        Ok(None) => {
            let path = folder.join(format!("{}.key", mesh.mesh));
            Check::fail(name, format!("{} is missing", path.display()), advice)
        }
        Err(e) => Check::fail(name, e.message, advice),
    }
}

/// What the background node says about its link to a mesh's broker.
pub(super) fn link(status: &Status, mesh: &MeshRow) -> Option<Check> {
    let there = status.meshes.iter().find(|m| m.mesh.mesh == mesh.mesh)?;
    let link = judge::plain(&there.link);
    if link == "up" {
        return Some(Check::ok("link", "the node is connected"));
    }
    let why = there.reason.as_deref().map(judge::plain);
    let found = why.map_or_else(|| link.clone(), |why| format!("{link}: {why}"));
    let advice = "the node tries again by itself; the checks of this broker say what is wrong";
    Some(Check::warn("link", found, advice))
}
