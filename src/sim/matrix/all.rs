//! Plays many cells, on all cores.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::cell::Cell;
use super::play::{Outcome, play};
use crate::sim::report::panic_text;

/// Plays cells, each in a world of its own with the same seed; the outcomes are in the order of the
/// cells. `tell` hears of each cell that is done, from several threads. Blocks until all are.
#[must_use]
pub fn play_all(
    cells: &[Cell],
    seed: u64,
    quic: bool,
    tell: &(dyn Fn(&Outcome) + Sync),
) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(cells.len()));
    let work = || {
        while let Some((at, cell)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            cells.get(at).map(|cell| (at, *cell))
        } {
            let outcome = catch_unwind(|| play(cell, seed, quic))
                .unwrap_or_else(|panic| Outcome::broken(cell, seed, panic_text(&*panic)));
            tell(&outcome);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((at, outcome));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(cells.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}
