//! A lab that is killed at any moment leaves nothing behind once the next one has started.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meshwire_netsim::dice::Dice;
use meshwire_netsim::lab::Options;
use meshwire_netsim::{Preset, Wire};

use crate::world::{ready, world};

/// Set for the victim and inherited by all that it starts: how they are found among all processes.
const VICTIM: &str = "MESHWIRE_LAB_VICTIM";

/// At the end of the variable's value: the victim's first lab stays.
const STAYS: &str = ".stays";

/// What the victim does, over and over; it says which begins.
const PHASES: [&str; 3] = ["starting", "running", "stopping"];

/// The process that is killed: this test binary with the variable set. It starts a lab, runs programs
/// that start others, and stops the lab.
#[test]
#[ignore = "the process that the tests below kill"]
fn victim() {
    let Ok(mark) = std::env::var(VICTIM) else { return };
    let say = |phase: usize| println!("\n{}", PHASES[phase]);
    loop {
        say(0);
        let mut world = world(Preset::FullCone, Wire::default());
        let lab = world.start(Options::default());
        say(1);
        let family = || {
            let mut shell = lab.command(world.alice, "sh").expect("a host");
            shell.args(["-c", "sleep 86400 & sleep 86400 & wait"]).spawn().expect("a shell")
        };
        let mut children = vec![family()];
        let mut rounds = 0;
        while rounds < 10 || mark.ends_with(STAYS) {
            rounds += 1;
            children.push(family());
            children[0].kill().expect("a child");
            children.remove(0).wait().expect("its end");
            std::thread::sleep(Duration::from_millis(5));
        }
        say(2);
        lab.shutdown().expect("an end");
        children.iter_mut().for_each(|c| drop(c.wait()));
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

/// A victim whose phase has just begun.
fn victim_in(phase: &str, mark: &str) -> Child {
    let mut victim = spawn(mark);
    let mut out = BufReader::new(victim.stdout.take().expect("its output"));
    let mut line = String::new();
    while line.trim() != phase {
        line.clear();
        assert!(out.read_line(&mut line).expect("a line") > 0, "the victim ended before {phase}");
    }
    // What else it says is for nobody, and must not stop it.
    victim.stdout = Some(out.into_inner());
    victim
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

/// Namespaces, their files and mounts, and processes of a lab. Its devices are inside its namespaces.
fn left(pid: u32, mark: &str) -> Vec<String> {
    let prefix = format!("mw{pid:x}-");
    let mut left = names("/run/netns");
    left.extend(names("/etc/netns"));
    left.retain(|n| n.starts_with(&prefix));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    left.extend(mounts.lines().filter(|l| l.contains(&prefix)).map(str::to_owned));
    let variable = format!("{VICTIM}={mark}");
    let inherited = |dir: &String| {
        let all = std::fs::read(format!("/proc/{dir}/environ")).unwrap_or_default();
        all.split(|b| *b == 0).any(|v| v == variable.as_bytes())
    };
    let number = |n: &String| n.parse::<u32>().is_ok_and(|n| n != pid);
    left.extend(names("/proc").into_iter().filter(number).filter(inherited));
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
    let mark = format!("{}{STAYS}", std::process::id());
    let victim = victim_in(PHASES[1], &mark);
    let running = left(victim.id(), &mark);
    assert!(running.len() >= 9, "three namespaces, their files and mounts: {running:?}");
    // A lab that runs is not swept by another.
    let other = world(Preset::Open, Wire::default()).start(Options::default());
    assert!(left(victim.id(), &mark).len() >= 9);
    other.shutdown().expect("an end");
    next_start(kill(victim), &mark, "while it ran");
}

#[test]
fn a_lab_killed_at_any_moment_leaves_nothing() {
    const SEED: u64 = 11;
    const ROUNDS: u32 = 10;
    if !ready() {
        return;
    }
    let mut dice = Dice::new(SEED, "killed");
    for (phase, longest) in PHASES.into_iter().zip([150_000, 80_000, 60_000]) {
        for round in 0..ROUNDS {
            let mark = format!("{}.{phase}.{round}", std::process::id());
            let victim = victim_in(phase, &mark);
            // The moment is the point here.
            let after = Duration::from_micros(dice.below(longest).into());
            std::thread::sleep(after);
            let when = format!("{after:?} after {phase} (seed {SEED}, round {round})");
            next_start(kill(victim), &mark, &when);
        }
    }
}
