//! Translation of addresses one to one (Basic NAT, RFC 3022 section 2.1): every protocol, no timers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::Verdict;
use super::config::Pair;
use super::errors::quoted;
use crate::error::ConfigError;
use crate::packet::{End, Transport, View, rewrite_embedded, rewrite_v4};
use crate::reason::Reason;

#[derive(Clone, Debug)]
pub(super) struct Translator {
    pairs: Vec<Pair>,
    inside: BTreeMap<Ipv4Addr, Ipv4Addr>,
    outside: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

impl Translator {
    pub(super) fn new(pairs: &[Pair]) -> Self {
        Self {
            pairs: pairs.to_vec(),
            inside: pairs.iter().map(|p| (p.inside, p.outside)).collect(),
            outside: pairs.iter().map(|p| (p.outside, p.inside)).collect(),
        }
    }

    /// Pairs move with their outside address' place in the list.
    pub(super) fn readdress(
        &mut self,
        old: &[Ipv4Addr],
        new: &[Ipv4Addr],
    ) -> Result<(), ConfigError> {
        let moved = self.pairs.iter().map(|pair| {
            let place = old.iter().position(|a| *a == pair.outside);
            let outside = place.and_then(|i| new.get(i)).copied();
            let outside = outside.ok_or(ConfigError::Pair(pair.outside.into()))?;
            Ok(Pair { outside, ..*pair })
        });
        *self = Self::new(&moved.collect::<Result<Vec<_>, ConfigError>>()?);
        Ok(())
    }

    pub(super) fn pass(
        &self,
        packet: &mut [u8],
        view: &View,
        (from, to): (Ipv4Addr, Ipv4Addr),
        out: bool,
    ) -> Verdict {
        // Ports stay; rewriting wants to be told them.
        let (source_port, destination_port) = view.ports();
        let inner = match view.transport {
            Transport::Error => match quoted(packet, view) {
                Ok((inner, ..)) => Some(inner),
                Err(reason) => return Verdict::drop(reason),
            },
            _ => None,
        };
        let mut turned = false;
        let inner_ports = inner.map(|i| i.ports()).unwrap_or_default();
        let embedded = |packet: &mut [u8], end: End, table: &BTreeMap<Ipv4Addr, Ipv4Addr>| {
            let Some(inner) = inner else { return };
            let (address, port) = match end {
                End::Source => (inner.ip.source, inner_ports.0),
                End::Destination => (inner.ip.destination, inner_ports.1),
            };
            if let std::net::IpAddr::V4(address) = address
                && let Some(other) = table.get(&address)
            {
                rewrite_embedded(packet, view, &inner, end, *other, port);
            }
        };
        if out {
            let Some(outer) = self.inside.get(&from) else {
                return Verdict::drop(Reason::NoMapping);
            };
            turned = self.outside.contains_key(&to);
            rewrite_v4(packet, view, End::Source, *outer, source_port);
            embedded(packet, End::Destination, &self.inside);
        }
        if !out || turned {
            let Some(inside) = self.outside.get(&to) else {
                return Verdict::drop(Reason::NoMapping);
            };
            rewrite_v4(packet, view, End::Destination, *inside, destination_port);
            embedded(packet, End::Source, &self.outside);
        }
        if turned { Verdict::Turn } else { Verdict::Forward }
    }
}
