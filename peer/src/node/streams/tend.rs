//! What keeps a stream on its links, and the paths in use.

use std::sync::{Arc, Weak};

use futures_util::future::join_all;
use meshwire_signaling::PublicKey;
use meshwire_signaling::stream::code;
use meshwire_transport::direct::PathInfo;
use meshwire_transport::link::{MessageLink, PathKind};
use meshwire_transport::stream::{Live, Stream};
use tokio::sync::watch;
use tokio::time::{Duration, sleep, timeout};

use super::handle::{StreamHandle, StreamInfo};
use super::table::{Full, Streams, Way};
use crate::node::mesh::Mesh;

/// How often streams are looked at for what they have moved.
const LOOK: Duration = Duration::from_secs(1);
/// How long to wait after a direct path has let go of a stream.
const AGAIN: Duration = Duration::from_secs(1);
/// How long streams have to say that the node closes.
const FAREWELL: Duration = Duration::from_millis(500);

/// Starts a stream, as one that only says no or not, and keeps it on its links until it is over. Must be called
/// inside a tokio runtime.
pub(super) fn start(
    mesh: &Arc<Mesh>,
    info: StreamInfo,
    stream: Stream,
    refusal: bool,
) -> Result<StreamHandle, Full> {
    let live = Live::start(stream);
    let (tell, path) = watch::channel(None);
    let (key, own, peer, member) = ((info.id, info.opened), info.own, info.peer, info.member);
    let handle = StreamHandle::new(Arc::new(info), live.clone(), path);
    if let Err(full) = mesh.streams.insert(handle.clone(), refusal) {
        // It has no link, so nobody hears it: it is over at once, and keeps nothing.
        live.reset(code::NONE, "");
        live.hint_gone();
        return Err(full);
    }
    // In place before anybody can answer.
    let relay = mesh.link.carry(live.clone(), own, peer);
    // Who has opened it hears of it by the path that the acceptor puts it on.
    let way = (!key.1 && member != mesh.row.self_key).then(|| mesh.streams.way(&member));
    let streams: Weak<Streams> = Arc::downgrade(&mesh.streams);
    mesh.streams.spawn(async move {
        let riding = async {
            match way {
                Some(way) => ride(&live, way).await,
                None => live.over().await,
            }
        };
        tokio::join!(riding, tell_paths(&live, tell));
        drop(relay);
        if let Some(streams) = streams.upgrade() {
            streams.remove(&key);
        }
    });
    Ok(handle)
}

/// Tells which path is in use, until the stream is over.
async fn tell_paths(live: &Live, tell: watch::Sender<Option<PathKind>>) {
    let mut known = None;
    while !live.is_over() {
        known = live.path_other_than(known).await;
        tell.send_replace(known);
    }
}

/// Keeps a stream that we have accepted on the direct path that is up, until it is over.
async fn ride(live: &Live, mut ways: watch::Receiver<Option<Way>>) {
    while !live.is_over() {
        let way = ways.borrow_and_update().clone();
        let carried = way.map(|way| way.carry(live));
        let ended = async {
            match &carried {
                // Ends a little after the stream: the last records are on their way.
                Some(carried) => carried.ended().await,
                None => live.over().await,
            }
        };
        tokio::select! {
            biased;
            Ok(()) = ways.changed() => continue,
            () = ended => {}
        }
        drop(carried);
        // The peer does not know it yet, or any more; or the path is about to go.
        tokio::select! {
            biased;
            () = live.over() => {}
            Ok(()) = ways.changed() => {}
            () = sleep(AGAIN) => {}
        }
    }
}

/// Lets a direct path carry streams while it is heard, for ever.
pub(in crate::node) async fn serve(
    mesh: Arc<Mesh>,
    peer: PublicKey,
    link: Arc<dyn MessageLink>,
    way: Option<Way>,
    mut info: watch::Receiver<PathInfo>,
    mut alive: watch::Receiver<()>,
) {
    let serving = async {
        let Some(way) = way else { return };
        let find = |id: &_| mesh.streams.find(id, &peer);
        while info.wait_for(|now| !now.silent).await.is_ok() {
            // One that was replaced may still bring what is on it.
            let current = mesh.paths.is_live(&peer, &link);
            let up = current.then(|| mesh.streams.way_up(peer, &way));
            tokio::select! {
                biased;
                gone = info.wait_for(|now| now.silent) => if gone.is_err() { return },
                () = way.serve(&find) => return,
            }
            drop(up);
        }
    };
    tokio::select! {
        biased;
        // Given up: a dead one would not say so for many seconds.
        _ = alive.wait_for(|()| false) => {}
        () = serving => {}
    }
    std::future::pending().await
}

/// Has paths in use stay up, and sought where there is none; runs until it is dropped.
pub(in crate::node) async fn keep(mesh: Arc<Mesh>) {
    loop {
        mesh.streams.some().await;
        sleep(LOOK).await;
        for member in mesh.streams.busy() {
            mesh.path_used(&member);
        }
        mesh.streams.end_others(|key| mesh.speaks_as(key));
    }
}

/// Ends all streams of a mesh; whoever is there hears it.
pub(in crate::node) async fn close(mesh: &Mesh) {
    let (lives, mut tasks) = mesh.streams.shut();
    mesh.services.streams.look();
    // One that is done here waits for the other side's word alone: both have everything.
    for live in lives.iter().filter(|live| !live.is_done()) {
        live.reset(code::NONE, "the node has closed");
    }
    let _ = timeout(FAREWELL, join_all(lives.iter().map(Live::over))).await;
    tasks.shutdown().await;
    mesh.streams.clear();
}
