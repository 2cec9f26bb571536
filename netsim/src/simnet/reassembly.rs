//! Putting IPv4 fragments together again (RFC 791 section 3.2, RFC 815's ends).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::packet::{Fragment, Protocol, View, join};
use crate::time::Time;

/// How long the rest is waited for: Linux' `ipfrag_time`.
const WAIT: Duration = Duration::from_secs(30);

/// Packets that may be incomplete at a time; the oldest goes.
const INCOMPLETE: usize = 64;

/// Source, destination, protocol, identification.
type Key = (IpAddr, IpAddr, Protocol, u32);

struct Partial {
    since: Time,
    header: Vec<u8>,
    /// By offset.
    pieces: BTreeMap<u32, Vec<u8>>,
    /// Length of the whole payload, once the last piece is there.
    length: Option<usize>,
}

#[derive(Default)]
pub(super) struct Reassembly(BTreeMap<Key, Partial>);

impl Reassembly {
    /// The whole packet that this one is or completes.
    pub(super) fn whole(&mut self, now: Time, packet: Vec<u8>) -> Option<Vec<u8>> {
        let view = View::parse(&packet).ok()?;
        let Some(Fragment { id, offset, more }) = view.ip.fragment else { return Some(packet) };
        if !view.ip.source.is_ipv4() {
            return None;
        }
        self.0.retain(|_, p| now < p.since + WAIT);
        let key = (view.ip.source, view.ip.destination, view.ip.protocol, id);
        if self.0.len() >= INCOMPLETE && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, p)| p.since).map(|(key, _)| *key);
            oldest.and_then(|key| self.0.remove(&key));
        }
        let partial = self.0.entry(key).or_insert_with(|| Partial {
            since: now,
            header: Vec::new(),
            pieces: BTreeMap::new(),
            length: None,
        });
        let payload = packet.get(view.ip.transport..view.ip.end)?;
        if offset == 0 {
            partial.header = packet.get(..view.ip.transport)?.to_vec();
        }
        if !more {
            partial.length = usize::try_from(offset).ok().map(|o| o + payload.len());
        }
        partial.pieces.insert(offset, payload.to_vec());
        let done = partial.joined()?;
        self.0.remove(&key);
        join(&done.0, &done.1)
    }
}

impl Partial {
    /// Header and payload, when nothing is missing. Overlapping pieces are not put together.
    fn joined(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let length = self.length?;
        let mut payload = Vec::with_capacity(length);
        for (offset, piece) in &self.pieces {
            if usize::try_from(*offset).ok()? != payload.len() {
                return None;
            }
            payload.extend(piece);
        }
        let complete = payload.len() == length && !self.header.is_empty();
        complete.then(|| (self.header.clone(), payload))
    }
}
