//! What happens at the node, as server-sent events (inventory C-012 to C-014).
//!
//! A stream listens first, then reads from the inbox what surfaced after the place that the caller
//! names, then goes on with what it has heard meanwhile: no message is missed or comes twice. It reads
//! on only as fast as its client does; one that falls too far behind is told so and closed, and finds
//! what it missed by resuming.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::Sse;
use axum::response::sse::{Event as Line, KeepAlive};
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Duration;

use super::failure::Failure;
use super::gate::{Gate, stopped};
use super::guard::only;
use super::limits::Place;
use super::shapes::{LaggedEvent, ReadyEvent, Shape};
use crate::api::{ApiError, Inbox};
use crate::node::{Event, Node, Viewer};

/// Where to resume, as browsers' readers send it by themselves.
pub(super) const RESUME_HEADER: &str = "last-event-id";
/// How often a silent stream says that it is alive.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Messages read from the inbox at a time.
const PAGE: u32 = 50;

pub(super) async fn events(
    State(gate): State<Arc<Gate>>,
    Extension(node): Extension<Node>,
    Extension(place): Extension<Place>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Line, Infallible>> + use<>>, Failure> {
    let after = match headers.contains_key(RESUME_HEADER) {
        true => named(&headers)?,
        false => newest(&node).await?,
    };
    let feed = Feed {
        live: node.events(),
        viewer: node.viewer(),
        node,
        after,
        phase: Phase::Replay,
        ready: VecDeque::from([Shape::Ready(ReadyEvent { after })]),
        stopping: gate.stopping(),
        _place: place,
    };
    let lines = unfold(feed, |mut feed| async move {
        let shape = feed.next().await?;
        Some((Ok(line(&shape)), feed))
    });
    Ok(Sse::new(lines).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// The place that the caller names.
fn named(headers: &HeaderMap) -> Result<u64, Failure> {
    let id = only(headers, HeaderName::from_static(RESUME_HEADER));
    let bad = || Failure::invalid("bad_event_id", "Last-Event-ID is the id of an earlier event");
    id.and_then(|id| id.trim().parse().ok()).ok_or_else(bad)
}

/// The place of the newest message that the caller may see.
async fn newest(node: &Node) -> Result<u64, ApiError> {
    let ask = Inbox { peek: true, all: true, limit: Some(1), ..Inbox::default() };
    Ok(node.inbox(ask).await?.last().map_or(0, |m| m.order))
}

fn line(shape: &Shape) -> Line {
    let line = Line::default().event(shape.name());
    let line = match shape.id() {
        Some(id) => line.id(id.to_string()),
        None => line,
    };
    // These shapes have text keys only, which is all that JSON may refuse.
    line.json_data(shape).unwrap_or_default()
}

/// What a stream is doing.
enum Phase {
    /// Reading from the inbox.
    Replay,
    /// Listening.
    Live,
    /// Nothing follows.
    Over,
}

struct Feed {
    node: Node,
    viewer: Viewer,
    live: Receiver<Event>,
    /// The place of the last message that was given out.
    after: u64,
    phase: Phase,
    ready: VecDeque<Shape>,
    stopping: watch::Receiver<bool>,
    _place: Place,
}

impl Feed {
    async fn next(&mut self) -> Option<Shape> {
        loop {
            if let Some(shape) = self.ready.pop_front() {
                return Some(shape);
            }
            match self.phase {
                Phase::Replay => self.replay().await,
                Phase::Live => self.listen().await,
                Phase::Over => return None,
            }
        }
    }

    async fn replay(&mut self) {
        let ask = Inbox {
            after: Some(self.after),
            peek: true,
            all: true,
            limit: Some(PAGE),
            ..Inbox::default()
        };
        match self.node.inbox(ask).await {
            Ok(page) => {
                match page.last() {
                    Some(last) => self.after = last.order,
                    None => self.phase = Phase::Live,
                }
                self.ready.extend(page.into_iter().map(|m| Shape::Message(Box::new(m))));
            }
            Err(e) => {
                tracing::warn!(error = %e, "a stream of events ends: the inbox cannot be read");
                self.phase = Phase::Over;
            }
        }
    }

    async fn listen(&mut self) {
        let heard = tokio::select! {
            heard = self.live.recv() => heard,
            () = stopped(&mut self.stopping) => Err(RecvError::Closed),
        };
        match heard {
            Ok(event) => self.hear(event),
            Err(RecvError::Lagged(missed)) => {
                self.ready.push_back(Shape::Lagged(LaggedEvent { missed }));
                self.phase = Phase::Over;
            }
            Err(RecvError::Closed) => self.phase = Phase::Over,
        }
    }

    fn hear(&mut self, event: Event) {
        if let (Event::Session { key, started: false, .. }, Viewer::Session { key: own, .. }) =
            (&event, &self.viewer)
            && key == own
        {
            // Nothing is said to a session that has ended.
            self.phase = Phase::Over;
            return;
        }
        if !event.concerns(&self.viewer) {
            return;
        }
        if let Event::Message(row) = &event {
            match row.order {
                Some(order) if order > self.after => self.after = order,
                // It was read from the inbox.
                _ => return,
            }
        }
        self.ready.push_back(Shape::of(&self.node, event));
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::{Asker, Kind, Limits};
    use super::*;
    use tokio::sync::broadcast;

    #[tokio::test]
    async fn a_reader_that_lags_is_told_and_closed() {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::at(&dir.path().join("home")).await.unwrap();
        let (tell, live) = broadcast::channel(8);
        let (_stop, stopping) = watch::channel(false);
        let mut limits = Limits::<()>::new(tokio::time::Instant::now());
        let place = limits.admit(&Asker::Owner, Kind::Stream, tokio::time::Instant::now());
        let mut feed = Feed {
            viewer: node.viewer(),
            node: node.clone(),
            live,
            after: 0,
            phase: Phase::Replay,
            ready: VecDeque::new(),
            stopping,
            _place: place.ok().unwrap(),
        };
        let mesh = meshwire_signaling::MeshId([7; 32]);
        let link = |up| Event::Link { mesh, up, reason: None };
        tell.send(link(true)).unwrap();
        assert!(matches!(feed.next().await, Some(Shape::Link(_))));
        for _ in 0..20 {
            tell.send(link(false)).unwrap();
        }
        let Some(Shape::Lagged(lagged)) = feed.next().await else { panic!("it lags") };
        assert_eq!(lagged.missed, 12);
        assert!(feed.next().await.is_none(), "and nothing follows");
        node.close().await;
    }
}
