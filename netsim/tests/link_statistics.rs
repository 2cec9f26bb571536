//! What links do, counted with fixed seeds. Bounds are four standard errors wide unless said.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use meshwire_netsim::dice::Dice;
use meshwire_netsim::link::{Fate, Jitter, Link, Loss, Rate, Reorder};
use meshwire_netsim::{Chance, LinkConfig, LinkState, Reason, Time};

const N: u32 = 100_000;

fn link(config: LinkConfig) -> Link {
    Link::new(config, Dice::new(42, "test")).unwrap()
}

fn chance(p: f64) -> Chance {
    Chance::new(p).unwrap()
}

/// One-way delays in milliseconds of packets 100 ms apart, in order of sending.
fn delays(config: LinkConfig) -> Vec<f64> {
    let mut link = link(config);
    (0..N)
        .map(|n| {
            let now = Time::from_millis(u64::from(n) * 100);
            match link.send(now, 100) {
                Fate::Arrives { at, .. } => at.since(now).as_secs_f64() * 1000.0,
                Fate::Dropped(r) => panic!("{r}"),
            }
        })
        .collect()
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = f64::from(u32::try_from(values.len()).unwrap());
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
}

fn near(value: f64, expected: f64, bound: f64) {
    assert!((value - expected).abs() <= bound, "{value}, expected {expected} ± {bound}");
}

#[test]
fn latency_is_exact_without_jitter() {
    let all = delays(LinkConfig::with_latency(Duration::from_millis(40)));
    assert!(all.iter().all(|d| (d - 40.0).abs() < 1e-9));
}

#[test]
fn uniform_jitter_has_its_mean_and_spread() {
    let jitter = Jitter::Uniform(Duration::from_millis(10));
    let all = delays(LinkConfig { jitter, ..LinkConfig::with_latency(Duration::from_millis(40)) });
    let (mean, deviation) = mean_and_deviation(&all);
    near(mean, 40.0, 4.0 * 5.774 / f64::from(N).sqrt());
    near(deviation, 10.0 / 3_f64.sqrt(), 0.05);
    assert!(all.iter().all(|d| (30.0..=50.0).contains(d)));
}

#[test]
fn normal_jitter_has_its_mean_deviation_and_tails() {
    let jitter = Jitter::Normal(Duration::from_millis(5));
    let all = delays(LinkConfig { jitter, ..LinkConfig::with_latency(Duration::from_millis(40)) });
    let (mean, deviation) = mean_and_deviation(&all);
    near(mean, 40.0, 4.0 * 5.0 / f64::from(N).sqrt());
    near(deviation, 5.0, 0.05);
    let within = all.iter().filter(|d| (**d - 40.0).abs() < 5.0).count();
    near(f64::from(u32::try_from(within).unwrap()) / f64::from(N), 0.683, 0.01);
}

#[test]
fn jitter_alone_never_reorders() {
    let jitter = Jitter::Uniform(Duration::from_millis(10));
    let mut link =
        link(LinkConfig { jitter, ..LinkConfig::with_latency(Duration::from_millis(40)) });
    let mut last = Time::ZERO;
    for n in 0..10_000 {
        let Fate::Arrives { at, .. } = link.send(Time::from_millis(n), 100) else { panic!() };
        assert!(at >= last);
        last = at;
    }
}

/// Which of `N` packets are lost.
fn losses(loss: Loss) -> Vec<bool> {
    let mut link = link(LinkConfig { loss, ..LinkConfig::default() });
    (0..N).map(|_| link.send(Time::ZERO, 100) == Fate::Dropped(Reason::Loss)).collect()
}

fn share(flags: &[bool]) -> f64 {
    f64::from(u32::try_from(flags.iter().filter(|f| **f).count()).unwrap()) / f64::from(N)
}

/// Mean length of runs of losses.
fn burst(flags: &[bool]) -> f64 {
    let runs = flags.windows(2).filter(|w| !w[0] && w[1]).count();
    share(flags) * f64::from(N) / f64::from(u32::try_from(runs).unwrap())
}

#[test]
fn independent_loss_has_its_rate_and_short_bursts() {
    let lost = losses(Loss::Independent(chance(0.3)));
    near(share(&lost), 0.3, 4.0 * (0.3 * 0.7 / f64::from(N)).sqrt());
    near(burst(&lost), 1.0 / 0.7, 0.03);
}

#[test]
fn gilbert_elliott_loss_has_its_rate_and_burst_length() {
    let (enter, leave) = (0.01, 0.25);
    let lost = losses(Loss::Burst {
        enter: chance(enter),
        leave: chance(leave),
        good: Chance::NEVER,
        bad: Chance::ALWAYS,
    });
    // Packets of a burst are not independent: the bound is wider by their correlation.
    near(share(&lost), enter / (enter + leave), 0.005);
    near(burst(&lost), 1.0 / leave, 0.3);
}

