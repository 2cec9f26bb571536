//! TUN devices of hosts, with many packets per system call: the kernel hands over TCP and UDP before it
//! has cut them to size, and takes runs of TCP at once. In between, where the engine is, every packet is
//! as it would be on a wire.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tun_rs::{IDEAL_BATCH_SIZE, SyncDevice, VIRTIO_NET_HDR_LEN};

use super::coalesce::Coalescer;
use super::tun;

/// Pieces of what is read at once, at most: devices must be told so (`gso_max_segs`).
pub(super) const PIECES: usize = IDEAL_BATCH_SIZE;
/// The largest IP packet.
const LARGEST: usize = 65_535;
/// Next header of UDP, where IPv6 has it, and where UDP has its checksum then.
const UDP: u8 = 17;
const V6_UDP_CHECKSUM: usize = 46;

/// Memory for reading, for all devices.
pub(super) struct Scratch {
    read: Vec<u8>,
    pieces: Vec<Vec<u8>>,
    sizes: Vec<usize>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            read: vec![0; VIRTIO_NET_HDR_LEN + LARGEST],
            pieces: vec![vec![0; LARGEST]; PIECES],
            sizes: vec![0; PIECES],
        }
    }
}

/// A host's device. It ends with this value.
pub(super) struct Bulk {
    device: SyncDevice,
    out: Coalescer,
}

impl fmt::Debug for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk").finish_non_exhaustive()
    }
}

impl Bulk {
    /// As [`tun::Tun::open`], but it does not wait.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let device = tun::make(name, true)?;
        rustix::io::ioctl_fionbio(&*device, true)?;
        Ok(Self { device, out: Coalescer::default() })
    }

    /// Takes what the host sends next, as the packets that a wire would see. False when what there was
    /// could not be taken apart.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is nothing; others when the device is gone.
    pub(super) fn read(
        &self,
        scratch: &mut Scratch,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        let Scratch { read, pieces, sizes } = scratch;
        let count = match self.device.recv_multiple(read, pieces, sizes, 0) {
            Ok(count) => count,
            // Not the system's: the packet was at fault.
            Err(e) if e.raw_os_error().is_none() => return Ok(false),
            Err(e) => return Err(e),
        };
        for (piece, size) in pieces.iter_mut().zip(sizes.iter()).take(count) {
            let Some(packet) = piece.get_mut(..*size) else { return Ok(false) };
            mend(packet);
            take(packet);
        }
        Ok(true)
    }

    /// Lets the host receive a packet, at the latest with [`Self::flush`]. Returns how many writes
    /// failed.
    pub(super) fn write(&mut self, packet: &[u8]) -> u64 {
        let (device, mut failed) = (&self.device, 0);
        self.out.push(packet, |bytes| failed += u64::from(device.send(bytes).is_err()));
        failed
    }

    /// Writes what [`Self::write`] held back.
    pub(super) fn flush(&mut self) -> u64 {
        let (device, mut failed) = (&self.device, 0);
        self.out.flush(|bytes| failed += u64::from(device.send(bytes).is_err()));
        failed
    }
}

impl AsFd for Bulk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// A UDP checksum that comes out as zero is written as ones (RFC 768): zero means that there is none,
/// and IPv6 does not take that. tun-rs forgets it where it completes the checksum of a single packet.
fn mend(packet: &mut [u8]) {
    if packet.first().is_some_and(|b| b >> 4 == 6)
        && packet.get(6) == Some(&UDP)
        && let Some(sum) = packet.get_mut(V6_UDP_CHECKSUM..V6_UDP_CHECKSUM + 2)
        && *sum == [0, 0]
    {
        sum.copy_from_slice(&[0xff, 0xff]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Build, build};

    #[test]
    fn no_udp_of_ipv6_is_without_a_checksum() {
        let at = |text: &str| text.parse().expect("an endpoint");
        let (from, to) = (at("[2001:db8::1]:1"), at("[2001:db8::2]:2"));
        let good = build(from, to, Build::Udp(b"x"));
        let mut packet = good.clone();
        mend(&mut packet);
        assert_eq!(packet, good);
        packet[46..48].fill(0);
        mend(&mut packet);
        assert_eq!(packet[46..48], [0xff, 0xff]);
        let v4 = build(at("10.0.0.1:1"), at("10.0.0.2:2"), Build::Udp(&[0; 40]));
        let mut same = v4.clone();
        mend(&mut same);
        assert_eq!(same, v4);
        mend(&mut []);
    }
}
