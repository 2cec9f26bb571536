//! `meshwire sim bench`

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use meshwire_netsim::packet::{Build, build};
use meshwire_netsim::scenario::Document;
use meshwire_netsim::{Time, bench};
use meshwire_transport::net::Net;
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::Table;

/// Packets of a measurement: about a second of an optimised build.
const PACKETS: u32 = 1_000_000;
/// The same where nothing is optimised, which is thirty times slower.
const DEBUG_PACKETS: u32 = 30_000;
/// How long iperf3 runs.
#[cfg(target_os = "linux")]
const TCP_SECONDS: u32 = 5;

/// What goes through two NATs, over links of 20 ms.
const WORLD: &str = r#"
[scenario]
name = "bench"
[[home]]
name = "a"
preset = "full-cone"
link = { latency = "20ms" }
[[home]]
name = "b"
preset = "full-cone"
link = { latency = "20ms" }
"#;

/// Measure how fast this machine simulates
///
/// Engine and virtual driver on one core, and the lab, where this machine can have one: TCP by iperf3
/// through a NAT without impairment, and what the lab adds to a round trip.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire sim bench\n  \
    meshwire sim bench --json")]
pub(crate) struct Args {}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Measured {
    engine_packets_per_second: f64,
    virtual_packets_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lab_tcp_bits_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lab_added_latency_us: Option<u64>,
    /// Why the lab was not measured, or a part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    lab_missing: Option<String>,
    optimised: bool,
}

pub(crate) async fn run(cx: &Context, Args {}: Args) -> anyhow::Result<Exit> {
    let optimised = !cfg!(debug_assertions);
    let packets = if optimised { PACKETS } else { DEBUG_PACKETS };
    let mut measured = Measured { optimised, ..Measured::default() };
    let progress = cx.progress("engine: UDP through two NATs");
    let net = Arc::clone(&cx.net);
    let engine = spawn_blocking(move || engine(net.as_ref(), packets)).await;
    measured.engine_packets_per_second = engine.context("the engine's thread")??;
    progress.say("virtual driver: UDP between two programs".to_owned());
    // A thread that has never seen another runtime.
    let ran =
        spawn_blocking(move || std::thread::spawn(move || bench::virtual_udp(packets)).join());
    let ran = ran.await.context("the simulation's thread")?;
    let report = ran.map_err(|_| anyhow!("the simulation broke off"))??;
    measured.virtual_packets_per_second = report.per_second();
    lab(&mut measured, &progress).await?;
    drop(progress);
    cx.out.show(&measured, || table(&measured).render(cx.out.width()))?;
    Ok(Exit::Ok)
}

/// Packets per second on one core, in batches of 32 as a paced sender makes them.
fn engine(net: &dyn Net, packets: u32) -> anyhow::Result<f64> {
    let document = Document::parse(WORLD)?;
    let scenario = &document.cells().first().context("a world")?.scenario;
    let plan = scenario.plan(scenario.seed).map_err(|f| anyhow!("{f}"))?;
    let (mut engine, map) = (plan.builder.build(), plan.map);
    let end = |name: &str| -> anyhow::Result<_> {
        let machine = map.host(name).context("a host")?;
        let router = scenario.routers.iter().find(|r| r.name == format!("{name}.router"));
        let outside = router.and_then(|r| r.addresses.first()).context("an address")?;
        let inside = machine.addresses().next().context("an address")?;
        Ok((machine.id, SocketAddr::new(inside, 5000), SocketAddr::new(*outside, 5000)))
    };
    let ((a, from, _), (b, back, to)) = (end("a")?, end("b")?);
    // The second one opens its port.
    engine.send(Time::ZERO, b, build(back, from, Build::Udp(b"open")));
    let packet = build(from, to, Build::Udp(&[0; 172]));
    let start = net.now();
    let (mut now, mut got) = (Time::from_secs(1), 0_u32);
    for n in 0..packets {
        engine.send(now, a, packet.clone());
        if n % 32 == 31 {
            now += Duration::from_micros(32);
            while engine.poll(now).is_some() {
                got += 1;
            }
        }
    }
    while let Some(at) = engine.next_deadline() {
        while engine.poll(at).is_some() {
            got += 1;
        }
    }
    let took = net.now().saturating_duration_since(start);
    anyhow::ensure!(got >= packets, "only {got} of {packets} packets arrived");
    Ok(f64::from(packets) / took.as_secs_f64())
}

#[cfg(target_os = "linux")]
async fn lab(measured: &mut Measured, progress: &crate::progress::Progress) -> anyhow::Result<()> {
    use meshwire_netsim::lab;
    if let Err(missing) = lab::check() {
        measured.lab_missing = Some(missing.to_string());
        return Ok(());
    }
    progress.say("lab: round trips".to_owned());
    let latency = spawn_blocking(lab::bench::added_latency).await.context("the lab's thread")?;
    let added = latency?.added().as_micros();
    measured.lab_added_latency_us = Some(u64::try_from(added).unwrap_or(u64::MAX));
    progress.say("lab: TCP through a NAT".to_owned());
    let tcp = spawn_blocking(|| lab::bench::tcp_through_nat(TCP_SECONDS)).await;
    match tcp.context("the lab's thread")? {
        Ok(rate) => measured.lab_tcp_bits_per_second = Some(rate),
        Err(e @ lab::LabError::Program { .. }) => measured.lab_missing = Some(e.to_string()),
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
async fn lab(measured: &mut Measured, _: &crate::progress::Progress) -> anyhow::Result<()> {
    measured.lab_missing = Some("the lab needs Linux".to_owned());
    Ok(())
}

fn table(measured: &Measured) -> Table {
    let mut rows = vec![
        [
            "engine, UDP through two NATs, one core".to_owned(),
            format!("{:.0} packets/s", measured.engine_packets_per_second),
        ],
        [
            "virtual driver, UDP between two programs".to_owned(),
            format!("{:.0} packets/s", measured.virtual_packets_per_second),
        ],
    ];
    rows.extend(measured.lab_tcp_bits_per_second.map(|rate| {
        ["lab, one TCP connection through a NAT".to_owned(), format!("{:.2} Gbit/s", rate / 1e9)]
    }));
    rows.extend(
        measured
            .lab_added_latency_us
            .map(|us| ["lab, added to a round trip".to_owned(), format!("{us} us")]),
    );
    rows.extend(measured.lab_missing.iter().map(|why| ["lab".to_owned(), why.replace('\n', " ")]));
    if !measured.optimised {
        let note = "this build is not optimised: use a release build".to_owned();
        rows.push(["note".to_owned(), note]);
    }
    Table::new(["WHAT", "MEASURED"], rows)
}
