//! What the adapter `quic` puts into [`super::Negotiation::content`]: MessagePack, a map by the step's
//! kind. The member with the lower key is ICE's controlling side (RFC 8445 section 6.1.1) and QUIC's
//! client, whoever offered.
//!
//! | kind | content |
//! |---|---|
//! | offer, answer | [`Params`] |
//! | candidate | [`Candidates`] |
//! | bye | [`Bye`] |

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::codec::{self, CodecError};
use crate::frame::P2pKind;
use crate::id::Hash;
use crate::limits::MAX_CANDIDATES;
use crate::sign::{domains, layout};

/// The adapter's name.
pub const ADAPTER: &str = "quic";
/// Longest reason of a bye, in bytes.
pub const MAX_REASON: usize = 64;
/// Bytes of [`initial_id`].
pub const INITIAL_ID: usize = 16;
/// Characters of an ICE user name fragment (RFC 8445 section 5.3).
const UFRAG: std::ops::RangeInclusive<usize> = 4..=256;
/// Characters of an ICE password (RFC 8445 section 5.3).
const PWD: std::ops::RangeInclusive<usize> = 22..=256;
/// Characters of a candidate's foundation (RFC 8839 section 5.1).
const FOUNDATION: std::ops::RangeInclusive<usize> = 1..=32;
/// Largest priority of a candidate (RFC 8445 section 5.1.2).
const MAX_PRIORITY: u32 = (1 << 31) - 1;

/// Where a candidate's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateKind {
    /// An interface of the node.
    Host,
    /// What a STUN server saw: the outside of a NAT.
    Srflx,
    /// What the peer saw.
    Prflx,
    /// What the NAT was asked to forward (UPnP IGD, NAT-PMP, PCP).
    Mapped,
    /// A TURN server's.
    Relayed,
}

/// An address where the sender may be reached over UDP.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Where it comes from.
    pub kind: CandidateKind,
    /// `IPV4:PORT` or `[IPV6]:PORT`, in the one canonical form (RFC 5952), without a zone.
    #[serde(serialize_with = "write_addr", deserialize_with = "read_addr")]
    pub addr: SocketAddr,
    /// RFC 8445 section 5.1.2: 1 to 2^31−1.
    pub priority: u32,
    /// RFC 8445 section 5.1.1.3: 1 to 32 ICE characters.
    pub foundation: String,
}

/// What an offer or answer says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// ICE user name fragment of the sender for this attempt: 4 to 256 ICE characters.
    pub ufrag: String,
    /// ICE password of the sender for this attempt: 22 to 256 ICE characters.
    pub pwd: String,
    /// SHA-256 of the SubjectPublicKeyInfo (DER) of the raw public key (RFC 7250) that the sender will
    /// show in TLS; made afresh at each start of its node. Any other key ends the handshake.
    pub tls: Hash,
    /// The sender's addresses so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// The sender wants relayed pairs only: candidates of other kinds are not to be checked.
    #[serde(default, skip_serializing_if = "is_false")]
    pub relay_only: bool,
    /// No further candidates will come.
    #[serde(default, skip_serializing_if = "is_false")]
    pub done: bool,
}

// The password lets anybody on the way make ICE checks pass: it is not for logs.
impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Params")
            .field("ufrag", &self.ufrag)
            .field("tls", &self.tls)
            .field("candidates", &self.candidates)
            .field("relay_only", &self.relay_only)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

/// What the sender says about its UDP ports, when the path goes through a TURN server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ports {
    /// Its router shows one port to everybody; it is ready to guess the receiver's.
    Kept,
    /// Its router shows another port to everybody; many are open now towards the receiver's address.
    Opened,
    /// Something of a later version.
    #[serde(other)]
    Unknown,
}

/// Further addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidates {
    /// The addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// No further ones will come.
    #[serde(default, skip_serializing_if = "is_false")]
    pub done: bool,
    /// What the sender says about its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
}

/// The end of an attempt, or of its path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// A word for why: 1 to [`MAX_REASON`] characters of `a`–`z`, `0`–`9` and `_`.
    pub reason: String,
}

/// Words of [`Bye::reason`]; a reader treats others alike.
pub mod reason {
    /// Both sides offered: the offer of the lower key goes on, this one does not.
    pub const GLARE: &str = "glare";
    /// No pair of addresses works.
    pub const FAILED: &str = "failed";
    /// Nothing was sent for long.
    pub const IDLE: &str = "idle";
    /// The node stops, or lets go of the peer.
    pub const CLOSED: &str = "closed";
    /// The node does not want direct paths, or not this one.
    pub const REFUSED: &str = "refused";
    /// Too many paths or attempts at a time.
    pub const BUSY: &str = "busy";
}

/// The content of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Of an offer.
    Offer(Params),
    /// Of an answer.
    Answer(Params),
    /// Of a candidate.
    Candidate(Candidates),
    /// Of a bye.
    Bye(Bye),
}

