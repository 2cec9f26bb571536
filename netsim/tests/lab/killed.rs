//! A lab that is killed at any moment leaves nothing behind once the next one has started.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meshwire_netsim::dice::Dice;
use meshwire_netsim::lab::Options;
use meshwire_netsim::{Preset, Wire};

use crate::world::{ready, world};

/// What the victim's program sleeps, which nobody else does: how it is found among all processes.
const VICTIM: &str = "MESHWIRE_LAB_VICTIM";

/// The process that is killed: this test binary with the variable set.
#[test]
#[ignore = "the process that the tests below kill"]
fn victim() {
    let Ok(mark) = std::env::var(VICTIM) else { return };
    let mut world = world(Preset::FullCone, Wire::default());
    let lab = world.start(Options::default());
    let sleep = || lab.command(world.alice, "sleep").expect("a host").arg(&mark).spawn();
    let mut children = vec![sleep().expect("sleep")];
    println!("\nup");
    loop {
        children.push(sleep().expect("sleep"));
        children.remove(0).kill().expect("a child");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn spawn(mark: &str) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "killed::victim", "--ignored", "--nocapture"])
        .env(VICTIM, mark)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the victim")
}

fn kill(mut victim: Child) -> u32 {
    let pid = victim.id();
    victim.kill().expect("a kill");
    victim.wait().expect("an end");
    pid
}

fn names(dir: &str) -> Vec<String> {
    let list = std::fs::read_dir(dir).into_iter().flatten().flatten();
    list.filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Namespaces, files and processes of a lab.
fn left(pid: u32, mark: &str) -> Vec<String> {
    let prefix = format!("mw{pid:x}-");
    let mut left = names("/run/netns");
    left.extend(names("/etc/netns"));
    left.retain(|n| n.starts_with(&prefix));
    let runs = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|arg| arg == mark.as_bytes())
    };
    left.extend(names("/proc").into_iter().filter(|n| n.parse::<u32>().is_ok()).filter(runs));
    left
}

/// The next start, and what it must have seen to.
fn next_start(pid: u32, mark: &str, when: &str) {
    let lab = world(Preset::FullCone, Wire::default()).start(Options::default());
    assert_eq!(left(pid, mark), [""; 0], "killed {when}");
    lab.shutdown().expect("an end");
}

#[test]
fn a_lab_killed_while_it_runs_leaves_nothing() {
    if !ready() {
        return;
    }
    let mark = format!("{}.1", 1_000_000 + std::process::id());
    let mut victim = spawn(&mark);
    let out = BufReader::new(victim.stdout.take().expect("its output"));
    assert!(out.lines().map_while(Result::ok).any(|line| line == "up"), "the victim did not start");
    assert!(left(victim.id(), &mark).len() >= 6, "three namespaces and their files");
    // A lab that runs is not swept by another.
    let other = world(Preset::Open, Wire::default()).start(Options::default());
    assert!(left(victim.id(), &mark).len() >= 6);
    other.shutdown().expect("an end");
    next_start(kill(victim), &mark, "while it ran");
}

#[test]
fn a_lab_killed_at_any_moment_leaves_nothing() {
    const SEED: u64 = 11;
    if !ready() {
        return;
    }
    let mut dice = Dice::new(SEED, "killed");
    for round in 0..16 {
        let mark = format!("{}.{}", 1_000_000 + std::process::id(), 2 + round);
        let victim = spawn(&mark);
        // The moment is the point here: anywhere in its start, or soon after.
        let after = Duration::from_millis(dice.below(150).into());
        std::thread::sleep(after);
        next_start(kill(victim), &mark, &format!("after {after:?} (seed {SEED}, round {round})"));
    }
}
