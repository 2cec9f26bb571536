//! Capture files in the classic format, for Wireshark and tcpdump: a header of 24 bytes, then 16 bytes
//! and the packet each (draft-ietf-opsawg-pcap). Link type RAW: packets begin with their IP header.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

/// Times are in nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: (u16, u16) = (2, 4);
const SNAP_LENGTH: u32 = 65_535;
const LINKTYPE_RAW: u32 = 101;

/// A capture file.
#[derive(Debug)]
pub struct Capture<W: Write = BufWriter<File>> {
    out: W,
}

impl Capture {
    /// A new file, in place of an old one.
    ///
    /// # Errors
    /// The file's.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::new(BufWriter::new(File::create(path)?))
    }
}

impl<W: Write> Capture<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// The writer's.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC.to_le_bytes())?;
        out.write_all(&VERSION.0.to_le_bytes())?;
        out.write_all(&VERSION.1.to_le_bytes())?;
        // Time zone and accuracy, both always zero.
        out.write_all(&[0; 8])?;
        out.write_all(&SNAP_LENGTH.to_le_bytes())?;
        out.write_all(&LINKTYPE_RAW.to_le_bytes())?;
        Ok(Self { out })
    }

    /// Writes a raw IP packet; `at` is since 1970.
    ///
    /// # Errors
    /// The writer's.
    pub fn packet(&mut self, at: Duration, packet: &[u8]) -> io::Result<()> {
        // The format's seconds have 32 bits, to be taken as unsigned: until 2106.
        let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        for field in [seconds, at.subsec_nanos(), length, length] {
            self.out.write_all(&field.to_le_bytes())?;
        }
        self.out.write_all(packet)
    }

    /// Writes what is still in memory.
    ///
    /// # Errors
    /// The writer's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut capture = Capture::new(Vec::new()).expect("memory");
        capture.packet(Duration::new(1, 2), &[0x45, 0, 7]).expect("memory");
        let mut want = vec![0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        want.extend([0xff, 0xff, 0, 0, 101, 0, 0, 0]);
        want.extend([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 0x45, 0, 7]);
        assert_eq!(capture.out, want);
    }
}
