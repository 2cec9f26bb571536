//! The runtime that a simulation runs on: one thread, paused clock, and a hook that says when nothing
//! else can run.

use std::fmt;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The variable that overrides the seed of every [`run`].
pub const SEED_VARIABLE: &str = "MESHWIRE_SIM_SEED";

/// Virtual time after which [`run`] gives up: far above any scenario, and the end of one in which every
/// task waits for something that never comes.
pub const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What [`run`] hands to a simulation; [`super::Sim::new`] takes it.
#[derive(Debug)]
pub struct Stage {
    seed: u64,
    pub(super) idle: Arc<Idle>,
}

impl Stage {
    /// The seed of this run, for [`crate::Builder::new`].
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// Runs a simulation to its end in virtual time, on a runtime of its own with one thread and without
/// I/O. `seed` is everything random in it, unless [`SEED_VARIABLE`] is set.
///
/// When it panics, the seed and the command that replays it go to standard error.
///
/// # Panics
/// When the variable is no number, inside another tokio runtime, and after [`LIMIT`] of virtual time.
pub fn run<T>(seed: u64, simulation: impl AsyncFnOnce(Stage) -> T) -> T {
    let seed = match std::env::var(SEED_VARIABLE) {
        Err(_) => seed,
        Ok(text) => text.trim().parse().unwrap_or_else(|_| {
            panic!("{SEED_VARIABLE}={text:?} is no seed; give a number from 0 to {}", u64::MAX)
        }),
    };
    let _report = Report(seed);
    let idle = Arc::new(Idle::default());
    let hook = Arc::clone(&idle);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_park(move || hook.parking())
        .build();
    let runtime = runtime.unwrap_or_else(|e| panic!("no runtime for the simulation: {e}"));
    runtime.block_on(async {
        let whole = tokio::time::timeout(LIMIT, Box::pin(simulation(Stage { seed, idle })));
        whole.await.unwrap_or_else(|_| {
            let hours = LIMIT.as_secs() / 3600;
            panic!("not done after {hours} hours of virtual time: it waits for what never comes")
        })
    })
}

/// As [`run`], for a simulation that says by an error that it failed.
///
/// # Panics
/// As [`run`], and with the simulation's error.
pub fn check<E: fmt::Debug>(seed: u64, simulation: impl AsyncFnOnce(Stage) -> Result<(), E>) {
    run(seed, async |stage| {
        if let Err(e) = simulation(stage).await {
            panic!("the simulation failed: {e:?}");
        }
    });
}

/// Says how to replay a run that panics.
struct Report(u64);

impl Drop for Report {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let command: Vec<String> = std::env::args().collect();
            let (seed, command) = (self.0, command.join(" "));
            // Nobody is left to tell that standard error is closed.
            let _ = writeln!(
                std::io::stderr(),
                "the simulation's seed was {seed}; to replay it: {SEED_VARIABLE}={seed} {command}"
            );
        }
    }
}

/// Wakes the pump when there is something to do and no other task can run. The runtime calls
/// [`Idle::parking`] before it would sleep, which a task cannot find out by itself.
#[derive(Default)]
pub(super) struct Idle {
    armed: AtomicBool,
    fired: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Idle {
    /// Something is to be done at the next idle moment.
    pub(super) fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    fn parking(&self) {
        if self.armed.swap(false, Ordering::Relaxed) {
            self.fired.store(true, Ordering::Relaxed);
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Ready once per idle moment that was armed for.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.fired.swap(false, Ordering::Relaxed) {
            return Poll::Ready(());
        }
        let mut slot = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !slot.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Idle")
    }
}
