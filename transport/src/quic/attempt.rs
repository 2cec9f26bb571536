//! One attempt to connect to a peer, and the upkeep of its way once it is connected.
//!
//! The side with the lower key is controlling; it decides which pair is used and is QUIC's client, so
//! that the handshake begins the moment the first pair works. An attempt lives as long as its
//! connection. When the network changes it gathers anew and trickles; the connection survives as long
//! as a pair is found before QUIC's idle timeout. There is no ICE restart: when all is lost the caller
//! dials afresh, which also makes fresh keys.

mod driver;
mod rhythm;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use meshwire_signaling::{MeshId, PublicKey};

use self::driver::Driver;
use super::candidates::{Candidate, Screen};
use super::conn::QuicConn;
use super::guess::Ports;
use super::ice::{Agent, Credentials};
use super::node::Shared;
use super::routes::Id;
use super::{Description, QuicError};
use crate::net::random;
use crate::queue;

/// Most messages to or from an attempt that wait to be looked at.
const QUEUE: usize = 64;

/// Which side of ICE and QUIC a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The lower key: decides on the pair, QUIC's client.
    Controlling,
    /// The higher key: QUIC's server.
    Controlled,
}

/// What an attempt is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Which side we are.
    pub role: Role,
    /// In which mesh: its servers alone are told of the attempt.
    pub mesh: Option<MeshId>,
    /// Both nodes reach the broker over loopback, so that loopback addresses make sense.
    pub loopback: bool,
    /// Offers relayed addresses alone, and sends from nowhere else.
    pub relayed_only: bool,
    /// Goes through no TURN server, though one may be all there is. Only the controlling side can want that.
    pub direct_only: bool,
    /// Who the peer is, if ports may be guessed to reach it directly where nothing else does: what that
    /// costs is bounded per peer.
    pub guess: Option<PublicKey>,
    /// Gives up when it is not connected by then.
    pub timeout: Duration,
}

impl Dial {
    /// How long finding a way may take: a few rounds through a slow broker, and every check of ICE. Less
    /// than a node waits for the whole try, so that it hears why.
    pub const TIMEOUT: Duration = Duration::from_secs(9);

    /// In no mesh, without loopback, and with the usual patience.
    #[must_use]
    pub fn new(role: Role) -> Self {
        let timeout = Self::TIMEOUT;
        Self {
            role,
            mesh: None,
            loopback: false,
            relayed_only: false,
            direct_only: false,
            guess: None,
            timeout,
        }
    }
}

/// What happens in an attempt.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttemptEvent {
    /// Another own candidate for the peer; may come after the connection, too.
    Candidate(Candidate),
    /// Connected.
    Connected(QuicConn),
    /// Something to tell the peer about our ports, after the connection.
    Ports(Ports),
    /// Ports were guessed, in vain; the connection stays.
    Missed,
    /// Failed, for good.
    Failed(QuicError),
}

pub(super) enum Command {
    Remote(Description),
    Candidate(Candidate),
    Ports(Ports),
    Incoming(Box<quinn::Incoming>),
    Abort,
}

/// A running attempt. Without this and its handles it is given up, unless it is connected.
pub struct Attempt {
    local: Description,
    handle: AttemptHandle,
    events: queue::Receiver<AttemptEvent>,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempt({})", self.local.ufrag)
    }
}

/// Feeds an attempt with what the peer says.
#[derive(Clone)]
pub struct AttemptHandle(queue::Sender<Command>);

impl fmt::Debug for AttemptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttemptHandle")
    }
}

impl AttemptHandle {
    /// The peer's description. Only the first one counts.
    ///
    /// # Errors
    /// [`QuicError::Description`]; [`QuicError::Closed`] when the attempt is over.
    pub async fn set_remote(&self, peer: Description) -> Result<(), QuicError> {
        if !peer.is_well_formed() {
            return Err(QuicError::Description);
        }
        self.0.send(Command::Remote(peer)).await.map_err(|_| QuicError::Closed)
    }