#[test]
fn gilbert_elliott_mixes_both_states_losses() {
    let lost = losses(Loss::Burst {
        enter: chance(0.02),
        leave: chance(0.08),
        good: chance(0.01),
        bad: chance(0.5),
    });
    near(share(&lost), 0.8 * 0.01 + 0.2 * 0.5, 0.01);
}

#[test]
fn rate_and_queue_are_what_they_are_set_to() {
    // 8 Mbit/s: a packet of 1,000 bytes takes 1 ms; ten of them fit.
    let rate = Some(Rate { bits_per_second: 8_000_000, queue_bytes: 10_000 });
    let mut link = link(LinkConfig { rate, ..LinkConfig::default() });
    let burst: Vec<_> = (0..15).map(|_| link.send(Time::ZERO, 1000)).collect();
    for (n, fate) in (1..).zip(&burst) {
        match fate {
            Fate::Arrives { at, .. } => assert_eq!((n <= 10, *at), (true, Time::from_millis(n))),
            Fate::Dropped(reason) => assert_eq!((n > 10, *reason), (true, Reason::QueueFull)),
        }
    }
    // Offered twice its rate for ten seconds, it carries its rate.
    let (mut carried, mut last) = (0_u64, Time::ZERO);
    for n in 0..20_000 {
        let now = Time::from_secs(1) + Duration::from_micros(500 * n);
        if let Fate::Arrives { at, .. } = link.send(now, 1000) {
            carried += 8000;
            last = at;
        }
    }
    let seconds = last.since(Time::from_secs(1)).as_secs_f64();
    near(f64::from(u32::try_from(carried).unwrap()) / seconds, 8e6, 8e4);
}

#[test]
fn reordering_duplication_and_corruption_have_their_shares() {
    let mut link = link(LinkConfig {
        latency: Duration::from_millis(10),
        reorder: Some(Reorder { chance: chance(0.05), delay: Duration::from_millis(7) }),
        duplicate: chance(0.02),
        corrupt: chance(0.03),
        ..LinkConfig::default()
    });
    let (mut late, mut twice, mut flipped) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..N {
        let now = Time::from_millis(n.into());
        let Fate::Arrives { at, flip, again } = link.send(now, 100) else { panic!() };
        late.push(at.since(now) == Duration::from_millis(17));
        twice.push(again.is_some());
        flipped.push(flip.is_some());
        assert!(flip.is_none_or(|bit| bit < 800));
    }
    near(share(&late), 0.05, 0.003);
    near(share(&twice), 0.02, 0.002);
    near(share(&flipped), 0.03, 0.0022);
}

#[test]
fn states_and_changes_take_effect_at_once() {
    let mut link = link(LinkConfig::default());
    link.set_state(Time::ZERO, LinkState::Down);
    assert_eq!(link.send(Time::ZERO, 1), Fate::Dropped(Reason::LinkDown));
    link.set_state(Time::ZERO, LinkState::BlackHole);
    assert_eq!(link.send(Time::ZERO, 1), Fate::Dropped(Reason::BlackHole));
    link.set_state(Time::ZERO, LinkState::Up);
    link.configure(LinkConfig::with_latency(Duration::from_millis(3))).unwrap();
    let Fate::Arrives { at, .. } = link.send(Time::ZERO, 1) else { panic!() };
    assert_eq!(at, Time::from_millis(3));
    let loss = Loss::Independent(Chance::ALWAYS);
    link.configure(LinkConfig { loss, ..LinkConfig::default() }).unwrap();
    assert_eq!(link.send(Time::ZERO, 1), Fate::Dropped(Reason::Loss));
}

#[test]
fn links_that_cannot_be_are_refused() {
    let base = LinkConfig::default();
    let rate = |bits_per_second, queue_bytes| Some(Rate { bits_per_second, queue_bytes });
    assert!(LinkConfig { mtu: 67, ..base }.check().is_err());
    assert!(LinkConfig { rate: rate(0, 10_000), ..base }.check().is_err());
    assert!(LinkConfig { rate: rate(1, 1499), ..base }.check().is_err());
    let stuck = Loss::Burst {
        enter: chance(0.1),
        leave: Chance::NEVER,
        good: Chance::NEVER,
        bad: Chance::ALWAYS,
    };
    assert!(LinkConfig { loss: stuck, ..base }.check().is_err());
    for p in [-0.1, 1.1, f64::NAN] {
        assert!(Chance::new(p).is_err());
    }
}
