//! Doing what the machines of pairs want.

use std::sync::Arc;

use meshwire_signaling::PublicKey;
use meshwire_transport::direct::{DirectPath, PathInfo};
use tokio::sync::watch;
use tokio::time::Duration;

use super::super::events::Event;
use super::super::mesh::Mesh;
use super::super::streams;
use super::{Live, State, attempt, carry};
use crate::path::hedge::patience;
use crate::path::machine::AttemptId;
use crate::path::{Action, Cause};

/// How long a path that was replaced may still bring acks, at most.
const GRACE: Duration = Duration::from_secs(1);

impl Mesh {
    /// Does what a machine wants.
    pub(super) fn act(self: &Arc<Self>, state: &mut State, peer: &PublicKey, todo: Vec<Action>) {
        for action in todo {
            let Some(pair) = state.pairs.get_mut(peer) else { return };
            match action {
                Action::Offer(id) => {
                    let offers = attempt::Way::Offer { better: false };
                    pair.running = attempt::start(self, &mut state.tasks, peer, id, offers);
                }
                Action::Seek(id) => {
                    let offers = attempt::Way::Offer { better: true };
                    pair.running = attempt::start(self, &mut state.tasks, peer, id, offers);
                }
                Action::Answer(id) => {
                    let Some((hash, content)) = pair.offered.take() else { continue };
                    let answers = attempt::Way::Answer(hash, content);
                    pair.running = attempt::start(self, &mut state.tasks, peer, id, answers);
                }
                Action::Abandon { attempt, cause, tell } => {
                    let Some(running) = pair.running.take_if(|r| r.id == attempt) else { continue };
                    if tell {
                        state.spawn(running.bye(self.clone(), *peer, cause));
                    }
                }
                Action::Promote(id) => self.promote(state, peer, id),
                Action::Close(cause) => {
                    if let Some(live) = pair.live.take() {
                        pair.hedger.begin();
                        self.tell_path(peer, None, Some(cause));
                        let mesh = self.clone();
                        let peer = *peer;
                        state.spawn(async move { live.end(&mesh, &peer).await });
                    }
                }
            }
        }
        state.plan(peer, self.relay_up());
        self.paths.changed.notify_one();
    }

    /// Messages go over this try's connection from now on.
    fn promote(self: &Arc<Self>, state: &mut State, peer: &PublicKey, id: AttemptId) {
        let Some(pair) = state.pairs.get_mut(peer) else { return };
        let Some(running) = pair.running.take_if(|r| r.id == id) else { return };
        let Some((path, talk)) = running.into_path() else { return };
        let DirectPath { link, records, events, info } = path;
        self.tell_path(peer, Some(&info.borrow()), None);
        let (alive, given_up) = watch::channel(());
        let grace = pair.live.as_ref().map_or(GRACE, |old| patience(old.rtt()).min(GRACE));
        let watching = carry::watch(self.clone(), *peer, id, info.clone());
        let serving =
            streams::serve(self.clone(), *peer, link.clone(), records, info.clone(), given_up);
        let old = pair.live.replace(Live { talk, link: link.clone(), info, alive });
        pair.hedger.begin();
        pair.relay.clear();
        let carrying = carry::run(self.clone(), *peer, id, link, events);
        state.spawn(async move {
            tokio::select! {
                biased;
                () = carrying => {}
                () = watching => {}
                () = serving => {}
            }
        });
        if let Some(old) = old {
            let (mesh, peer) = (self.clone(), *peer);
            state.spawn(async move {
                tokio::time::sleep(grace).await;
                old.end(&mesh, &peer).await;
            });
        }
        let (mesh, peer) = (self.clone(), *peer);
        state.spawn(async move { mesh.hasten(&peer).await });
        self.wake.notify_one();
    }

    pub(super) fn tell_path(
        &self,
        peer: &PublicKey,
        info: Option<&PathInfo>,
        cause: Option<Cause>,
    ) {
        tracing::info!(
            target: "meshwire::events::path",
            mesh = %self.id().short(), peer = %peer.short(), up = info.is_some(),
            reach = info.map(|i| i.reach.as_str()), cause = cause.map(Cause::as_str)
        );
        if matches!(cause, Some(Cause::LateAcks | Cause::Silent)) {
            // What has befallen it may have befallen the relay's connection, which is needed now.
            self.link.doubt();
        }
        let reach = info.map(|i| i.reach);
        self.services.tell(Event::Path { mesh: self.id(), peer: *peer, reach, cause });
    }

    /// What another path has put off goes by the new one now. The broker refuses mail for half a minute
    /// once too much of it waits, and the recipient would hold back for that time what comes after it.
    async fn hasten(&self, peer: &PublicKey) {
        match self.store().hasten(&self.id(), peer, self.now()).await {
            Ok(0) => {}
            Ok(_) => self.wake.notify_one(),
            Err(e) => tracing::error!(error = %e, "what waits cannot be sent any sooner"),
        }
    }

    /// What a direct path took and nobody acked goes out again, over whatever is up.
    pub(in crate::node) async fn resend(&self, peer: &PublicKey) {
        match self.store().unsend(&self.id(), Some(peer)).await {
            Ok(0) => {}
            Ok(_) => self.wake.notify_one(),
            Err(e) => tracing::error!(error = %e, "what a direct path lost cannot be sent again"),
        }
    }
}
