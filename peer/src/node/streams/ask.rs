//! Streams as the local API and the command line see them.

use meshwire_signaling::attest::capability;
use meshwire_signaling::stream::code;
use meshwire_transport::direct::Reach;
use meshwire_transport::link::PathKind;

use super::handle::StreamHandle;
use crate::api::{
    ApiError, CloseStream, ErrorKind, ListStreams, PeerPath, PeerPathKind, StreamProgress,
    StreamRow, StreamState,
};
use crate::core::resolve::MIN_PREFIX;
use crate::node::Node;

/// What the other side hears where nobody says why.
const CLOSED: &str = "closed by its owner";

impl Node {
    /// The streams that are open here: for a session its own.
    ///
    /// # Errors
    /// [`ApiError`] if the mesh is unknown, or for a session that has ended.
    pub async fn list_streams(&self, ask: ListStreams) -> Result<Vec<StreamRow>, ApiError> {
        let meshes: Vec<_> =
            self.scope(ask.mesh.as_deref())?.iter().map(|mesh| mesh.id()).collect();
        let mut streams = self.streams()?;
        streams.retain(|stream| meshes.contains(&stream.info().mesh));
        Ok(streams.iter().map(|stream| self.stream_row(stream)).collect())
    }

    /// Ends a stream in both directions; both sides hear why. Says what it was.
    ///
    /// # Errors
    /// [`ApiError`]: `stream_not_found`, `stream_ambiguous`; `capability_missing` for a session that may not `dm`.
    pub async fn close_stream(&self, ask: CloseStream) -> Result<StreamRow, ApiError> {
        self.may(capability::DM)?;
        let streams = self.streams()?;
        let stream = pick(&ask.id, &streams)?;
        let row = self.stream_row(stream);
        let reason = ask.reason.as_deref().filter(|r| !r.is_empty()).unwrap_or(CLOSED);
        stream.reset(code::NONE, reason);
        Ok(row)
    }

    /// A stream as it is shown.
    pub(crate) fn stream_row(&self, stream: &StreamHandle) -> StreamRow {
        let info = stream.info();
        let broken = stream.error().is_some() || stream.stats().over;
        StreamRow {
            id: info.id,
            name: info.name.clone(),
            mesh: info.mesh,
            mesh_name: info.mesh_name.clone(),
            peer: info.peer_name.clone(),
            peer_key: info.peer,
            own_key: info.own,
            opened: info.opened,
            since: info.since,
            priority: stream.priority(),
            state: if broken { StreamState::Ending } else { StreamState::Open },
            progress: self.stream_progress(stream),
        }
    }

    /// How far a stream is, with what its direct path says of itself.
    #[must_use]
    pub fn stream_progress(&self, stream: &StreamHandle) -> StreamProgress {
        let (info, stats) = (stream.info(), stream.stats());
        let direct = || {
            let mesh = self.meshes().into_iter().find(|mesh| mesh.id() == info.mesh)?;
            let path = mesh.paths.live(&info.member)?;
            let turn = path.reach == Reach::Relayed;
            let kind = if turn { PeerPathKind::Turn } else { PeerPathKind::Direct };
            Some(PeerPath { kind, rtt_us: u64::try_from(path.rtt.as_micros()).ok() })
        };
        let path = stats.path.map(|kind| match kind {
            PathKind::Relay => PeerPath { kind: PeerPathKind::Relay, rtt_us: None },
            // It may have gone since.
            _ => direct().unwrap_or(PeerPath { kind: PeerPathKind::Direct, rtt_us: None }),
        });
        StreamProgress { written: stats.written, received: stats.received, path }
    }
}

/// The stream that `text` means: its id, or the unique start of it.
fn pick<'a>(text: &str, all: &'a [StreamHandle]) -> Result<&'a StreamHandle, ApiError> {
    let asked = text.trim().to_ascii_lowercase();
    if asked.len() < MIN_PREFIX || !asked.bytes().all(|b| b.is_ascii_hexdigit()) {
        let text = format!(
            "{text:?} is no stream's id: give its 32 hex digits or at least the first {MIN_PREFIX}, \
             see meshwire stream list"
        );
        return Err(ApiError::new(ErrorKind::Invalid, "bad_stream_id", text));
    }
    let fits = |s: &&StreamHandle| s.info().id.to_string().starts_with(&asked);
    let found: Vec<_> = all.iter().filter(fits).collect();
    let Some(first) = found.first() else {
        let text = format!("no stream {text:?} is open here: see meshwire stream list");
        return Err(ApiError::new(ErrorKind::NotFound, "stream_not_found", text));
    };
    // Two identities of one node may have both of its ends: ending one ends the other.
    if found.iter().any(|s| s.info().id != first.info().id) {
        let ids: Vec<_> = found.iter().map(|s| s.info().id.to_string()).collect();
        let text = format!("{text:?} is ambiguous: {}; give more of it", ids.join(", "));
        return Err(ApiError::new(ErrorKind::Ambiguous, "stream_ambiguous", text));
    }
    Ok(first)
}
