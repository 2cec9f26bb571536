//! How much a connection may have under way. `docs/performance.md` has what was measured, `docs/decisions.md` why it
//! is what it is.

mod queue;

use std::sync::Arc;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};

use self::queue::QueueConfig;

/// What finds out how much the way takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// RFC 9438: what TCP does nearly everywhere.
    Cubic,
    /// Cubic, for which a loss counts only where packets wait or where many are lost.
    #[default]
    CubicQueue,
    /// RFC 9002 section 7.
    NewReno,
    /// quinn's BBR, version 1, which it calls experimental.
    Bbr,
}

/// A connection's congestion control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Congestion {
    /// What it goes by.
    pub algorithm: Algorithm,
    /// Bytes that may be under way at first.
    pub initial_window: u64,
}

impl Default for Congestion {
    /// What nodes use.
    fn default() -> Self {
        Self { algorithm: Algorithm::default(), initial_window: INITIAL_WINDOW }
    }
}

/// Ten packets of 1,472 bytes (RFC 9002 section 7.2).
const INITIAL_WINDOW: u64 = 14_720;

impl Congestion {
    /// What quinn makes each connection's control with.
    pub(super) fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        let window = self.initial_window;
        let cubic = || {
            let mut config = CubicConfig::default();
            config.initial_window(window);
            Arc::new(config)
        };
        match self.algorithm {
            Algorithm::Cubic => cubic(),
            Algorithm::CubicQueue => Arc::new(QueueConfig(cubic())),
            Algorithm::NewReno => {
                let mut config = NewRenoConfig::default();
                config.initial_window(window);
                Arc::new(config)
            }
            Algorithm::Bbr => {
                let mut config = BbrConfig::default();
                config.initial_window(window);
                Arc::new(config)
            }
        }
    }
}
