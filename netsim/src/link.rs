//! One direction of a link, as a sans-IO type: packets' lengths in, fates and times out.
//!
//! A packet meets, in this order: state of the link, loss, the queue, serialisation at the link's rate,
//! latency with jitter, reordering, corruption, duplication. Jitter alone never reorders: a packet that
//! would overtake arrives right behind the one before it, as in a router's queue. Reordering is its own
//! setting.

use std::time::Duration;

use crate::dice::{Chance, Dice};
use crate::error::ConfigError;
use crate::reason::Reason;
use crate::time::{Time, nanos};

/// What a direction of a link does to packets. The default is a perfect wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Time from one end to the other.
    pub latency: Duration,
    /// How much that varies.
    pub jitter: Jitter,
    /// How packets are lost.
    pub loss: Loss,
    /// How fast it is; unlimited if none.
    pub rate: Option<Rate>,
    /// How many packets are held back.
    pub reorder: Option<Reorder>,
    /// How many packets arrive twice, the second time right behind the first.
    pub duplicate: Chance,
    /// How many packets have one random bit flipped.
    pub corrupt: Chance,
    /// Largest packet in bytes, IP header included.
    pub mtu: u32,
    /// Whether the sender of a larger packet is told (ICMP fragmentation needed, packet too big); a
    /// path MTU black hole if not.
    pub mtu_signal: bool,
}

/// Variation of latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// None.
    None,
    /// Uniform between `latency - spread` and `latency + spread`, never below zero.
    Uniform(Duration),
    /// Near to normal around `latency` with this standard deviation: the sum of twelve uniform draws
    /// (Irwin–Hall), so never more than six deviations away, and never below zero.
    Normal(Duration),
}

/// How packets are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// None.
    None,
    /// Each with this chance, independently.
    Independent(Chance),
    /// Gilbert–Elliott: a good and a bad state, left before each packet with these chances. Stationary
    /// share of the bad state: `enter / (enter + leave)`; mean stay in it: `1 / leave` packets.
    Burst {
        /// Good to bad.
        enter: Chance,
        /// Bad to good.
        leave: Chance,
        /// Loss in the good state.
        good: Chance,
        /// Loss in the bad state.
        bad: Chance,
    },
}

/// A rate with a queue in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bits per second.
    pub bits_per_second: u64,
    /// Bytes that may wait, the packet being sent included; what comes when they are full is dropped.
    pub queue_bytes: u64,
}

/// Holding packets back, so that later ones overtake them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reorder {
    /// Which packets.
    pub chance: Chance,
    /// How long.
    pub delay: Duration,
}

/// Whether a link works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// It works.
    #[default]
    Up,
    /// It does not, and both ends see it. What is on it when it goes down is lost.
    Down,
    /// It seems to work, and nothing that is sent from now on arrives.
    BlackHole,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            jitter: Jitter::None,
            loss: Loss::None,
            rate: None,
            reorder: None,
            duplicate: Chance::NEVER,
            corrupt: Chance::NEVER,
            mtu: 1500,
            mtu_signal: true,
        }
    }
}

impl LinkConfig {
    /// A wire with nothing but latency.
    #[must_use]
    pub fn with_latency(latency: Duration) -> Self {
        Self { latency, ..Self::default() }
    }

