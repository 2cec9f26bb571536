//! Handing runs of TCP segments to the kernel as one, as network cards do (GRO): TCP's work in the
//! kernel, most of what a packet costs the lab, is then done once per run.
//!
//! Only segments that follow each other without anything between them, of one connection and with right
//! checksums, become a run; what the engine lost, reordered, duplicated or broke stays as it is. Every
//! packet is preceded by the header of virtio 1.2, section 5.1.6, in the form of 10 bytes and the
//! machine's byte order that a TUN device with `IFF_VNET_HDR` takes.

use crate::packet::{Protocol, View, checksum, header_checksum_ok, transport_checksum_ok};

/// Bytes of the virtio header.
const HEADER: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
/// Where a TCP header has its checksum.
const CHECKSUM: u16 = 16;
/// The flags of a segment in the middle of a stream. What has others ends a run and stands alone.
const ACK: u8 = 0x10;
const PUSH: u8 = 0x08;
/// The largest IP packet.
const LARGEST: usize = 65_535;

/// A TCP segment that may be part of a run.
struct Segment {
    /// Bytes of the IP header.
    ip: usize,
    /// Bytes of both headers.
    headers: usize,
    payload: usize,
    sequence: u32,
    push: bool,
}

impl Segment {
    fn of(packet: &[u8]) -> Option<Self> {
        let view = View::parse(packet).ok()?;
        // Header lengths without options or extensions.
        let plain = if view.ip.source.is_ipv4() { 20 } else { 40 };
        let ip = view.ip.transport;
        let whole = view.ip.fragment.is_none() && view.ip.end == packet.len() && ip == plain;
        if view.ip.protocol != Protocol::Tcp || !whole {
            return None;
        }
        let tcp = packet.get(ip..)?;
        let headers = ip + usize::from(tcp.get(12)? >> 4) * 4;
        let flags = *tcp.get(13)?;
        let payload = packet.len().checked_sub(headers).filter(|n| *n > 0)?;
        let right = header_checksum_ok(packet, &view.ip) && transport_checksum_ok(packet, &view.ip);
        (flags & !PUSH == ACK && headers >= ip + 20 && right).then_some(())?;
        let sequence = u32::from_be_bytes(*tcp.get(4..)?.first_chunk()?);
        Some(Self { ip, headers, payload, sequence, push: flags & PUSH != 0 })
    }
}

/// A run, in `Coalescer::buffer`.
struct Run {
    first: Segment,
    /// Its next byte.
    next: u32,
    segments: usize,
}

/// Collects packets for one device.
#[derive(Default)]
pub(super) struct Coalescer {
    /// The header, then a packet.
    buffer: Vec<u8>,
    run: Option<Run>,
}

impl Coalescer {
    /// Takes a packet; hands to `write` what is complete. Call [`Self::flush`] when there are no more.
    pub(super) fn push(&mut self, packet: &[u8], mut write: impl FnMut(&[u8])) {
        let segment = Segment::of(packet);
        if let Some(segment) = &segment
            && self.extends(packet, segment)
        {
            return self.append(packet, segment, write);
        }
        self.flush(&mut write);
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; HEADER]);
        self.buffer.extend_from_slice(packet);
        match segment {
            Some(first) if !first.push => {
                let next = first.sequence.wrapping_add(u32::try_from(first.payload).unwrap_or(0));
                self.run = Some(Run { first, next, segments: 1 });
            }
            _ => write(&self.buffer),
        }
    }

    /// Writes what was collected.
    pub(super) fn flush(&mut self, mut write: impl FnMut(&[u8])) {
        let Some(run) = self.run.take() else { return };
        if run.segments > 1 {
            seal(&mut self.buffer, &run.first);
        }
        write(&self.buffer);
    }

    /// Whether the packet is the next of the run.
    fn extends(&self, packet: &[u8], segment: &Segment) -> bool {
        let (Some(run), Some(start)) = (&self.run, self.buffer.get(HEADER..)) else { return false };
        let first = &run.first;
        segment.sequence == run.next
            && (segment.ip, segment.headers) == (first.ip, first.headers)
            && segment.payload <= first.payload
            && start.len() + segment.payload <= LARGEST
            && alike(start, packet, first)
    }

    fn append(&mut self, packet: &[u8], segment: &Segment, write: impl FnMut(&[u8])) {
        let Some(run) = &mut self.run else { return };
        self.buffer.extend_from_slice(packet.get(segment.headers..).unwrap_or_default());
        run.next = run.next.wrapping_add(u32::try_from(segment.payload).unwrap_or(0));
        run.segments += 1;
        let last = segment.push || segment.payload < run.first.payload;
        if segment.push
            && let Some(flags) = self.buffer.get_mut(HEADER + run.first.ip + 13)
        {
            *flags |= PUSH;
        }
        if last {
            self.flush(write);
        }
    }
}

