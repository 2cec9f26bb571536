//! How fast the simulator itself is, in real time on this machine.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use meshwire_transport::net::{Datagram, Net as _, RecvMeta};

use crate::error::ConfigError;
use crate::link::LinkConfig;
use crate::preset::Preset;
use crate::simnet::{Internet, Sim, Stage, run};
use crate::topology::{HostId, Wire};

/// Bytes of each datagram's payload: a voice packet's size.
pub const PAYLOAD: usize = 172;

/// Datagrams that a sender sends at a time, a millisecond of virtual time apart.
const BURST: u32 = 64;

const PORT: u16 = 4000;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// Datagrams sent; all have arrived.
    pub packets: u32,
    /// Real time that took.
    pub took: Duration,
    /// Virtual time that passed.
    pub simulated: Duration,
}

impl Report {
    /// Datagrams per second of real time.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        f64::from(self.packets) / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The world could not be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Datagrams were lost, on perfect links.
    #[error("only {got} of {sent} datagrams arrived")]
    Lost {
        /// How many came.
        got: u32,
        /// Of how many.
        sent: u32,
    },
}

/// The virtual driver: so many UDP datagrams from a program at home through its NAT and links of 10 ms
/// to a program on a server. Uses one core.
///
/// # Errors
/// [`BenchError`].
///
/// # Panics
/// Inside another tokio runtime, as [`run`].
pub fn virtual_udp(packets: u32) -> Result<Report, BenchError> {
    run(1, async |stage| {
        let (sim, home, server) = world(stage)?;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let from = sim.host(home).udp_bind(any).await?;
        let at = sim.host(server).udp_bind(any).await?;
        let to = sim.host(server).addresses();
        let to = to.into_iter().next().ok_or(ConfigError::Unknown("an address of the server"))?;
        let (began, start) = (sim.now(), real_time());
        let sending = tokio::spawn(send(from, (to, PORT).into(), packets));
        let got = receive(&*at, packets).await?;
        sending.await.map_err(io::Error::other)??;
        let took = real_time().saturating_duration_since(start);
        let simulated = sim.now().since(began);
        if got < packets {
            return Err(BenchError::Lost { got, sent: packets });
        }
        Ok(Report { packets, took, simulated })
    })
}

fn world(stage: Stage) -> Result<(Sim, HostId, HostId), ConfigError> {
    let wire = Wire::both(LinkConfig::with_latency(Duration::from_millis(10)));
    let mut net = Internet::new(stage)?;
    let server = net.server("server", wire)?;
    let home = net.home("home", Preset::FullCone, wire)?;
    Ok((net.start(), home.host, server))
}

async fn send(socket: Box<dyn Datagram>, to: SocketAddr, packets: u32) -> io::Result<()> {
    let payload = [7; PAYLOAD];
    for n in 0..packets {
        socket.send_to(&payload, to).await?;
        if n % BURST == BURST - 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}

/// Reads until so many have come, or none does for a second.
async fn receive(socket: &dyn Datagram, packets: u32) -> io::Result<u32> {
    let mut buffers = [[0; PAYLOAD]; 32];
    let mut meta = [RecvMeta::default(); 32];
    let mut got = 0;
    while got < packets {
        let mut slices = buffers.each_mut().map(|b| IoSliceMut::new(b));
        let next = std::future::poll_fn(|cx| socket.poll_recv(cx, &mut slices, &mut meta));
        match tokio::time::timeout(Duration::from_secs(1), next).await {
            Ok(used) => got += u32::try_from(used?).unwrap_or(u32::MAX),
            Err(_) => break,
        }
    }
    Ok(got)
}

#[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
fn real_time() -> std::time::Instant {
    std::time::Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_datagrams_arrive() {
        let report = virtual_udp(1_000).unwrap();
        assert_eq!(report.packets, 1_000);
        assert_eq!(report.simulated, Duration::from_millis(20 + 1_000 / 64));
        assert!(report.per_second() > 0.0);
    }
}
