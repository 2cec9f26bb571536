//! The thread that moves packets between TUN devices and the engine, in real time.
//!
//! One thread owns the engine and every device; it sleeps in epoll until a device has a packet, the
//! engine's next deadline comes (a timerfd: not subject to the timer slack of timeouts), or somebody
//! wants something of the engine (an eventfd and a queue of closures). So nothing is locked on a
//! packet's way, and an idle lab uses no CPU.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::bulk::{Bulk, Scratch};
use super::clock;
use super::error::LabError;
use crate::engine::{Delivery, Engine};
use crate::packet::View;
use crate::pcap::Capture;
use crate::time::Time;
use crate::topology::{HostId, IfaceId};

/// Reads from one device before the others have their turn. A read may be 128 packets.
const TURN: usize = 16;
/// Deliveries before devices are read again.
const DELIVERIES: usize = 256;
/// Wishes that may wait; who has more of them waits, too.
const WISHES: usize = 16;
/// How long captured packets may stay in memory.
const FLUSH: Duration = Duration::from_secs(1);

const WISH: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// What the machine did to packets beside the engine. Anything here was not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strain {
    /// How much later than due a packet was delivered, at most.
    pub latest: Duration,
    /// Packets that a host did not take, its device being down, or that could not be taken from it.
    pub refused: u64,
    /// Packets that a host sent and that waited for the lab until its queue was full.
    pub overrun: u64,
}

/// A host's interface.
pub(crate) struct Interface {
    pub(crate) host: HostId,
    pub(crate) iface: IfaceId,
    pub(crate) tun: Bulk,
    pub(crate) capture: Option<Capture>,
}

/// What the thread owns.
pub(crate) struct Core {
    pub(crate) engine: Engine,
    interfaces: Vec<Interface>,
    /// Which of them an engine's interface is, by the engine's number.
    by_iface: Vec<Option<usize>>,
    pub(crate) strain: Strain,
    start: Instant,
    /// What the clock said then, for captures.
    epoch: Duration,
    flush_at: Option<Time>,
    /// Devices that hold something back.
    touched: BTreeSet<usize>,
    stop: bool,
}

impl Core {
    pub(crate) fn now(&self) -> Time {
        Time::ZERO + clock::now().saturating_duration_since(self.start)
    }

