//! What a node says that is no frame.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use meshwire_signaling::stream::Header;
use meshwire_signaling::stream::carry::{BadCarry, Carry, FRONT, Gone, Way, is_carry};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::super::registry::Shared;
use super::{Desk, Parcel, Routes, gauge, lock};
use crate::core::bulk::{Line, Refused};
use crate::metrics::Cause;

/// What a record costs beside its bytes, if it waits alone in its stream: two names of the stream, and the first block
/// of its queue.
const OVERHEAD: u64 = 1_024;
/// Longest control record: a reset with the longest reason, and some more.
const CONTROL: u64 = 512;

/// What [`take`] is for: a message that is no frame, on a connection with a desk.
pub(in crate::ws) fn concerns<'a>(
    conn: &'a Shared,
    message: &'a Message,
) -> Option<(&'a Arc<Desk>, &'a Bytes)> {
    match message {
        Message::Binary(bytes) if is_carry(bytes) => Some((conn.handle.bulk.as_ref()?, bytes)),
        _ => None,
    }
}

/// What became of a message that is no frame.
pub(in crate::ws) enum Taken {
    /// All that was to be done.
    Done,
    /// As [`Self::Done`], but its node does not read what it is told of its records.
    Deaf,
}

/// Takes a message that is no frame.
///
/// # Errors
/// [`BadCarry`]: no node says that to a broker.
pub(in crate::ws) fn take(
    conn: &Shared,
    desk: &Arc<Desk>,
    routes: &mut Routes,
    message: &Bytes,
) -> Result<Taken, BadCarry> {
    match Carry::parse(message)? {
        Carry::Record { way, header } => record(conn, desk, routes, way, header, message),
        Carry::Unknown { way, .. } => {
            if let Ok(to) = routes.find(conn, desk, &way)
                && desk.member.take_hint(conn.tick())
            {
                to.notice(Bytes::copy_from_slice(message));
            }
        }
        _ => return Err(BadCarry::Kind(message.first().copied().unwrap_or_default())),
    }
    Ok(if desk.overfull.load(Ordering::Relaxed) { Taken::Deaf } else { Taken::Done })
}

fn record(
    conn: &Shared,
    desk: &Arc<Desk>,
    routes: &mut Routes,
    way: Way,
    header: Header,
    message: &Bytes,
) {
    let (inner, metrics) = (&conn.inner, &conn.inner.metrics);
    let (stream, to) = (header.stream, way.to);
    let len = u64::try_from(message.len().saturating_sub(FRONT)).unwrap_or(u64::MAX);
    let dropped = |cause, reason: Option<Gone>| {
        metrics.dropped_records(cause).inc();
        if let Some(reason) = reason {
            desk.notice(Carry::Gone { stream, to, reason }.encode().into());
        }
        desk.give(stream, to, len, false);
    };
    let recipient = match routes.find(conn, desk, &way) {
        Ok(recipient) => recipient,
        Err(reason) => return dropped(Cause::of(reason), Some(reason)),
    };
    let Some(held) = inner.bulk.reserve(&desk.member, len.saturating_add(OVERHEAD)) else {
        return dropped(Cause::MEMORY, None);
    };
    let now = conn.tick();
    let (free, over) = {
        let mut quota = lock(&desk.member.quota);
        let free = header.kind.is_control() && len <= CONTROL && quota.charge_control(len, now);
        if !free {
            quota.charge(len, now);
        }
        (free, quota.wait(now) > 0)
    };
    if over && !free {
        metrics.stream_bytes_over_rate.inc_by(len);
    }
    // A copy: what came in with the record would be kept for as long as it waits, and that can be eight times as much.
    let parcel = Parcel { message: Bytes::copy_from_slice(message), free, _held: held };
    let untold = lock(&desk.owed).untold(&to);
    let line = Line { member: desk.key, sender: desk.conn, stream, to };
    let pushed = {
        let mut queue = lock(&recipient.queue);
        let streams = queue.streams();
        let pushed = queue.push(line, desk, parcel, len, untold);
        // Under the lock, so that they never count less than what is taken off again.
        if pushed.is_ok() {
            metrics.stream_bytes_queued.inc_by(gauge(len));
        }
        if queue.streams() > streams {
            metrics.streams_waiting.inc();
        }
        pushed
    };
    match pushed {
        Ok(true) => recipient.wake.notify_one(),
        Ok(false) => {}
        Err(Refused::Full) => dropped(Cause::WINDOW, None),
        Err(Refused::Closed) => dropped(Cause::ENDED, Some(Gone::Away)),
    }
}
