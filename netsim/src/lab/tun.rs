//! TUN devices: raw IP packets of a network namespace, read and written by this process.
//!
//! ```no_run
//! use std::os::fd::AsFd as _;
//! use meshwire_netsim::lab::{Tun, namespace};
//!
//! # fn main() -> std::io::Result<()> {
//! // In the caller's own namespace, or in one made with `ip netns add NAME`.
//! let here = Tun::open("tun7")?;
//! let there = namespace::inside("NAME", || Tun::open("eth0"))??;
//! // The device is down, without addresses; `ip link set eth0 up` is the caller's business. It is
//! // gone when the `Tun` is dropped or the process ends in any way.
//! let mut packet = vec![0; 65_535];
//! let length = there.read(&mut packet)?; // waits, unless `set_nonblocking(true)`
//! here.write(&packet[..length])?;
//! there.as_fd(); // for poll and epoll
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// A TUN device that ends with this value.
pub struct Tun {
    device: SyncDevice,
}

impl fmt::Debug for Tun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tun").finish_non_exhaustive()
    }
}

impl Tun {
    /// Makes a device of this name (at most 15 bytes) in the calling thread's network namespace. It is
    /// down; reads and writes wait.
    ///
    /// # Errors
    /// No `/dev/net/tun`, no CAP_NET_ADMIN, name taken or too long.
    pub fn open(name: &str) -> io::Result<Self> {
        Ok(Self { device: make(name, false)? })
    }

    /// Whether reads and writes return [`io::ErrorKind::WouldBlock`] instead of waiting.
    ///
    /// # Errors
    /// None that a live device has.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&*self.device, on)?)
    }

    /// Takes the next packet that the namespace sends; returns its length. What does not fit into
    /// `buffer` is cut off.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none and the device does not wait.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.recv(buffer)
    }

    /// Lets the namespace receive a packet.
    ///
    /// # Errors
    /// The device is down (`EIO`), or the packet is not IP (`EINVAL`).
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        self.device.send(packet).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// A device that is down. With `offload` every packet has a virtio header.
pub(super) fn make(name: &str, offload: bool) -> io::Result<SyncDevice> {
    let builder = DeviceBuilder::new().name(name).layer(Layer::L3).enable(false);
    builder.offload(offload).build_sync()
}
