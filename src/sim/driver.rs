//! What a run asks of its driver, whichever it is.

use std::time::Duration;

use meshwire_netsim::scenario::{Exec, Map, PathKind};
use meshwire_netsim::{Change, HostId, Time};
use meshwire_peer::api::{MeshStatus, Message, PathReport};
use meshwire_peer::path::Via;
use meshwire_signaling::frame::MessageState;
use meshwire_transport::direct::Reach;

use super::books::{Books, Wanted};
use super::facts::Facts;
#[cfg(target_os = "linux")]
use super::in_lab::{self, Programs};
use super::in_virtual::{self, Virtual};
use super::report::DriverKind;

/// What timelines call the broker.
pub(super) const BROKER: &str = "broker";

/// See the module's documentation.
pub(super) enum Driver {
    /// In this process.
    Virtual(Box<Virtual>),
    /// Programs in network namespaces.
    #[cfg(target_os = "linux")]
    Lab(Box<Programs>),
}

pub(super) fn since(time: Time) -> Duration {
    Duration::from_nanos(time.as_nanos())
}

/// Why programs do not run in virtual time.
const NO_PROGRAMS: &str = "programs run in the lab alone: use --driver lab";

impl Driver {
    pub(super) fn kind(&self) -> DriverKind {
        match self {
            Self::Virtual(_) => DriverKind::Virtual,
            #[cfg(target_os = "linux")]
            Self::Lab(_) => DriverKind::Lab,
        }
    }

    /// Since the beginning of the run.
    pub(super) fn now(&self) -> Duration {
        match self {
            Self::Virtual(d) => d.now(),
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.now(),
        }
    }

    /// How often it pays to look.
    pub(super) fn tick(&self) -> Duration {
        match self {
            Self::Virtual(_) => in_virtual::TICK,
            #[cfg(target_os = "linux")]
            Self::Lab(_) => in_lab::TICK,
        }
    }

    /// Takes in what nodes tell.
    pub(super) async fn look(&mut self, facts: &mut Facts) {
        match self {
            Self::Virtual(d) => d.look(facts).await,
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.look(facts).await,
        }
    }

    /// What a node says of the path to another; none if it is down.
    pub(super) async fn path(&self, from: &str, to: &str) -> Option<PathReport> {
        match self {
            Self::Virtual(d) => d.path(from, to).await,
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.path(from, to).await,
        }
    }

    /// What the engine's books say.
    pub(super) fn books(&self, wanted: &Wanted) -> Books {
        match self {
            Self::Virtual(d) => d.books(wanted),
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.books(wanted),
        }
    }

    /// Puts a text into a node's outbox; its id.
    pub(super) async fn send(
        &mut self,
        from: &str,
        to: &str,
        text: &str,
    ) -> Result<String, String> {
        match self {
            Self::Virtual(d) => d.send(from, to, text).await,
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.send(from, to, text).await,
        }
    }

    /// Stops a node or the broker.
    pub(super) async fn stop(&mut self, who: &str) -> Result<(), String> {
        match self {
            Self::Virtual(d) => d.stop(who).await,
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.stop(who).await,
        }
    }

    /// Starts a node or the broker again.
    pub(super) async fn start(&mut self, who: &str, facts: &mut Facts) -> Result<(), String> {
        match self {
            Self::Virtual(d) => d.start(who, facts).await,
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.start(who, facts).await,
        }
    }

    /// Changes the world.
    pub(super) fn change(&mut self, change: Change) -> Result<(), String> {
        match self {
            Self::Virtual(d) => d.change(change),
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.change(change),
        }
    }

    /// Tells everybody who has which address now. In the lab, names follow addresses by themselves.
    pub(super) fn rename(&mut self, map: &Map) {
        match self {
            Self::Virtual(d) => d.rename(map),
            #[cfg(target_os = "linux")]
            Self::Lab(_) => {}
        }
    }

    /// Starts a command on a host; its number.
    pub(super) fn exec(&mut self, host: HostId, exec: &Exec) -> Result<usize, String> {
        match self {
            Self::Virtual(_) => Err(NO_PROGRAMS.to_owned()),
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.exec(host, exec),
        }
    }

    /// Gives a command the name that its end is noted under.
    pub(super) fn name_command(&mut self, number: usize, id: Option<&str>) {
        match self {
            Self::Virtual(_) => {}
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.name_command(number, id),
        }
    }

    /// Whether a command has ended.
    pub(super) fn ended(&self, number: usize) -> bool {
        match self {
            Self::Virtual(_) => true,
            #[cfg(target_os = "linux")]
            Self::Lab(d) => d.ended(number),
        }
    }
}

/// Notes what a message's author says of it.
pub(super) fn note(facts: &mut Facts, message: &Message, now: Duration) {
    let id = message.id.to_string();
    match message.state {
        MessageState::Delivered => {
            facts.receipt(&id, message.path.as_deref().unwrap_or("unknown"), now);
        }
        MessageState::Failed | MessageState::Expired => {
            facts.failed(&id, message.reason.as_deref().unwrap_or("given up"));
        }
        _ => {}
    }
}

/// Which way messages go, as a node's report has it; none while they wait.
pub(super) fn kind(report: &PathReport) -> Option<PathKind> {
    match (report.via, &report.direct) {
        (Via::Relay, _) => Some(PathKind::Relay),
        (Via::Direct, Some(path)) if path.reach == Reach::Relayed => Some(PathKind::Turn),
        (Via::Direct, _) => Some(PathKind::Direct),
        (Via::Wait, _) => None,
    }
}

/// Whether a node knows all members of a mesh of this size.
pub(super) fn knows(mesh: &MeshStatus, members: usize) -> bool {
    usize::try_from(mesh.members).is_ok_and(|known| known >= members)
}