/// Whether two segments' headers differ only in what is the segment's own: IP's length and IPv4's
/// identification and checksum; TCP's sequence number, flags (seen to already) and checksum.
fn alike(a: &[u8], b: &[u8], segment: &Segment) -> bool {
    let tcp = segment.ip;
    let own = |at: usize| match at {
        2..6 | 10..12 if tcp == 20 => true,
        4..6 => tcp == 40,
        _ => at.checked_sub(tcp).is_some_and(|at| matches!(at, 4..8 | 13 | 16..18)),
    };
    (0..segment.headers).all(|at| own(at) || a.get(at) == b.get(at))
}

/// Makes one large packet of a run, which says how it could be taken apart again.
fn seal(buffer: &mut [u8], first: &Segment) {
    let Some((header, packet)) = buffer.split_first_chunk_mut::<HEADER>() else { return };
    let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let v4 = first.ip == 20;
    let (length, tcp) = (short(packet.len()), short(packet.len().saturating_sub(first.ip)));
    let pseudo = if v4 {
        put(packet, 2, length);
        put(packet, 10, 0);
        let sum = checksum(packet.get(..20).unwrap_or_default());
        put(packet, 10, sum);
        packet.get(12..20)
    } else {
        put(packet, 4, tcp);
        packet.get(8..40)
    };
    // The kernel adds what is behind the pseudo header, if anybody ever looks at it.
    let mut bytes = pseudo.unwrap_or_default().to_vec();
    bytes.extend_from_slice(&[0, Protocol::Tcp.number()]);
    bytes.extend_from_slice(&tcp.to_be_bytes());
    put(packet, first.ip + usize::from(CHECKSUM), !checksum(&bytes));
    let kind = if v4 { TCP_V4 } else { TCP_V6 };
    let fields = [short(first.headers), short(first.payload), short(first.ip), CHECKSUM];
    header[..2].copy_from_slice(&[NEEDS_CHECKSUM, kind]);
    for (to, field) in header[2..].chunks_exact_mut(2).zip(fields) {
        to.copy_from_slice(&field.to_ne_bytes());
    }
}

