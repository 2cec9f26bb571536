//! The envelope that opens a stream.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::MAX_NAME;
use super::keys::Secret;
use super::suite::Suite;
use crate::UnixMillis;
use crate::codec::{self, CodecError};
use crate::envelope::{
    self, Author, Channel, Content, Durability, Envelope, EnvelopeError, Header, Priority,
    StateHead, Target, box_key_id,
};
use crate::id::{EnvelopeId, MeshId, SecretKey, StreamId};
use crate::limits::ms;
use crate::seal::{Nonce, Pair, SealError};

/// The media type of an open's content.
pub const TYPE: &str = "application/meshwire.stream-open";
/// The version that [`Open`] is.
pub const VERSION: u64 = 1;
/// Longest life of an open: who was not there has missed the stream, and what a carrier holds back longer
/// is worth nothing.
pub const TTL: Duration = Duration::from_secs(60);
/// Most suites in one open.
pub const MAX_SUITES: usize = 8;

/// Why an open was refused or cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The header is none of an open; says what it should be.
    #[error("an open of a stream {0}")]
    Header(&'static str),
    /// The body does not open, or its content does not decode.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The content is no open.
    #[error("malformed open of a stream: {0}")]
    Malformed(#[from] CodecError),
    /// From a later version.
    #[error("open of a stream in version {0}; this is version 1")]
    Version(u64),
    /// The name is empty, too long, or has control characters.
    #[error("a stream's name has 1 to {MAX_NAME} bytes and no control characters, not {0:?}")]
    Name(String),
    /// None, too many, or only suites that this version does not know.
    #[error(
        "an open offers 1 to {MAX_SUITES} suites, one of them aes-256-gcm or chacha20-poly1305"
    )]
    Suites,
}

/// What an open says, sealed for its recipient.
#[derive(Clone)]
pub struct Open {
    /// The stream.
    pub stream: StreamId,
    /// What its keys come from.
    pub secret: Secret,
    /// What it is for: 1 to [`MAX_NAME`] bytes, no control characters.
    pub name: String,
    /// The known ones of those offered, the first is liked best.
    pub suites: Vec<Suite>,
    /// How many bytes of records the acceptor may send before it hears more.
    pub limit: u64,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: u64,
    stream: StreamId,
    secret: Secret,
    name: String,
    suites: Vec<String>,
    limit: u64,
}

impl Open {
    /// The header of an open that is sent at `now`.
    ///
    /// # Errors
    /// [`SealError::BadKey`] if the target has no key to seal for.
    pub fn header(
        from: Author,
        target: Target,
        id: EnvelopeId,
        now: UnixMillis,
    ) -> Result<Header, SealError> {
        let key_id = box_key_id(&target.key().ok_or(SealError::BadKey)?)?;
        Ok(Header {
            channel: Channel::Stream,
            from,
            target,
            id,
            priority: Priority::Now,
            durability: Durability::Live,
            sent_at: now,
            expires_at: now.saturating_add(ms(TTL)),
            suite: envelope::Suite::Box,
            key_id,
            ephemeral: None,
        })
    }

    /// Whether `header` may be an open's, beside what [`Header::check`] says of every header.
    ///
    /// # Errors
    /// [`OpenError::Header`].
    pub fn check_header(header: &Header) -> Result<(), OpenError> {
        let rule = |holds, text| if holds { Ok(()) } else { Err(OpenError::Header(text)) };
        rule(header.channel == Channel::Stream, "has channel stream")?;
        rule(header.target.key().is_some(), "is for one key")?;
        rule(header.suite == envelope::Suite::Box, "has suite box")?;
        rule(header.durability == Durability::Live, "has durability live")?;
        let life = header.expires_at.saturating_sub(header.sent_at);
        rule(life <= ms(TTL), "expires within 60 s")
    }

    /// Seals and signs: `pair` is the author's with the header's target.
    ///
    /// # Errors
    /// [`OpenError`] if this or `header` is none that a recipient would take.
    pub fn seal(
        &self,
        mesh: &MeshId,
        author: &SecretKey,
        header: &Header,
        head: StateHead,
        pair: &Pair,
        nonce: &Nonce,
    ) -> Result<Envelope, OpenError> {
        Self::check_header(header)?;
        self.check()?;
        let mut content = Content {
            kind: TYPE.into(),
            reply_to: None,
            mentions: Vec::new(),
            correlation: None,
            response: false,
            seq: 0,
            floor: 0,
            head,
            content: self.encode().to_vec().into(),
        };
        let sealed = Envelope::seal_box(mesh, author, header, pair, nonce, &content);
        content.content.0.zeroize();
        Ok(sealed)
    }

    /// Opens the body of an envelope whose signature and `header` have been checked
    /// ([`Envelope::check`], [`Header::check`]); `pair` is the target's with the author.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn unseal(envelope: &Envelope, header: &Header, pair: &Pair) -> Result<Self, OpenError> {
        Self::check_header(header)?;
        let content = envelope.open_box(pair)?;
        let bytes = Zeroizing::new(content.content.0);
        if content.kind != TYPE {
            return Err(OpenError::Header("has the type of an open in its content"));
        }
        Self::decode(&bytes)
    }

    /// The suite that an acceptor takes.
    #[must_use]
    pub fn suite(&self) -> Option<Suite> {
        self.suites.first().copied()
    }

    fn check(&self) -> Result<(), OpenError> {
        let fits = (1..=MAX_NAME).contains(&self.name.len());
        if !fits || self.name.chars().any(char::is_control) {
            return Err(OpenError::Name(self.name.chars().take(MAX_NAME).collect()));
        }
        let some = (1..=MAX_SUITES).contains(&self.suites.len());
        if some { Ok(()) } else { Err(OpenError::Suites) }
    }

    /// The MessagePack of this open.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(codec::to_msgpack(&Wire {
            v: VERSION,
            stream: self.stream,
            secret: self.secret.clone(),
            name: self.name.clone(),
            suites: self.suites.iter().map(|s| s.as_str().to_owned()).collect(),
            limit: self.limit,
        }))
    }

    /// Reads the MessagePack of an open.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, OpenError> {
        let wire: Wire = codec::from_msgpack(bytes)?;
        if wire.v != VERSION {
            return Err(OpenError::Version(wire.v));
        }
        if wire.suites.len() > MAX_SUITES {
            return Err(OpenError::Suites);
        }
        let suites = wire.suites.iter().filter_map(|word| Suite::from_word(word)).collect();
        let Wire { stream, secret, name, limit, .. } = wire;
        let open = Self { stream, secret, name, suites, limit };
        open.check()?;
        Ok(open)
    }
}
