//! A node as a program in a lab, and what it is asked.

use std::time::Duration;

use meshwire_netsim::HostId;
use meshwire_netsim::scenario::Paths;
use meshwire_peer::api::{ApiError, Done, ErrorKind, Inbox, Join, MessageStatus};
use meshwire_peer::client::Client;
use tokio::time::{Instant, sleep};

use super::driver::note;
use super::facts::Facts;
use super::process::Process;

/// Between two tries to join.
const AGAIN: Duration = Duration::from_millis(50);
/// Rows of an inbox that are listed at a time.
const ROWS: u32 = 1_000;

/// A node's process, or what it leaves when it is down.
pub(super) struct Program {
    pub(super) host: HostId,
    pub(super) client: Client,
    pub(super) paths: Paths,
    pub(super) running: Option<Process>,
    /// The place in its inbox up to which all is known.
    pub(super) seen: Option<u64>,
}

impl Program {
    /// Joins a mesh. Tries again over a link that loses much, as whoever runs the node would.
    pub(super) async fn join(&self, join: &Join) -> Result<(), ApiError> {
        loop {
            match self.client.join(join).await {
                Err(e) if e.kind == ErrorKind::Unreachable => sleep(AGAIN).await,
                joined => return joined.map(drop),
            }
        }
    }

    /// Notes what it says: its connection, the messages that it sent and got.
    pub(super) async fn look(
        &mut self,
        name: &str,
        facts: &mut Facts,
        begin: Instant,
    ) -> Result<(), ApiError> {
        let status = self.client.status(&Done {}).await?;
        let up = status.meshes.first().is_some_and(|m| m.link == "up");
        facts.link(name, up, begin.elapsed());
        for id in facts.unanswered(name) {
            let message = self.client.message(&MessageStatus { id }).await?;
            note(facts, &message, begin.elapsed());
        }
        let ask = Inbox { peek: true, after: self.seen, limit: Some(ROWS), ..Inbox::default() };
        for row in self.client.inbox(&ask).await? {
            facts.received(name, &row.message, begin.elapsed());
            self.seen = self.seen.max(Some(row.order));
        }
        Ok(())
    }
}