    /// # Errors
    /// [`ConfigError`] for what no link can be.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.mtu < 68 {
            return Err(ConfigError::Mtu(self.mtu));
        }
        if let Some(Rate { bits_per_second, queue_bytes }) = self.rate {
            if bits_per_second == 0 {
                return Err(ConfigError::Rate);
            }
            if queue_bytes < u64::from(self.mtu) {
                return Err(ConfigError::Queue { queue: queue_bytes, mtu: self.mtu });
            }
        }
        match self.loss {
            Loss::Burst { enter, leave, .. }
                if enter == Chance::NEVER || leave == Chance::NEVER =>
            {
                Err(ConfigError::Burst)
            }
            _ => Ok(()),
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes nowhere.
    Dropped(Reason),
    /// It arrives.
    Arrives {
        /// When.
        at: Time,
        /// Which of its bits flips on the way, if one does.
        flip: Option<u32>,
        /// When it arrives once more, if it does.
        again: Option<Time>,
    },
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct Link {
    config: LinkConfig,
    state: LinkState,
    dice: Dice,
    bad: bool,
    /// When the last bit of the queue is out.
    busy_until: Time,
    /// Nothing but reordered packets arrives before this.
    last_arrival: Time,
}

impl Link {
    /// # Errors
    /// What [`LinkConfig::check`] refuses.
    pub fn new(config: LinkConfig, dice: Dice) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            config,
            state: LinkState::Up,
            dice,
            bad: false,
            busy_until: Time::ZERO,
            last_arrival: Time::ZERO,
        })
    }

    /// What it does.
    #[must_use]
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Whether it works.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// Changes what it does from the next packet on.
    ///
    /// # Errors
    /// What [`LinkConfig::check`] refuses; nothing changes.
    pub fn configure(&mut self, config: LinkConfig) -> Result<(), ConfigError> {
        config.check()?;
        self.config = config;
        Ok(())
    }

    /// Changes whether it works. A link that goes down forgets its queue.
    pub fn set_state(&mut self, now: Time, state: LinkState) {
        if state == LinkState::Down {
            (self.busy_until, self.last_arrival) = (now, now);
        }
        self.state = state;
    }

    /// A packet of `length` bytes is sent. The MTU is the sender's to heed.
    pub fn send(&mut self, now: Time, length: usize) -> Fate {
        match self.state {
            LinkState::Up => {}
            LinkState::Down => return Fate::Dropped(Reason::LinkDown),
            LinkState::BlackHole => return Fate::Dropped(Reason::BlackHole),
        }
        if self.loses() {
            return Fate::Dropped(Reason::Loss);
        }
        let out = match self.config.rate {
            None => now,
            Some(rate) => match self.serialise(now, length, rate) {
                Some(out) => out,
                None => return Fate::Dropped(Reason::QueueFull),
            },
        };
        let due = self.delayed(out);
        let held = self.config.reorder.filter(|r| self.dice.happens(r.chance));
        let at = match held {
            Some(reorder) => due + reorder.delay,
            None => {
                self.last_arrival = self.last_arrival.max(due);
                self.last_arrival
            }
        };
        let bits = u32::try_from(length.saturating_mul(8)).unwrap_or(u32::MAX);
        let flip = self.dice.happens(self.config.corrupt).then(|| self.dice.below(bits));
        let again = self.dice.happens(self.config.duplicate).then_some(at);
        Fate::Arrives { at, flip, again }
    }

    fn loses(&mut self) -> bool {
        match self.config.loss {
            Loss::None => false,
            Loss::Independent(chance) => self.dice.happens(chance),
            Loss::Burst { enter, leave, good, bad } => {
                if self.dice.happens(if self.bad { leave } else { enter }) {
                    self.bad = !self.bad;
                }
                self.dice.happens(if self.bad { bad } else { good })
            }
        }
    }

    /// When the packet's last bit is out; None when it finds no room in the queue.
    fn serialise(&mut self, now: Time, length: usize, rate: Rate) -> Option<Time> {
        let bits = |nanos: u64| u128::from(nanos) * u128::from(rate.bits_per_second);
        let backlog = nanos(self.busy_until.since(now));
        let waiting = bits(backlog) / 8_000_000_000;
        let length = u128::try_from(length).unwrap_or(u128::MAX);
        if waiting + length > u128::from(rate.queue_bytes) {
            return None;
        }
        let takes = (length * 8_000_000_000).div_ceil(u128::from(rate.bits_per_second));
        let start = self.busy_until.max(now);
        self.busy_until = start.plus_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
        Some(self.busy_until)
    }

    fn delayed(&mut self, out: Time) -> Time {
        let latency = nanos(self.config.latency);
        let (draw, centre) = match self.config.jitter {
            Jitter::None => (0, 0),
            Jitter::Uniform(spread) => {
                let spread = nanos(spread).min(u64::MAX / 2);
                (self.dice.up_to(2 * spread), spread)
            }
            Jitter::Normal(deviation) => {
                // Twelve uniform draws of 0..=d have mean 6 d and deviation d.
                let deviation = nanos(deviation).min(u64::MAX / 12);
                ((0..12).map(|_| self.dice.up_to(deviation)).sum(), 6 * deviation)
            }
        };
        out.plus_nanos(latency.saturating_add(draw).saturating_sub(centre))
    }
}
