//! How fast a member may send.

/// What a member may send at once, in seconds of its rate.
const BURST_SECS: u64 = 1;
/// The part of its rate that a member has for control records, beside all else.
const CONTROL_SHARE: u64 = 16;
/// Control records per second that any rate leaves, in bytes: those of a few hundred streams that all but rest.
const CONTROL_RATE: u64 = 16 << 10;

/// A member's bytes per second: credit is told later, so that it runs out of it. Control records have a small rate of
/// their own, so that what a member reads does not wait for what it sends.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    bulk: Paid,
    control: Paid,
}

/// When all that was sent is paid for, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Paid {
    per_second: u64,
    at: u64,
}

impl Paid {
    fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), at: 0 }
    }

    fn charge(&mut self, bytes: u64, now: u64) {
        let cost = bytes.saturating_mul(1_000_000) / self.per_second;
        self.at = self.at.max(now.saturating_mul(1_000)).saturating_add(cost);
    }

    fn wait(&self, now: u64) -> u64 {
        let free = now.saturating_add(BURST_SECS * 1_000).saturating_mul(1_000);
        self.at.saturating_sub(free).div_ceil(1_000)
    }
}

impl Quota {
    /// So many bytes per second, sustained.
    #[must_use]
    pub fn new(per_second: u64) -> Self {
        let control = (per_second / CONTROL_SHARE).max(CONTROL_RATE);
        Self { bulk: Paid::new(per_second), control: Paid::new(control) }
    }

    /// Counts `bytes` at `now`, in milliseconds of a monotonic clock.
    pub fn charge(&mut self, bytes: u64, now: u64) {
        self.bulk.charge(bytes, now);
    }

    /// Counts a control record by the rate of its own. False if there were too many of them: it is not counted, and
    /// is like all else.
    pub fn charge_control(&mut self, bytes: u64, now: u64) -> bool {
        let free = self.control.wait(now) == 0;
        if free {
            self.control.charge(bytes, now);
        }
        free
    }

    /// How many milliseconds credit is to wait at `now`; 0 for none.
    #[must_use]
    pub fn wait(&self, now: u64) -> u64 {
        self.bulk.wait(now)
    }
}
