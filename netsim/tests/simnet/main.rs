//! Tokio programs on simulated hosts: [`meshwire_netsim::simnet`].

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers panic, which is what they are for

mod bulk;
mod hosts;
mod links;
mod tcp;
mod trace;
mod udp;

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use meshwire_netsim::simnet::{Home, Internet, Sim, SimHost, Stage};
use meshwire_netsim::{LinkConfig, Preset, Wire};
use meshwire_transport::net::{BoxStream, Listener, Net as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What a test's simulation gives.
type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// The port that every preset lets through.
const PORT: u16 = 443;

/// A home behind a preset, and a server named `server`.
struct Pair {
    sim: Sim,
    home: Home,
    client: SimHost,
    server: SimHost,
}

impl Pair {
    /// With these links at the home's uplink and at the server.
    fn new(stage: Stage, preset: Preset, uplink: Wire, server: Wire) -> Self {
        let mut net = Internet::new(stage).unwrap();
        let far = net.server("server", server).unwrap();
        let home = net.home("home", preset, uplink).unwrap();
        let sim = net.start();
        let (client, server) = (sim.host(home.host), sim.host(far));
        Self { sim, home, client, server }
    }

    /// A connection's two ends, the client's first.
    async fn connect(&self) -> (BoxStream, BoxStream) {
        let listener = listen(&self.server, PORT).await;
        let (near, far) = tokio::join!(self.client.tcp_connect("server", PORT), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }
}

/// Latency alone, both ways.
fn latency(ms: u64) -> Wire {
    Wire::both(LinkConfig::with_latency(Duration::from_millis(ms)))
}

/// A listener on all addresses.
async fn listen(host: &SimHost, port: u16) -> Box<dyn Listener> {
    host.tcp_bind(format!("[::]:{port}").parse().unwrap()).await.unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Bytes that no other offset has nearby, so that nothing moved or missing goes unnoticed.
fn content(length: usize, salt: u64) -> Vec<u8> {
    let word = |n: usize| (n as u64 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    (0..length.div_ceil(8)).flat_map(word).take(length).collect()
}

/// Writes all of it, closes that direction, and reads the other to its end.
async fn exchange(stream: BoxStream, data: &[u8]) -> io::Result<Vec<u8>> {
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        write.write_all(data).await?;
        write.shutdown().await
    };
    let mut got = Vec::new();
    let reading = async { read.read_to_end(&mut got).await };
    tokio::try_join!(writing, reading)?;
    Ok(got)
}
