//! IPv4 fragments on their way through a NAT (RFC 4787, REQ-14): only the first has ports, so the
//! others follow its translation, and wait for it if they come first.
//!
//! Bounded, so that fragments alone cannot use up a NAT (REQ-14a): [`MAX_PACKETS`] packets are known at
//! a time, [`MAX_HELD`] fragments wait.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::hash::Table;
use crate::packet::{End, Fragment, View, rewrite_v4};
use crate::reason::Reason;
use crate::session::Way;
use crate::time::Time;

/// How long fragments of one packet are waited for; Linux' `ipfrag_time`.
const PATIENCE: Duration = Duration::from_secs(30);
/// Packets whose fragments are known at a time. Identifications are 16 bits wide and used anew.
const MAX_PACKETS: usize = 1024;
/// Fragments that wait for their first one, in all.
const MAX_HELD: usize = 256;

/// What became of a packet's first fragment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// Translated to these ends; `turned` says that it went back inside.
    Sent { source: Ipv4Addr, destination: Ipv4Addr, turned: bool },
    /// Dropped.
    Dropped(Reason),
}

#[derive(Clone, Debug, Default)]
struct Entry {
    fate: Option<Fate>,
    held: Vec<Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Fragments {
    known: Table<Entry>,
    ends: VecDeque<(Time, u128)>,
    held: usize,
}

/// What is to be done with a later fragment.
pub(super) enum Later {
    Follow(Fate),
    Held,
    NoRoom,
}

pub(super) fn key(way: Way, view: &View, fragment: Fragment) -> Option<u128> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (view.ip.source, view.ip.destination)
    else {
        return None;
    };
    Some(
        u128::from(way == Way::Out) << 88
            | u128::from(source.to_bits()) << 56
            | u128::from(destination.to_bits()) << 24
            | u128::from(view.ip.protocol.number()) << 16
            | u128::from(fragment.id & 0xffff),
    )
}

/// Gives a later fragment its packet's ends.
pub(super) fn follow(bytes: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr) {
    if let Ok(view) = View::parse(bytes) {
        rewrite_v4(bytes, &view, End::Source, source, 0);
        rewrite_v4(bytes, &view, End::Destination, destination, 0);
    }
}

impl Fragments {
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        if self.held == 0 { None } else { self.ends.front().map(|(at, _)| *at) }
    }

    /// Forgets packets whose time is over; returns how many fragments waited in vain.
    pub(super) fn expire(&mut self, now: Time, lost: &mut Vec<Vec<u8>>) {
        while let Some((at, key)) = self.ends.front().copied()
            && (at <= now || self.ends.len() > MAX_PACKETS)
        {
            self.ends.pop_front();
            if let Some(entry) = self.known.remove(&key) {
                self.held -= entry.held.len();
                lost.extend(entry.held);
            }
        }
    }

    fn entry(&mut self, now: Time, key: u128) -> &mut Entry {
        let ends = &mut self.ends;
        self.known.entry(key).or_insert_with(|| {
            ends.push_back((now + PATIENCE, key));
            Entry::default()
        })
    }

    /// A later fragment came; `packet` is taken only if it is held.
    pub(super) fn later(&mut self, now: Time, key: u128, packet: &mut Vec<u8>) -> Later {
        let full = self.held >= MAX_HELD;
        let entry = self.entry(now, key);
        match entry.fate {
            Some(fate) => Later::Follow(fate),
            None if full => Later::NoRoom,
            None => {
                entry.held.push(std::mem::take(packet));
                self.held += 1;
                Later::Held
            }
        }
    }

    /// The first fragment was decided on; returns those that waited for it.
    pub(super) fn first(&mut self, now: Time, key: u128, fate: Fate) -> Vec<Vec<u8>> {
        let entry = self.entry(now, key);
        entry.fate = Some(fate);
        let waiting = std::mem::take(&mut entry.held);
        self.held -= waiting.len();
        waiting
    }

    pub(super) fn clear(&mut self, lost: &mut Vec<Vec<u8>>) {
        for (_, key) in std::mem::take(&mut self.ends) {
            lost.extend(self.known.remove(&key).map(|e| e.held).unwrap_or_default());
        }
        self.held = 0;
    }
}