fn put(packet: &mut [u8], at: usize, value: u16) {
    if let Some(bytes) = packet.get_mut(at..at + 2) {
        bytes.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::packet::{Build, build};

    const SIZE: usize = 1000;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an endpoint")
    }

    fn tcp(from: &str, to: &str, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let what = Build::Tcp { flags, sequence, acknowledge: 7, window: 9, payload };
        build(at(from), at(to), what)
    }

    fn segment(index: u8, flags: u8, length: usize) -> Vec<u8> {
        let sequence = (u32::MAX - 1500).wrapping_add(u32::from(index) * 1000);
        tcp("10.0.0.1:1", "10.0.0.2:2", sequence, flags, &vec![index; length])
    }

    fn written(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let (mut coalescer, mut out) = (Coalescer::default(), Vec::new());
        for packet in packets {
            coalescer.push(packet, |bytes| out.push(bytes.to_vec()));
        }
        coalescer.flush(|bytes| out.push(bytes.to_vec()));
        out
    }

    /// What the kernel would take a run apart into: payloads.
    fn payloads(written: &[u8]) -> Vec<Vec<u8>> {
        let size = usize::from(u16::from_ne_bytes([written[4], written[5]]));
        let headers = usize::from(u16::from_ne_bytes([written[2], written[3]]));
        written[HEADER + headers..].chunks(size).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn a_run_is_one_packet_that_says_how_to_take_it_apart() {
        for (from, to, ip, kind) in [
            ("10.0.0.1:1", "10.0.0.2:2", 20, TCP_V4),
            ("[2001:db8::1]:1", "[2001:db8::2]:2", 40, TCP_V6),
        ] {
            // The sequence number passes its end.
            let start = u32::MAX - 1500;
            let sequence = |n: u32| start.wrapping_add(n * 1000);
            let packets = [
                tcp(from, to, sequence(0), ACK, &[0; SIZE]),
                tcp(from, to, sequence(1), ACK, &[1; SIZE]),
                tcp(from, to, sequence(2), ACK | PUSH, &[2; 300]),
            ];
            let out = written(&packets);
            assert_eq!(out.len(), 1);
            let (header, packet) = out[0].split_at(HEADER);
            assert_eq!(header[..2], [NEEDS_CHECKSUM, kind]);
            let short = |i: usize| usize::from(u16::from_ne_bytes([header[i], header[i + 1]]));
            assert_eq!([short(2), short(4), short(6), short(8)], [ip + 20, SIZE, ip, 16]);
            assert_eq!(payloads(&out[0]), [vec![0; SIZE], vec![1; SIZE], vec![2; 300]]);
            assert_eq!(packet[ip + 13], ACK | PUSH);
            let view = View::parse(packet).expect("a packet");
            assert!(view.ip.end == packet.len() && header_checksum_ok(packet, &view.ip));
            // With the rest added to the pseudo header's sum, the checksum is right.
            let mut whole = packet.to_vec();
            let sum = checksum(&whole[ip..]);
            put(&mut whole, ip + 16, sum);
            assert!(transport_checksum_ok(&whole, &view.ip));
        }
    }

    #[test]
    fn one_packet_alone_is_left_as_it_is() {
        let udp = build(at("10.0.0.1:1"), at("10.0.0.2:2"), Build::Udp(b"x"));
        for packet in [segment(0, ACK, SIZE), segment(0, 0x11, SIZE), udp, vec![1, 2, 3]] {
            let out = written(std::slice::from_ref(&packet));
            assert_eq!(out, [[&[0; HEADER][..], &packet].concat()]);
        }
    }

    #[test]
    fn nothing_is_mended() {
        let good = [segment(0, ACK, SIZE), segment(1, ACK, SIZE)];
        assert_eq!(written(&good).len(), 1);
        let mut broken = good.clone();
        broken[1][500] ^= 1;
        assert_eq!(written(&broken).len(), 2);
        let [first, second] = good;
        let mut other_ttl = second.clone();
        other_ttl[8] -= 1;
        put(&mut other_ttl, 10, 0);
        let sum = checksum(&other_ttl[..20]);
        put(&mut other_ttl, 10, sum);
        let stranger = tcp("10.0.0.9:1", "10.0.0.2:2", u32::MAX - 500, ACK, &[1; SIZE]);
        for pair in [
            [second.clone(), first.clone()],
            [first.clone(), first.clone()],
            [first.clone(), other_ttl],
            [first.clone(), stranger],
            [first.clone(), segment(1, 0x11, SIZE)],
            [segment(0, ACK | PUSH, SIZE), second.clone()],
            [segment(0, ACK, 500), second.clone()],
        ] {
            let want: Vec<_> = pair.iter().map(|p| [&[0; HEADER][..], p].concat()).collect();
            assert_eq!(written(&pair), want);
        }
        // A gap, an empty acknowledgement in between.
        assert_eq!(written(&[first.clone(), segment(2, ACK, SIZE)]).len(), 2);
        assert_eq!(written(&[first, segment(1, ACK, 0), second]).len(), 3);
    }

    #[test]
    fn a_run_ends_where_a_packet_can_be_no_larger() {
        let packets: Vec<_> = (0..100_u32)
            .map(|n| tcp("10.0.0.1:1", "10.0.0.2:2", n * 1000, ACK, &[7; SIZE]))
            .collect();
        let out = written(&packets);
        assert_eq!(out.len(), 2);
        assert!(out.iter().all(|w| w.len() <= HEADER + LARGEST));
        assert_eq!(out.iter().map(|w| payloads(w).len()).sum::<usize>(), 100);
    }
}
