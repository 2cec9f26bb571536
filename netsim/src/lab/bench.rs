//! What the lab itself costs, for `meshwire sim bench`.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::check::in_path;
use super::error::LabError;
use super::expect::{Expected, Way};
use super::probe;
use super::{Lab, Options, clock};
use crate::preset::Preset;
use crate::topology::{Builder, HostId, Uplink, Wire};

const IPERF: &str = "iperf3";

/// Round trips with and without the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Median round trip of UDP between two hosts, through a NAT and over perfect links.
    pub lab: Duration,
    /// Median round trip between the same programs over one host's loopback.
    pub loopback: Duration,
}

impl Latency {
    /// What the lab adds to a round trip.
    #[must_use]
    pub fn added(&self) -> Duration {
        self.lab.saturating_sub(self.loopback)
    }
}

/// A server, and a machine behind a full-cone NAT, over perfect links.
fn world() -> Result<(Builder, HostId, HostId), LabError> {
    let ip = |a, b, c, d| std::net::Ipv4Addr::new(a, b, c, d).into();
    let mut world = Builder::new(0);
    let core = world.core("internet")?;
    let lan = world.segment("lan", &[crate::Prefix::new(ip(192, 168, 1, 0), 24)?])?;
    let addresses = [ip(198, 18, 0, 1)];
    let uplink = Uplink { net: core, addresses: &addresses, routed: &[], wire: Wire::default() };
    let router = world.router("home", Preset::FullCone.router(), &uplink)?;
    world.inside(router, lan, &[ip(192, 168, 1, 1)], &[], Wire::default())?;
    let (inside, server) = (world.host("inside")?, world.host("server")?);
    world.attach(inside, lan, &[ip(192, 168, 1, 2)], Wire::default())?;
    world.attach(server, core, &[ip(203, 0, 113, 1)], Wire::default())?;
    Ok((world, inside, server))
}

/// The median round trip that the lab adds to UDP.
///
/// # Errors
/// As [`Lab::start`] and [`Lab::measure`].
pub fn added_latency() -> Result<Latency, LabError> {
    let (world, inside, server) = world()?;
    let lab = Lab::start(world, Options::default())?;
    let through = lab.measure(inside, server)?;
    let loopback = lab.enter(server, || {
        let local = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), 0);
        let (near, far) = (clock::udp(local)?, clock::udp(local)?);
        let to = far.local_addr()?;
        let perfect = Expected { there: Way::default(), back: Way::default() };
        probe::measure(&near, &far, to, &perfect)
    })?;
    let loopback = loopback.map_err(LabError::system("send probes"))?;
    lab.shutdown()?;
    Ok(Latency { lab: through.rtt, loopback: loopback.rtt })
}

/// Bits per second of one TCP connection from inside a NAT to a server, by iperf3, over perfect links.
///
/// # Errors
/// As [`Lab::start`]; [`LabError::Program`] when iperf3 is missing or fails.
pub fn tcp_through_nat(seconds: u32) -> Result<f64, LabError> {
    if !in_path(IPERF) {
        return Err(program("not found; install it with `apt-get install iperf3`"));
    }
    let (world, inside, server) = world()?;
    let lab = Lab::start(world, Options::default())?;
    let mut listening = serve(&lab, server)?;
    let seconds = seconds.max(1).to_string();
    let out = lab.command(inside, IPERF)?.args(["-c", "server", "-J", "-t", &seconds]).output();
    let out = out.map_err(LabError::system("run iperf3"))?;
    // It serves once; if the client never came, it is ended here.
    let _ = listening.kill();
    let _ = listening.wait();
    lab.shutdown()?;
    received(&String::from_utf8_lossy(&out.stdout))
}

fn serve(lab: &Lab, server: HostId) -> Result<Child, LabError> {
    let mut child = lab
        .command(server, IPERF)?
        .args(["-s", "-1", "--forceflush"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(LabError::system("run iperf3"))?;
    let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(|out| out.lines());
    for line in lines.map_while(Result::ok) {
        if line.contains("listening") {
            return Ok(child);
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(program("the server ended before it listened"))
}

/// What iperf3 says that arrived.
fn received(json: &str) -> Result<f64, LabError> {
    let report: serde_json::Value =
        serde_json::from_str(json).map_err(|_| program("said something that is not JSON"))?;
    if let Some(error) = report.get("error").and_then(|e| e.as_str()) {
        return Err(program(error));
    }
    let rate = report.pointer("/end/sum_received/bits_per_second").and_then(|r| r.as_f64());
    rate.ok_or_else(|| program("its report has no end.sum_received.bits_per_second"))
}

fn program(message: &str) -> LabError {
    LabError::Program { program: IPERF, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iperfs_report_is_read() {
        let json = r#"{"end":{"sum_received":{"bits_per_second":1.5e9}}}"#;
        assert!((received(json).expect("a rate") - 1.5e9).abs() < 1.0);
        let refused = received(r#"{"error":"unable to connect"}"#).expect_err("an error");
        assert_eq!(refused.to_string(), "iperf3: unable to connect");
        assert!(received("{}").is_err() && received("").is_err());
    }
}