    /// Takes packets from a device. Says whether the device still works.
    fn read(&mut self, index: usize, scratch: &mut Scratch) -> bool {
        for _ in 0..TURN {
            let now = self.now();
            let at = self.time_of_day(now);
            let Some(port) = self.interfaces.get_mut(index) else { return false };
            let (host, engine, capture) = (port.host, &mut self.engine, &mut port.capture);
            let taken = port.tun.read(scratch, |packet| {
                write(capture, at, packet);
                engine.send(now, host, packet.to_vec());
            });
            if capture.is_some() {
                self.flush_at.get_or_insert(now + FLUSH);
            }
            match taken {
                Ok(whole) => self.strain.refused += u64::from(!whole),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Delivers what is due.
    fn deliver(&mut self) {
        self.touched.clear();
        for _ in 0..DELIVERIES {
            let now = self.now();
            let Some(delivery) = self.engine.poll(now) else { break };
            let late = now.since(delivery.at);
            self.strain.latest = self.strain.latest.max(late);
            let Some(index) = self.receiver(&delivery) else { continue };
            let at = self.time_of_day(now);
            let Some(port) = self.interfaces.get_mut(index) else { continue };
            write(&mut port.capture, at, &delivery.packet);
            if port.capture.is_some() {
                self.flush_at.get_or_insert(now + FLUSH);
            }
            self.strain.refused += port.tun.write(&delivery.packet);
            self.touched.insert(index);
        }
        for index in &self.touched {
            if let Some(port) = self.interfaces.get_mut(*index) {
                self.strain.refused += port.tun.flush();
            }
        }
    }

    /// The interface through which a delivery comes; what a link says to its own host names none.
    fn receiver(&self, delivery: &Delivery) -> Option<usize> {
        let of = |id: IfaceId| self.by_iface.get(id.index()).copied().flatten();
        if let Some(id) = delivery.iface {
            return of(id);
        }
        let to = View::parse(&delivery.packet).ok()?.ip.destination;
        let own = self.engine.hosts.get(delivery.host.index())?.ifaces.iter().copied();
        let has = |id: &IfaceId| {
            self.engine.ifaces.get(id.index()).is_some_and(|i| i.addresses.contains(&to))
        };
        own.clone().find(has).and_then(of)
    }

    fn time_of_day(&self, now: Time) -> Duration {
        self.epoch.saturating_add(now.since(Time::ZERO))
    }

    pub(crate) fn flush(&mut self) {
        self.flush_at = None;
        for capture in self.interfaces.iter_mut().filter_map(|i| i.capture.as_mut()) {
            let _ = capture.flush();
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        [self.engine.next_deadline(), self.flush_at].into_iter().flatten().min()
    }
}

type Wish = Box<dyn FnOnce(&mut Core) + Send>;

/// The running thread.
pub(crate) struct Pump {
    wishes: SyncSender<Wish>,
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pump")
    }
}

impl Pump {
    /// The engine's time begins now.
    pub(crate) fn start(engine: Engine, interfaces: Vec<Interface>) -> io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&poll, &bell, epoll::EventData::new_u64(WISH), epoll::EventFlags::IN)?;
        epoll::add(&poll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        for (index, port) in (0..).zip(&interfaces) {
            let data = epoll::EventData::new_u64(index);
            epoll::add(&poll, port.tun.as_fd(), data, epoll::EventFlags::IN)?;
        }
        let (wishes, queue) = sync_channel(WISHES);
        let mut by_iface = vec![None; engine.ifaces.len()];
        for (index, port) in interfaces.iter().enumerate() {
            if let Some(entry) = by_iface.get_mut(port.iface.index()) {
                *entry = Some(index);
            }
        }
        let core = Core {
            engine,
            interfaces,
            by_iface,
            strain: Strain::default(),
            start: clock::now(),
            epoch: clock::since_1970(),
            flush_at: None,
            touched: BTreeSet::new(),
            stop: false,
        };
        let ears = Ears { poll, timer, bell: Arc::clone(&bell), queue };
        let thread =
            std::thread::Builder::new().name("lab".to_owned()).spawn(move || run(core, &ears))?;
        Ok(Self { wishes, bell, thread: Some(thread) })
    }

    /// Does something with the engine between two packets.
    pub(crate) fn with<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Core) -> R + Send + 'static,
    ) -> Result<R, LabError> {
        let (answer, answered) = sync_channel(1);
        let wish = move |core: &mut Core| {
            // Who asked waits for it.
            let _ = answer.send(f(core));
        };
        self.wishes.send(Box::new(wish)).map_err(|_| LabError::Ended)?;
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).map_err(|_| LabError::Ended)?;
        answered.recv().map_err(|_| LabError::Ended)
    }

    /// Ends the thread, and with it the devices.
    pub(crate) fn stop(&mut self) {
        let _ = self.with(|core| core.stop = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the thread listens to.
struct Ears {
    poll: OwnedFd,
    timer: OwnedFd,
    bell: Arc<OwnedFd>,
    queue: Receiver<Wish>,
}

fn run(mut core: Core, ears: &Ears) {
    clock::hurry();
    let mut events =
        [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
            64];
    let mut scratch = Scratch::new();
    let mut armed = None;
    while !core.stop {
        let next = core.next_deadline();
        if next != armed && arm(&ears.timer, core.now(), next).is_ok() {
            armed = next;
        }
        let heard = match epoll::wait(&ears.poll, &mut events, None) {
            Ok(n) => events.get(..n).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break,
        };
        for event in heard {
            match event.data.u64() {
                WISH => {
                    hush(&ears.bell);
                    ears.queue.try_iter().for_each(|wish| wish(&mut core));
                }
                TIMER => {
                    hush(&ears.timer);
                    armed = None;
                }
                port => {
                    let index = usize::try_from(port).unwrap_or(usize::MAX);
                    if !core.read(index, &mut scratch)
                        && let Some(dead) = core.interfaces.get(index)
                    {
                        // The namespace was deleted under us: nothing comes from there any more.
                        let _ = epoll::delete(&ears.poll, dead.tun.as_fd());
                    }
                }
            }
        }
        core.deliver();
        if core.flush_at.is_some_and(|at| at <= core.now()) {
            core.flush();
        }
    }
    core.flush();
}

/// Captures a packet. A full disk ends the capture, not the lab.
fn write(capture: &mut Option<Capture>, at: Duration, packet: &[u8]) {
    if capture.as_mut().is_some_and(|c| c.packet(at, packet).is_err()) {
        *capture = None;
    }
}

/// Sets the timer to a deadline, to none if there is none.
fn arm(timer: &OwnedFd, now: Time, next: Option<Time>) -> io::Result<()> {
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Zero would switch it off instead of letting it ring at once.
    let wait = next.map(|at| at.since(now).max(Duration::from_nanos(1)));
    let value = match wait {
        None => zero,
        Some(wait) => Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        },
    };
    let value = Itimerspec { it_interval: zero, it_value: value };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &value)?;
    Ok(())
}

fn hush(fd: &OwnedFd) {
    // It has rung; how often does not matter.
    let _ = rustix::io::read(fd, &mut [0; 8]);
}
