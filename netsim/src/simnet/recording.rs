//! A trace that is kept.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use crate::trace::Trace;

/// The trace of a simulation since [`super::Sim::record`], a line per event:
/// `ns place source destination protocol length event`.
#[derive(Clone, Debug, Default)]
pub struct Recording(Arc<Mutex<Vec<u8>>>);

impl Recording {
    pub(crate) fn hook(&self) -> impl FnMut(&Trace<'_>) + Send + 'static {
        let lines = Arc::clone(&self.0);
        move |trace| {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            // Memory takes every write.
            let _ = writeln!(lines, "{trace}");
        }
    }

    /// What there is so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
