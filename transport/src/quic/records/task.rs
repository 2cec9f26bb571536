//! The two tasks behind a stream on a connection: one reads, one writes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meshwire_signaling::stream::MAX_RECORD;
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::{Instant, timeout};

use super::flight::Room;
use super::framing::{Framing, Malformed};
use super::{FAREWELL, MALFORMED, UNKNOWN};
use crate::quic::conn::QuicConn;
use crate::stream::{LinkId, Live};

/// What a program that is woken for less than this does not wait for room with: states.
const SMALL: usize = 512;
/// Pieces of a QUIC stream, of a packet's size each, that are read at once.
const PIECES: usize = 128;
/// How often the stream is told of the round trip.
const RTT: Duration = Duration::from_millis(100);

/// A stream on a connection.
#[derive(Clone)]
pub(super) struct Ride {
    pub(super) conn: QuicConn,
    pub(super) live: Live,
    pub(super) link: LinkId,
    pub(super) woken: Arc<Notify>,
}

impl Ride {
    /// Writes until the stream is over; or nobody takes it any more.
    pub(super) async fn write(&self, send: &mut SendStream) -> Result<(), WriteError> {
        let mut out = Vec::new();
        let mut told_at: Option<Instant> = None;
        loop {
            let Some(first) = self.live.transmit_len(self.link) else {
                if self.live.is_over() {
                    break;
                }
                self.woken.notified().await;
                continue;
            };
            let now = Instant::now();
            if told_at.is_none_or(|at| now.saturating_duration_since(at) >= RTT) {
                told_at = Some(now);
                self.live.link_rtt(self.link, self.conn.rtt());
            }
            let (mut room, mut most) = (None, 1);
            if first >= SMALL {
                let batch = self.conn.flight().look(now, || self.conn.congestion_window());
                let ready = self.live.ready(self.link, batch);
                let Some(granted) = self.room(ready, send).await? else { continue };
                // All that was ready, or as many whole records as there is room for.
                let room_for = granted.bytes().saturating_sub(MAX_RECORD).max(1);
                most = if granted.bytes() < ready { room_for } else { ready };
                room = Some(granted);
            }
            let bytes = self.live.poll_framed_many(self.link, most, &mut out);
            if let (Some(mut room), Some(last)) = (room, out.last_mut()) {
                room.keep(bytes);
                *last = room.mark(std::mem::take(last));
            }
            self.conn.stir().stir();
            send.write_all_chunks(&mut out).await?;
            out.clear();
        }
        let _ = send.finish();
        let _ = timeout(FAREWELL, send.stopped()).await;
        Ok(())
    }

    /// Waits for room for `bytes` at most, as urgently as the stream is; none if it is over. What says how far this side
    /// is, or that it lives, needs none and goes meanwhile.
    async fn room(&self, bytes: usize, send: &mut SendStream) -> Result<Option<Room>, WriteError> {
        let flight = self.conn.flight();
        let (mut priority, mut pressing) = self.live.turn(self.link);
        let mut room = pin!(flight.room(bytes, priority));
        let mut out = Vec::new();
        loop {
            if pressing {
                self.live.poll_framed_many(self.link, 1, &mut out);
                self.conn.stir().stir();
                send.write_all_chunks(&mut out).await?;
                out.clear();
            }
            if self.live.is_over() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                room = &mut room => return Ok(Some(room)),
                () = self.woken.notified() => {}
            }
            let now;
            (now, pressing) = self.live.turn(self.link);
            if now != priority {
                priority = now;
                room.set(flight.room(bytes, now));
            }
        }
    }

    /// Reads until the other side has ended it.
    pub(super) async fn read(&self, recv: &mut RecvStream) {
        match self.records(recv).await {
            Ok(()) => {}
            Err(Ended::Unknown) => self.live.hint_gone(),
            Err(Ended::Malformed) => {
                let _ = recv.stop(VarInt::from_u32(MALFORMED));
            }
            Err(Ended::Lost) => {}
        }
    }

    async fn records(&self, recv: &mut RecvStream) -> Result<(), Ended> {
        let (mut framing, mut pieces) = (Framing::default(), vec![Bytes::new(); PIECES]);
        loop {
            // As they are: to copy them takes time, and to read takes the connection's lock.
            let Some(came) = recv.read_chunks(&mut pieces).await? else { return Ok(()) };
            for piece in pieces.iter_mut().take(came) {
                let mut piece = std::mem::take(piece);
                while let Some(record) = framing.next(&mut piece)? {
                    self.conn.stir().stir();
                    // What was dropped has changed nothing, and the stream counts it.
                    let _ = self.live.receive(self.link, record);
                    self.conn.pulse().beat(Instant::now());
                    coop::consume_budget().await;
                }
            }
        }
    }
}

enum Ended {
    /// The other side does not know the stream.
    Unknown,
    Malformed,
    Lost,
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) if code == VarInt::from_u32(UNKNOWN) => Self::Unknown,
            _ => Self::Lost,
        }
    }
}

impl From<Malformed> for Ended {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}