    /// Another candidate of the peer. Those that come before the description wait for it; those that
    /// are too many or forbidden are ignored.
    ///
    /// # Errors
    /// [`QuicError::Closed`] when the attempt is over.
    pub async fn add_remote(&self, candidate: Candidate) -> Result<(), QuicError> {
        self.0.send(Command::Candidate(candidate)).await.map_err(|_| QuicError::Closed)
    }

    /// What the peer says about its ports.
    ///
    /// # Errors
    /// [`QuicError::Closed`] when the attempt is over.
    pub async fn set_ports(&self, ports: Ports) -> Result<(), QuicError> {
        self.0.send(Command::Ports(ports)).await.map_err(|_| QuicError::Closed)
    }

    /// Gives the attempt up, and closes the connection that came of it.
    pub async fn abort(&self) {
        let _ = self.0.send(Command::Abort).await;
    }
}

impl Attempt {
    pub(super) fn start(shared: &Arc<Shared>, dial: Dial) -> Result<Self, QuicError> {
        let permit = shared.permit()?;
        let net = &*shared.net;
        let own = Credentials { ufrag: ice_chars::<16>(net), pwd: ice_chars::<32>(net) };
        let known = shared.known();
        let screen = Screen::new(dial.loopback, known.borrow().broadcasts());
        let tie_breaker = u64::from_be_bytes(random(net));
        let controlling = dial.role == Role::Controlling;
        let agent = Agent::new(&own, controlling, tie_breaker, screen);
        let id = shared.next_id();
        let (commands, inbox) = queue::channel(QUEUE);
        let (event, events) = queue::channel(QUEUE);
        let mut driver = Box::new(Driver::new(shared, id, dial, agent, known, inbox, event));
        driver.register(&own.ufrag, &commands);
        let candidates = driver.regather();
        let tls = shared.identity.fingerprint();
        let local = Description { ufrag: own.ufrag, pwd: own.pwd, tls, candidates };
        tokio::spawn(async move {
            driver.run().await;
            drop(permit);
        });
        Ok(Self { local, handle: AttemptHandle(commands), events })
    }

    /// What the peer must know; further candidates come as events.
    #[must_use]
    pub fn local(&self) -> &Description {
        &self.local
    }

    /// For what the peer says.
    #[must_use]
    pub fn handle(&self) -> AttemptHandle {
        self.handle.clone()
    }

    /// What happens next; none when nothing will.
    pub async fn next(&mut self) -> Option<AttemptEvent> {
        self.events.recv().await
    }

    /// Waits for the connection; candidates on the way are not told.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connected(&mut self) -> Result<QuicConn, QuicError> {
        while let Some(event) = self.next().await {
            match event {
                AttemptEvent::Connected(conn) => return Ok(conn),
                AttemptEvent::Failed(e) => return Err(e),
                AttemptEvent::Candidate(_) | AttemptEvent::Ports(_) | AttemptEvent::Missed => {}
            }
        }
        Err(QuicError::Closed)
    }
}

/// `N` random ICE characters (6 bits each, RFC 8839 section 5.4).
fn ice_chars<const N: usize>(net: &dyn crate::net::Net) -> String {
    const CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let char = |b: u8| char::from(CHARS[usize::from(b & 63)]);
    random::<N>(net).into_iter().map(char).collect()
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remote(_) => "Remote",
            Self::Candidate(_) => "Candidate",
            Self::Ports(_) => "Ports",
            Self::Incoming(_) => "Incoming",
            Self::Abort => "Abort",
        })
    }
}

/// Registers and forgets an attempt with everything that delivers to it.
pub(super) struct Registered {
    pub(super) shared: Arc<Shared>,
    pub(super) id: Id,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.mux.routes.remove(self.id);
        self.shared.mux.release(self.id);
        self.shared.unregister(self.id);
        for relay in &self.shared.known().borrow().relays {
            relay.release(self.id);
        }
    }
}
