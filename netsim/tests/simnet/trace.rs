//! The same seed gives the same run, and a run that fails says how to repeat it.

use std::process::Command;
use std::time::Duration;

use meshwire_netsim::link::{Jitter, Loss};
use meshwire_netsim::simnet::{Internet, SEED_VARIABLE, Stage, check, run};
use meshwire_netsim::{Chance, LinkConfig, Preset, Wire};
use meshwire_transport::net::{Net as _, jitter};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{interval, sleep};

use super::{PORT, addr, content, exchange, latency, listen};

/// Tasks with TCP, UDP, timers and randomness over lossy links: its trace and the last random bytes.
async fn busy(stage: Stage) -> (Vec<u8>, [u8; 8]) {
    let mut net = Internet::new(stage).unwrap();
    let lossy = Wire::both(LinkConfig {
        loss: Loss::Independent(Chance::new(0.1).unwrap()),
        jitter: Jitter::Normal(Duration::from_micros(700)),
        ..LinkConfig::with_latency(Duration::from_millis(15))
    });
    let server = net.server("server", latency(3)).unwrap();
    let presets = [Preset::Symmetric, Preset::Cgnat, Preset::Mobile, Preset::Open];
    let homes: Vec<_> =
        presets.iter().map(|p| net.home(p.name(), *p, lossy).unwrap().host).collect();
    let sim = net.start();
    let recording = sim.record();
    let server = sim.host(server);
    let (tcp, udp) =
        (listen(&server, PORT).await, server.udp_bind(addr("0.0.0.0:53")).await.unwrap());
    tokio::spawn(async move {
        let mut buf = [0; 2_000];
        while let Ok((length, from)) = udp.recv_from(&mut buf).await {
            udp.send_to(&buf[..length], from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    let work = homes.iter().map(|id| {
        let host = sim.host(*id);
        tokio::spawn(async move {
            let socket = host.udp_bind(addr("0.0.0.0:0")).await.unwrap();
            let mut tick = interval(Duration::from_millis(7));
            for _ in 0..50 {
                tick.tick().await;
                let length = jitter(&host, 1_000);
                let data = content(usize::try_from(length).unwrap(), length);
                socket.send_to(&data, addr("203.0.113.1:53")).await.unwrap();
                sleep(Duration::from_micros(jitter(&host, 20_000))).await;
            }
            let stream = host.tcp_connect("server", PORT).await.unwrap();
            let data = content(30_000, jitter(&host, 99));
            assert!(exchange(stream, &data).await.unwrap() == data);
        })
    });
    for done in futures_util::future::join_all(work).await {
        done.unwrap();
    }
    let mut last = [0; 8];
    server.fill(&mut last);
    (recording.bytes(), last)
}

#[test]
fn one_seed_gives_one_trace() {
    let first = run(11, busy);
    assert!(first.0.len() > 100_000, "{} bytes of trace", first.0.len());
    for line in String::from_utf8(first.0.clone()).unwrap().lines() {
        assert_eq!(line.split(' ').count(), 7, "{line}");
    }
    for _ in 0..3 {
        assert!(run(11, busy) == first);
    }
    let other = run(12, busy);
    assert!(other.0 != first.0 && other.1 != first.1);
}

/// Set where a test is to fail.
const FAIL: &str = "MESHWIRE_NETSIM_TEST_FAIL";

#[test]
fn fails_when_it_is_told_to() {
    match std::env::var(FAIL).as_deref() {
        Ok("panic") => run(4_711, async |stage| panic!("seed {}", stage.seed())),
        Ok("error") => check(4_711, async |_| Err("an error")),
        Ok("stuck") => run(4_711, async |_| std::future::pending().await),
        _ => {}
    }
}

#[test]
fn a_failing_run_says_its_seed_and_how_to_repeat_it() {
    let play = |how: &str, seed: Option<&str>| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "trace::fails_when_it_is_told_to", "--nocapture"]);
        command.env(FAIL, how).env_remove(SEED_VARIABLE);
        if let Some(seed) = seed {
            command.env(SEED_VARIABLE, seed);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{how}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (how, why) in [
        ("panic", "seed 4711"),
        ("error", "the simulation failed: \"an error\""),
        ("stuck", "not done after 24 hours of virtual time"),
    ] {
        let said = play(how, None);
        assert!(said.contains(why), "{said}");
        assert!(said.contains("the simulation's seed was 4711; to replay it: "), "{said}");
        let hint = said.lines().find(|l| l.contains("to replay it")).unwrap();
        assert!(hint.contains(&format!("{SEED_VARIABLE}=4711 ")), "{hint}");
        assert!(hint.ends_with("--exact trace::fails_when_it_is_told_to --nocapture"), "{hint}");
    }
    let said = play("panic", Some("18446744073709551615"));
    assert!(said.contains("the simulation's seed was 18446744073709551615;"), "{said}");
    assert!(play("panic", Some("x")).contains("is no seed; give a number from 0 to"), "x");
}