/// Why a content is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuicError {
    /// It does not decode.
    #[error("malformed content: {0}")]
    Malformed(#[from] CodecError),
    /// More candidates than one object may have.
    #[error("{0} candidates are too many, at most {MAX_CANDIDATES} are allowed")]
    TooMany(usize),
    /// A field has characters or a length that it must not have.
    #[error("the field {0:?} is not as RFC 8445 and docs/protocol.md want it")]
    Field(&'static str),
}

impl Content {
    /// Which step it is for.
    #[must_use]
    pub const fn kind(&self) -> P2pKind {
        match self {
            Self::Offer(_) => P2pKind::Offer,
            Self::Answer(_) => P2pKind::Answer,
            Self::Candidate(_) => P2pKind::Candidate,
            Self::Bye(_) => P2pKind::Bye,
        }
    }

    /// Encodes for [`super::Negotiation::content`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Offer(p) | Self::Answer(p) => codec::to_msgpack(p),
            Self::Candidate(c) => codec::to_msgpack(c),
            Self::Bye(b) => codec::to_msgpack(b),
        }
    }

    /// Decodes and checks the content of a step; unknown fields are ignored.
    ///
    /// # Errors
    /// [`QuicError`].
    pub fn decode(kind: P2pKind, bytes: &[u8]) -> Result<Self, QuicError> {
        let content = match kind {
            P2pKind::Offer => Self::Offer(codec::from_msgpack(bytes)?),
            P2pKind::Answer => Self::Answer(codec::from_msgpack(bytes)?),
            P2pKind::Candidate => Self::Candidate(codec::from_msgpack(bytes)?),
            P2pKind::Bye => Self::Bye(codec::from_msgpack(bytes)?),
        };
        content.check()?;
        Ok(content)
    }

    /// The same without addresses of the loopback: a peer on another machine means its own by them.
    #[must_use]
    pub fn without_loopback(mut self) -> Self {
        let candidates = match &mut self {
            Self::Offer(p) | Self::Answer(p) => &mut p.candidates,
            Self::Candidate(c) => &mut c.candidates,
            Self::Bye(_) => return self,
        };
        candidates.retain(|c| !c.addr.ip().to_canonical().is_loopback());
        self
    }

    /// What [`Self::decode`] checks of a content that decodes; a sender asks it of its own.
    ///
    /// # Errors
    /// [`QuicError::TooMany`] or [`QuicError::Field`].
    pub fn check(&self) -> Result<(), QuicError> {
        match self {
            Self::Offer(p) | Self::Answer(p) => {
                field("ufrag", is_ice(&p.ufrag, UFRAG))?;
                field("pwd", is_ice(&p.pwd, PWD))?;
                check_candidates(&p.candidates)
            }
            Self::Candidate(c) => check_candidates(&c.candidates),
            Self::Bye(b) => {
                let fits = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_');
                let word = (1..=MAX_REASON).contains(&b.reason.len()) && b.reason.bytes().all(fits);
                field("reason", word)
            }
        }
    }
}

/// The destination connection id of the client's first packets (RFC 9000 section 7.2), from `[ufrag, pwd]` of
/// QUIC's client and of its server: it tells the server which of several attempts between the same two
/// sockets begins. Both passwords are in it, so that nobody else can say it before it was seen.
#[must_use]
pub fn initial_id(client: [&str; 2], server: [&str; 2]) -> [u8; INITIAL_ID] {
    let fields = [client[0], client[1], server[0], server[1]].map(str::as_bytes);
    let Hash(hash) = Hash::of(&layout(domains::P2P_INITIAL, &fields));
    std::array::from_fn(|n| hash[n])
}

fn field(name: &'static str, holds: bool) -> Result<(), QuicError> {
    if holds { Ok(()) } else { Err(QuicError::Field(name)) }
}

fn check_candidates(candidates: &[Candidate]) -> Result<(), QuicError> {
    if candidates.len() > MAX_CANDIDATES {
        return Err(QuicError::TooMany(candidates.len()));
    }
    for c in candidates {
        field("priority", (1..=MAX_PRIORITY).contains(&c.priority))?;
        field("foundation", is_ice(&c.foundation, FOUNDATION))?;
    }
    Ok(())
}

/// Whether a text is so many of RFC 8839's ice-chars: letters, digits, `+` and `/`.
fn is_ice(text: &str, len: std::ops::RangeInclusive<usize>) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    len.contains(&text.len()) && text.bytes().all(fits)
}

fn is_false(b: &bool) -> bool {
    !*b
}

// Text in both encodings: serde's own form of an address in MessagePack is Rust's, not a stranger's.
fn write_addr<S: Serializer>(addr: &SocketAddr, s: S) -> Result<S::Ok, S::Error> {
    match addr {
        SocketAddr::V4(addr) => s.collect_str(addr),
        // Without zone and flow label: they mean nothing on another machine.
        SocketAddr::V6(a) => s.collect_str(&SocketAddr::from((*a.ip(), a.port()))),
    }
}

fn read_addr<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(d)?;
    let bad = || de::Error::custom("an address is IPV4:PORT or [IPV6]:PORT in canonical form");
    let addr: SocketAddr = text.parse().map_err(|_| bad())?;
    // One spelling only, and no zone.
    let plain = SocketAddr::from((addr.ip(), addr.port()));
    if plain.to_string() == text { Ok(plain) } else { Err(bad()) }
}
