//! Long work shows that it goes on: a spinner on stderr where that is a terminal, else nothing.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};

/// Often enough to look alive.
const TICK: Duration = Duration::from_millis(100);

/// Work that goes on; the spinner goes away when this is dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Shows `text` beside a spinner, unless programs read the output.
    pub(crate) fn start(json: bool, text: impl Into<String>) -> Self {
        let bar = ProgressBar::new_spinner().with_message(text.into());
        if json || !stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        } else {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// Shows another text from now on.
    pub(crate) fn say(&self, text: String) {
        self.0.set_message(text);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
