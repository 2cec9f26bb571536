//! ICMP errors through a NAT of ports (RFC 5508 section 4): the packet that they quote is put back as
//! its sender knows it. They neither prolong nor end a mapping (REQ-6), and their source is not
//! filtered (RFC 4787, REQ-12a).

use std::net::{IpAddr, Ipv4Addr};

use super::Verdict;
use super::napt::{Flow, Translator, flow, remote};
use crate::packet::{End, View, checksum, header_checksum_ok, rewrite_embedded, rewrite_v4};
use crate::reason::Reason;

/// Redirects speak of routes that the other side of a NAT does not have, and nobody may send or heed
/// source quench (RFC 5508, REQ-10c; RFC 6633): neither passes.
fn passes(packet: &[u8], view: &View) -> bool {
    const SOURCE_QUENCH: u8 = 4;
    const REDIRECT: u8 = 5;
    !matches!(packet.get(view.ip.transport), Some(&(SOURCE_QUENCH | REDIRECT)))
}

/// The packet that an error quotes. Errors whose checksum, or whose quote's header checksum, is wrong
/// are dropped (REQ-3).
pub(super) fn quoted(packet: &[u8], view: &View) -> Result<(View, Ipv4Addr, Ipv4Addr), Reason> {
    if !passes(packet, view) {
        return Err(Reason::Untranslatable);
    }
    let from = view.ip.transport;
    let message = packet.get(from..view.ip.end).ok_or(Reason::Malformed)?;
    let quote = message.get(8..).ok_or(Reason::Malformed)?;
    if checksum(message) != 0 {
        return Err(Reason::BadChecksum);
    }
    let inner = View::parse_quoted(quote).map_err(|_| Reason::Malformed)?;
    if !header_checksum_ok(quote, &inner.ip) {
        return Err(Reason::BadChecksum);
    }
    match (inner.ip.source, inner.ip.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Ok((inner, source, destination)),
        _ => Err(Reason::Malformed),
    }
}

impl Translator {
    pub(super) fn error(
        &mut self,
        packet: &mut [u8],
        view: &View,
        external: &[Ipv4Addr],
        (_, to): (Ipv4Addr, Ipv4Addr),
        out: bool,
    ) -> Verdict {
        let done = if !out {
            self.error_in(packet, view).map(|()| Verdict::Forward)
        } else if external.contains(&to) {
            // REQ-7: a hairpinned error is put back twice, as both of its packet's ends were.
            let was = packet.to_vec();
            let both = self.error_out(packet, view).and_then(|()| self.error_in(packet, view));
            if both.is_err() {
                packet.copy_from_slice(&was);
            }
            both.map(|()| Verdict::Turn)
        } else {
            self.error_out(packet, view).map(|()| Verdict::Forward)
        };
        done.unwrap_or_else(Verdict::drop)
    }

    /// From outside (REQ-4): the quoted packet had left through this NAT.
    fn error_in(&mut self, packet: &mut [u8], view: &View) -> Result<(), Reason> {
        let (inner, from, to) = quoted(packet, view)?;
        let Flow { kind, source, destination, .. } =
            flow(&inner, (from, to)).ok_or(Reason::Untranslatable)?;
        let slot = self.mappings.entering(kind, source, remote(destination));
        let mapping = slot.and_then(|s| self.mappings.get(s)).ok_or(Reason::NoMapping)?;
        let (address, port) = mapping.inside;
        rewrite_embedded(packet, view, &inner, End::Source, address, port);
        rewrite_v4(packet, view, End::Destination, address, 0);
        Ok(())
    }

    /// From inside (REQ-5): the quoted packet had come in through this NAT.
    fn error_out(&mut self, packet: &mut [u8], view: &View) -> Result<(), Reason> {
        let (inner, from, to) = quoted(packet, view)?;
        let Flow { kind, source, destination, .. } =
            flow(&inner, (from, to)).ok_or(Reason::Untranslatable)?;
        let slot = self.mappings.leaving(kind, destination, remote(source));
        let mapping = slot.and_then(|s| self.mappings.get(s)).ok_or(Reason::NoMapping)?;
        let (address, port) = mapping.external;
        rewrite_embedded(packet, view, &inner, End::Destination, address, port);
        rewrite_v4(packet, view, End::Source, address, 0);
        Ok(())
    }
}
