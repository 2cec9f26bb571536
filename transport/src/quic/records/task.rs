//! The two tasks behind a stream on a connection: one reads, one writes.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use meshwire_signaling::stream::{MAX_RECORD, OVERHEAD};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::{Instant, timeout};

use super::flight::Room;
use super::{FAREWELL, MALFORMED, UNKNOWN};
use crate::quic::conn::QuicConn;
use crate::stream::{LinkId, Live, buffer};

/// What a program that is woken for less than this does not wait for room with: states.
const SMALL: usize = 512;
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
                let flight = self.conn.flight();
                let batch = flight.look(now, || self.conn.congestion_window());
                room = Some(self.room(batch, send).await?);
                most = batch - MAX_RECORD + 1;
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

    /// Waits for room for `batch` bytes, as urgently as the stream is. What says how far this side is, or that it lives,
    /// needs none and goes meanwhile.
    async fn room(&self, batch: usize, send: &mut SendStream) -> Result<Room, WriteError> {
        let flight = self.conn.flight();
        let (mut priority, _) = self.live.turn(self.link);
        let mut room = pin!(flight.room(batch, priority));
        let mut out = Vec::new();
        loop {
            tokio::select! {
                biased;
                room = &mut room => return Ok(room),
                () = self.woken.notified() => {}
            }
            let (now, pressing) = self.live.turn(self.link);
            if now != priority {
                priority = now;
                room.set(flight.room(batch, now));
            }
            if pressing {
                self.live.poll_framed_many(self.link, 1, &mut out);
                send.write_all_chunks(&mut out).await?;
                out.clear();
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
        // A record as far as it has come, and the length of the one behind it.
        let mut record = BytesMut::new();
        let mut next = [0; 2];
        let mut have = 0;
        loop {
            while have < next.len() {
                match recv.read(&mut next[have..]).await? {
                    Some(n) => have += n,
                    None => return Ok(()),
                }
            }
            let length = usize::from(u16::from_be_bytes(next));
            if !(OVERHEAD..=MAX_RECORD).contains(&length) {
                return Err(Ended::Malformed);
            }
            if record.capacity() == 0 {
                record = buffer(length);
            }
            while record.len() < length {
                let room = length + next.len() - record.len();
                if recv.read_buf(&mut (&mut record).limit(room)).await? == 0 {
                    return Ok(());
                }
            }
            have = record.len() - length;
            next[..have].copy_from_slice(&record[length..]);
            record.truncate(length);
            self.conn.stir().stir();
            // What was dropped has changed nothing, and the stream counts it.
            let _ = self.live.receive(self.link, std::mem::take(&mut record));
            self.conn.pulse().beat(Instant::now());
            coop::consume_budget().await;
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

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<ReadError>());
        inner.cloned().map_or(Self::Lost, Self::from)
    }
}
