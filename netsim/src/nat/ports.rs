//! Choosing an outside address and port for a new mapping (RFC 4787 section 4.2, RFC 6888 section 4).

use std::net::Ipv4Addr;

use super::config::{Napt, Pooling, PortRule, Taken};
use super::table::{Endpoint, Mappings};
use crate::dice::Dice;
use crate::hash::Table;
use crate::session::{Kind, Remote};

/// What is remembered from one choice to the next.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    dice: Dice,
    /// The last port given out in sequence, per outside address.
    last: Table<u16>,
    /// How many addresses were handed out so far.
    turn: usize,
}

impl Chooser {
    pub(super) fn new(dice: Dice) -> Self {
        Self { dice, last: Table::default(), turn: 0 }
    }

    /// An outside endpoint for `inside`, or None when there is none left.
    pub(super) fn choose(
        &mut self,
        config: &Napt,
        external: &[Ipv4Addr],
        mappings: &Mappings,
        kind: Kind,
        inside: Endpoint,
        remote: Remote,
    ) -> Option<Endpoint> {
        let paired = match config.pooling {
            Pooling::Paired => mappings.subscriber(inside.0).external,
            Pooling::Arbitrary => None,
        };
        if let Some(address) = paired {
            return self
                .port(config, mappings, kind, address, inside, remote)
                .map(|p| (address, p));
        }
        // A new pair, or any address at all: in turn, past those that are full.
        let start = self.turn;
        for step in 0..external.len() {
            let address = *external.get((start + step) % external.len())?;
            if let Some(port) = self.port(config, mappings, kind, address, inside, remote) {
                self.turn = (start + step + 1) % external.len();
                return Some((address, port));
            }
        }
        None
    }

    fn port(
        &mut self,
        config: &Napt,
        mappings: &Mappings,
        kind: Kind,
        address: Ipv4Addr,
        inside: Endpoint,
        remote: Remote,
    ) -> Option<u16> {
        let (ports, want) = (&config.ports, inside.1);
        let query = kind == Kind::Query;
        let shared = ports.rule == PortRule::Preserving(Taken::Share);
        let (low, high) = match want {
            // Identifiers have neither classes nor parity.
            _ if query => (0, u16::MAX),
            // Linux has a class for those that prove who asks, and one for the rest
            // (nf_nat_l4proto_unique_tuple).
            0..512 if ports.keep_class && shared => (1, 511),
            512..1024 if ports.keep_class && shared => (600, 1023),
            0..1024 if ports.keep_class => (1, 1023),
            _ => ports.range,
        };
        let step = if ports.parity && !query { 2 } else { 1 };
        let first = if step == 2 && (low ^ want) & 1 == 1 { low + 1 } else { low };
        let slots = u32::from(high.checked_sub(first)?) / step + 1;
        let latest = mappings.latest(kind, inside).filter(|l| l.0 == address).map(|l| l.1);
        let free = |port: u16| mappings.is_free(kind, (address, port), remote);
        let random = |dice: &mut Dice| dice.below(slots);
        let at = |slot: u32| u16::try_from(u32::from(first) + slot * step).ok();
        let slot_of = |port: u16| u32::from(port.saturating_sub(first)) / step;
        let start = match ports.rule {
            // What the inside endpoint has already goes before what it would like to have.
            PortRule::Preserving(Taken::Share) if latest.is_some_and(free) => return latest,
            PortRule::Preserving(taken) => {
                let in_range = (low..=high).contains(&want);
                // Linux keeps a low port that is free, whatever its class.
                let low_too = shared && ports.keep_class && (1..1024).contains(&want);
                if (in_range || low_too) && free(want) {
                    return Some(want);
                }
                match taken {
                    Taken::NextFree if in_range => slot_of(want) + 1,
                    Taken::NextFree => 0,
                    Taken::Random | Taken::Share => random(&mut self.dice),
                }
            }
            PortRule::Sequential => {
                let last = self.last.get(&cursor(kind, address));
                last.filter(|p| (first..=high).contains(p)).map_or(0, |p| slot_of(*p) + 1)
            }
            PortRule::Random => random(&mut self.dice),
        };
        let port = (0..slots).filter_map(|i| at((start + i) % slots)).find(|p| free(*p))?;
        if ports.rule == PortRule::Sequential {
            self.last.insert(cursor(kind, address), port);
        }
        Some(port)
    }
}

fn cursor(kind: Kind, address: Ipv4Addr) -> u128 {
    let kind: u128 = match kind {
        Kind::Udp => 0,
        Kind::Tcp => 1,
        Kind::Query => 2,
    };
    kind << 32 | u128::from(address.to_bits())
}
