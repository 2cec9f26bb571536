//! Tokio programs as hosts of the engine, in one process and in virtual time.
//!
//! Each host is a [`SimHost`], which is a [`meshwire_transport::net::Net`]: TCP (smoltcp's, over the
//! engine's packets), UDP, wall clock, randomness. A program that reaches the outside through it alone
//! runs unchanged. Time is tokio's paused clock: it stands still while anything can run, and jumps to
//! the next packet or timer when nothing can. An hour of waiting costs nothing.
//!
//! Two programs behind two NATs, with UDP hole punching:
//!
//! ```
//! use meshwire_netsim::simnet::{Internet, check};
//! use meshwire_netsim::{Preset, Wire};
//! use meshwire_transport::net::Net as _;
//!
//! check(7, async |stage| {
//!     let mut net = Internet::new(stage)?;
//!     let alice = net.home("alice", Preset::PortRestricted, Wire::default())?;
//!     let bob = net.home("bob", Preset::FullCone, Wire::default())?;
//!     let sim = net.start();
//!     let (a, b) = (sim.host(alice.host), sim.host(bob.host));
//!     let a = a.udp_bind("0.0.0.0:4000".parse()?).await?;
//!     let b = b.udp_bind("0.0.0.0:4000".parse()?).await?;
//!     b.send_to(b"open", (alice.outside, 4000).into()).await?;
//!     a.send_to(b"hello", (bob.outside, 4000).into()).await?;
//!     let mut buf = [0; 16];
//!     let (length, from) = b.recv_from(&mut buf).await?;
//!     assert_eq!((&buf[..length], from), (&b"hello"[..], (alice.outside, 4000).into()));
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! });
//! ```
//!
//! # What is the same each time
//! Packets, their times, ports, sequence numbers, what [`Net::fill`] gives: all follow from the seed. A
//! program must do its part: no other clock, no other randomness, no threads (`spawn_blocking`, files,
//! databases), and nothing that hangs on the order of a `HashMap` or of `tokio::select!` without
//! `biased`, which both draw from the process.
//!
//! [`Net::fill`]: meshwire_transport::net::Net::fill

mod conn;
mod host;
mod internet;
mod local;
mod pump;
mod reassembly;
mod recording;
mod sent;
mod stage;
mod tcp;
mod udp;
mod world;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use host::SimHost;
pub use internet::{Home, Internet};
pub use local::SocketOptions;
pub use recording::Recording;
pub use stage::{LIMIT, SEED_VARIABLE, Stage, check, run};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::stage::Idle;
use self::world::World;
use crate::change::Change;
use crate::engine::Engine;
use crate::error::ConfigError;
use crate::time::Time;
use crate::topology::{Builder, HostId, IfaceId};

/// The wall clock when a simulation begins: 2026-01-01T00:00:00Z, in Unix milliseconds.
pub const EPOCH_MS: u64 = 1_767_225_600_000;

/// A running simulation. When the last clone is gone, nothing moves any more.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
    _pump: Arc<Pump>,
}

/// Stops the pump with the simulation.
struct Pump(AbortHandle);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Sim {
    /// Starts a world that was described by `builder`, best with [`Stage::seed`].
    ///
    /// # Panics
    /// Outside [`run`].
    #[must_use]
    pub fn new(stage: Stage, builder: Builder) -> Self {
        let seed = builder.seed();
        let world = Mutex::new(World::new(seed, builder.build()));
        let changes = watch::Sender::new(0);
        let shared = Arc::new(Shared { world, changes, idle: stage.idle, epoch: Instant::now() });
        let pump = tokio::spawn(pump::pump(Arc::clone(&shared))).abort_handle();
        Self { shared, _pump: Arc::new(Pump(pump)) }
    }

    /// A host's sockets, clock and randomness.
    #[must_use]
    pub fn host(&self, id: HostId) -> SimHost {
        SimHost::new(Arc::clone(&self.shared), id)
    }

    /// A host's interfaces, in the order in which they were attached.
    #[must_use]
    pub fn interfaces(&self, host: HostId) -> Vec<IfaceId> {
        let known = |world: &mut World| Some(world.engine.hosts.get(host.index())?.ifaces.clone());
        self.shared.peek(known).unwrap_or_default()
    }

    /// Lets `name` resolve to these addresses, in this order, on every host.
    pub fn set_name(&self, name: &str, addresses: &[IpAddr]) {
        self.shared.peek(|world| world.names.insert(name.to_owned(), addresses.to_vec()));
    }

    /// Changes the world: links, partitions, addresses, reboots.
    ///
    /// # Errors
    /// As [`Engine::control`].
    pub fn control(&self, change: Change) -> Result<(), ConfigError> {
        self.shared.with(|world| world.engine.control(world.now, change))?;
        self.shared.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.shared.now()
    }

    /// Looks into the engine: its books, traffic, mappings. Packets are the hosts' business.
    pub fn inspect<R>(&self, f: impl FnOnce(&mut Engine) -> R) -> R {
        self.shared.with(|world| f(&mut world.engine))
    }

    /// Keeps the trace from now on. There is one trace: this ends the one before.
    #[must_use]
    pub fn record(&self) -> Recording {
        let recording = Recording::default();
        self.shared.peek(|world| world.engine.set_trace(recording.hook()));
        recording
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sim")
    }
}

/// What the pump and all hosts share. Everything runs on one thread, so nobody waits for the lock.
struct Shared {
    world: Mutex<World>,
    /// Counts what [`Sim::control`] has done.
    changes: watch::Sender<u64>,
    idle: Arc<Idle>,
    /// When the engine's time began.
    epoch: Instant,
}

impl Shared {
    fn now(&self) -> Time {
        Time::ZERO + Instant::now().saturating_duration_since(self.epoch)
    }

    fn lock(&self, now: Time) -> MutexGuard<'_, World> {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.now = world.now.max(now);
        world
    }

    /// Does something that may have consequences.
    fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        let result = f(&mut self.lock(self.now()));
        self.idle.arm();
        result
    }

    /// Does something at the time that the world knows, which also works without a runtime.
    fn peek<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        let result = f(&mut self.lock(Time::ZERO));
        self.idle.arm();
        result
    }
}
