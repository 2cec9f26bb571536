//! Where smoltcp's bare ACKs stand in the stream.

use crate::packet::{ACK, FIN, SYN, Transport, View, adjust};

/// The end of all that one side of a connection has sent.
///
/// When smoltcp repeats data, it forgets how much it had sent before, and its bare ACKs stand where it
/// repeats from. To a receiver that has got further they are outside of the window and count for
/// nothing (RFC 9293 section 3.10.7.4); when both sides repeat, neither hears the other any more. A
/// bare ACK stands at the end of all that was sent (RFC 9293 section 3.4: SND.NXT).
#[derive(Debug, Default)]
pub(super) struct Sent(Option<u32>);

impl Sent {
    /// A segment goes out.
    pub(super) fn pass(&mut self, packet: &mut [u8]) {
        let Ok(View { ip, transport: Transport::Tcp { flags, .. } }) = View::parse(packet) else {
            return;
        };
        let from = ip.transport;
        let Some(header) = packet.get(from..).and_then(|h| h.first_chunk::<20>()).copied() else {
            return;
        };
        let start = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let data = ip.end.saturating_sub(from + usize::from(header[12] >> 4) * 4);
        let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let length = u32::try_from(data).unwrap_or(0) + controls;
        let end = start.wrapping_add(length);
        match self.0 {
            Some(most) if end != most && most.wrapping_sub(end) < u32::MAX / 2 => {
                if flags == ACK && length == 0 {
                    let check = u16::from_be_bytes([header[16], header[17]]);
                    let check = adjust(check, &start.to_be_bytes(), &most.to_be_bytes());
                    put(packet, from + 4, &most.to_be_bytes());
                    put(packet, from + 16, &check.to_be_bytes());
                }
            }
            _ => self.0 = Some(end),
        }
    }
}

fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = packet.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Build, build, transport_checksum_ok};

    #[test]
    fn bare_acks_stand_at_the_end_of_what_was_sent() {
        let mut sent = Sent::default();
        let mut pass = |flags, sequence, payload: &[u8]| {
            let (from, to) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
            let what = Build::Tcp { flags, sequence, acknowledge: 9, window: 9, payload };
            let mut packet = build(from, to, what);
            sent.pass(&mut packet);
            assert!(transport_checksum_ok(&packet, &View::parse(&packet).unwrap().ip));
            u32::from_be_bytes(packet[24..28].try_into().unwrap())
        };
        let start = u32::MAX - 1;
        assert_eq!(pass(SYN, start, &[]), start);
        assert_eq!(pass(ACK, start.wrapping_add(1), &[1; 10]), start.wrapping_add(1));
        assert_eq!(pass(ACK, 9, &[]), 9, "at the end");
        assert_eq!(pass(ACK, start.wrapping_add(1), &[1; 4]), start.wrapping_add(1), "repeated");
        assert_eq!(pass(ACK, 3, &[]), 9, "not where it repeats");
        assert_eq!(pass(ACK | FIN, 9, &[]), 9);
        assert_eq!(pass(ACK, 9, &[]), 10);
        assert_eq!(pass(ACK | FIN, 9, &[]), 9);
    }
}
