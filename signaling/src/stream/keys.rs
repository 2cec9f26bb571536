//! A stream's secret, the keys that come from it, and sealing and opening under them.

use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::record::{
    ACCEPT_PREFIX, FRESH, Header, Kind, MAX_NUMBER, MAX_RECORD, PREFIX, RecordError, TAG,
};
use super::suite::Suite;
use crate::id::{self, MeshId, PublicKey, StreamId};
use crate::sign::{domains, layout};

/// Chunks per data key, as a power of two. 2^24 of the largest are 512 GiB: AES-GCM keeps a margin of
/// 2^-57 up to 2^36 blocks under one key (RFC 8446 section 5.5 counts the same way).
const EPOCH_BITS: u32 = 24;

/// The side of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Who sent the open.
    Opener,
    /// Who answered it.
    Acceptor,
}

impl Role {
    /// The other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Opener => Self::Acceptor,
            Self::Acceptor => Self::Opener,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Opener => "opener",
            Self::Acceptor => "acceptor",
        }
    }
}

/// 32 random bytes of one stream alone. Wiped on drop, never printed, never stored.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// A secret from 32 random bytes.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(Zeroizing::new(random))
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        id::fixed::serialize(self.0.as_slice(), s)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        id::fixed::deserialize(d, "a stream's secret").map(Self::new)
    }
}

/// 32 random bytes of one acceptance alone: both directions' keys come from them too, so that an open that is taken
/// twice, by a node whose clock or disk was set back, gives other keys each time. Whoever carries records sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh(pub [u8; FRESH]);

/// What a stream's keys are bound to beside its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The mesh.
    pub mesh: MeshId,
    /// The stream.
    pub stream: StreamId,
    /// Who signed the open.
    pub opener: PublicKey,
    /// Whom it was for.
    pub acceptor: PublicKey,
}

struct Source {
    secret: Secret,
    suite: Suite,
    ends: Ends,
    fresh: Fresh,
}

impl Source {
    fn derive(&self, direction: Role, purpose: &str, epoch: u64) -> LessSafeKey {
        let mut bytes = Zeroizing::new([0; 32]);
        let info = layout(
            domains::STREAM_KEY,
            &[
                self.suite.as_str().as_bytes(),
                &self.ends.stream.0,
                &self.ends.opener.0,
                &self.ends.acceptor.0,
                &self.fresh.0,
                direction.as_str().as_bytes(),
                purpose.as_bytes(),
                &epoch.to_be_bytes(),
            ],
        );
        let hkdf = hkdf::Hkdf::<Sha256>::new(Some(&self.ends.mesh.0), self.secret.0.as_slice());
        let algorithm = match self.suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = hkdf.expand(&info, bytes.as_mut_slice()).ok();
        let key = key.and_then(|()| UnboundKey::new(algorithm, bytes.as_slice()).ok());
        match key {
            Some(key) => LessSafeKey::new(key),
            // HKDF gives up to 8,160 bytes, and both algorithms take keys of 32.
            None => unreachable!("32-byte key derivation failed"),
        }
    }

    fn control(&self, direction: Role) -> LessSafeKey {
        self.derive(direction, "control", 0)
    }

    fn data(&self, direction: Role, epoch: u64) -> LessSafeKey {
        self.derive(direction, "data", epoch)
    }
}

/// What an opener knows before its stream is accepted.
pub struct Offer {
    secret: Secret,
    suites: Vec<Suite>,
    ends: Ends,
}

impl Offer {
    /// As the open says it.
    #[must_use]
    pub fn new(secret: Secret, suites: &[Suite], ends: Ends) -> Self {
        Self { secret, suites: suites.to_vec(), ends }
    }

    /// Opens a record as [`OpenKeys::open`] does, if it is an accept by the acceptor; the opener's keys, which are those
    /// of this one acceptance. What does not open has changed nothing: whoever carries records can add any number.
    ///
    /// # Errors
    /// As [`OpenKeys::open`]; [`RecordError::Early`] for other kinds.
    pub fn open<'a>(
        &self,
        header: &Header,
        record: &'a mut [u8],
    ) -> Result<(Keys, &'a mut [u8]), RecordError> {
        if header.stream != self.ends.stream {
            return Err(RecordError::Stream);
        }
        if !self.suites.contains(&header.suite) {
            return Err(RecordError::Suite);
        }
        let fresh = (header.kind == Kind::Accept).then(|| fresh(record)).flatten();
        let fresh = fresh.ok_or(RecordError::Early)?;
        let (secret, suite, ends) = (self.secret.clone(), header.suite, self.ends);
        let control = Source { secret, suite, ends, fresh }.control(Role::Acceptor);
        let text = open(&control, header, record)?;
        Ok((Keys::derive(self.secret.clone(), suite, ends, fresh, Role::Opener), text))
    }
}

/// The keys of one side.
pub struct Keys {
    /// For what this side sends.
    pub seal: SealKeys,
    /// For what comes in.
    pub open: OpenKeys,
}

impl Keys {
    /// The keys of `role`. Make them once per stream and side: [`SealKeys`] counts what it has sealed.
    #[must_use]
    pub fn derive(secret: Secret, suite: Suite, ends: Ends, fresh: Fresh, role: Role) -> Self {
        let source = Arc::new(Source { secret, suite, ends, fresh });
        let seal = SealKeys {
            control: source.control(role),
            data: source.data(role, 0),
            epoch: 0,
            direction: role,
            next_chunk: 0,
            next_control: 1,
            source: source.clone(),
        };
        let direction = role.other();
        let open = OpenKeys {
            control: source.control(direction),
            data: [(0, source.data(direction, 0)), (1, source.data(direction, 1))],
            direction,
            source,
        };
        Self { seal, open }
    }
}

/// Seals records of one direction. It numbers them itself, so that no nonce is used twice.
pub struct SealKeys {
    source: Arc<Source>,
    direction: Role,
    control: LessSafeKey,
    data: LessSafeKey,
    epoch: u64,
    next_chunk: u64,
    next_control: u64,
}

impl SealKeys {
    /// The number of the next chunk.
    #[must_use]
    pub fn next_chunk(&self) -> u64 {
        self.next_chunk
    }

    /// The number of the next control.
    #[must_use]
    pub fn next_control(&self) -> u64 {
        self.next_control
    }

    /// Seals a chunk in place: `record` is [`PREFIX`] bytes of room, the plaintext, and [`TAG`] bytes of room.
    /// Returns its number.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] if `record` has no such form, [`RecordError::Exhausted`].
    pub fn chunk(&mut self, last: bool, record: &mut [u8]) -> Result<u64, RecordError> {
        let number = self.next_chunk;
        let epoch = number >> EPOCH_BITS;
        if epoch != self.epoch {
            self.data = self.source.data(self.direction, epoch);
            self.epoch = epoch;
        }
        self.next_chunk = seal(&self.data, &self.source, Kind::Chunk { last }, number, record)?;
        Ok(number)
    }

    /// Seals the plaintext of a control in place, as [`Self::chunk`] does. Returns its number.
    ///
    /// # Errors
    /// As [`Self::chunk`].
    pub fn control(&mut self, record: &mut [u8]) -> Result<u64, RecordError> {
        let number = self.next_control;
        self.next_control = seal(&self.control, &self.source, Kind::Control, number, record)?;
        Ok(number)
    }

    /// Seals the plaintext of a control as an accept, as [`Self::control`] does: with [`ACCEPT_PREFIX`] bytes of room
    /// in front. For the acceptor alone, until it has heard the opener.
    ///
    /// # Errors
    /// As [`Self::chunk`].
    pub fn accept(&mut self, record: &mut [u8]) -> Result<u64, RecordError> {
        let number = self.next_control;
        self.next_control = seal(&self.control, &self.source, Kind::Accept, number, record)?;
        Ok(number)
    }

    #[cfg(test)]
    pub(super) fn skip_to_chunk(&mut self, number: u64) {
        assert!(number >= self.next_chunk);
        self.next_chunk = number;
    }
}

/// Returns the next number.
fn seal(
    key: &LessSafeKey,
    source: &Source,
    kind: Kind,
    number: u64,
    record: &mut [u8],
) -> Result<u64, RecordError> {
    let front = kind.prefix();
    if !(front + TAG..=MAX_RECORD).contains(&record.len()) {
        return Err(RecordError::Malformed("no room for header and tag, or too long"));
    }
    if number >= MAX_NUMBER {
        return Err(RecordError::Exhausted);
    }
    let header = Header { kind, suite: source.suite, stream: source.ends.stream, number }.encode();
    let (prefix, rest) = record.split_at_mut(front);
    let (text, room) = rest.split_at_mut(rest.len() - TAG);
    prefix[..PREFIX].copy_from_slice(&header);
    if kind == Kind::Accept {
        prefix[PREFIX..].copy_from_slice(&source.fresh.0);
    }
    match key.seal_in_place_separate_tag(nonce(number), Aad::from(&*prefix), text) {
        Ok(tag) => room.copy_from_slice(tag.as_ref()),
        // Fails only past 2^36 bytes.
        Err(_) => unreachable!("sealing in memory failed"),
    }
    Ok(number + 1)
}

/// Opens records of one direction.
pub struct OpenKeys {
    source: Arc<Source>,
    direction: Role,
    control: LessSafeKey,
    /// By epoch; two, since chunks of two links come in any order around the change.
    data: [(u64, LessSafeKey); 2],
}

impl OpenKeys {
    /// Opens a record in place and returns its plaintext. What fails to open is left as rubbish.
    /// `header` is the record's own, from [`Header::parse`]. Whether its number has come before is for the caller
    /// to know.
    ///
    /// # Errors
    /// [`RecordError::Stream`], [`RecordError::Suite`], [`RecordError::Forged`].
    pub fn open<'a>(
        &mut self,
        header: &Header,
        record: &'a mut [u8],
    ) -> Result<&'a mut [u8], RecordError> {
        if header.stream != self.source.ends.stream {
            return Err(RecordError::Stream);
        }
        if header.suite != self.source.suite {
            return Err(RecordError::Suite);
        }
        match header.kind {
            Kind::Accept if self.direction == Role::Opener => Err(RecordError::Forged),
            // Of another acceptance: its keys are others, too.
            Kind::Accept if fresh(record) != Some(self.source.fresh) => Err(RecordError::Forged),
            Kind::Control | Kind::Accept => open(&self.control, header, record),
            Kind::Chunk { .. } => {
                let epoch = header.number >> EPOCH_BITS;
                let known = self.data.iter().position(|(e, _)| *e == epoch);
                let fresh;
                let key = if let Some(at) = known {
                    &self.data[at].1
                } else {
                    fresh = self.source.data(self.direction, epoch);
                    &fresh
                };
                open(key, header, record)
            }
        }
    }

    /// Makes ready for chunks from `number` on, whose predecessors have all come: keys of chunks around it are kept,
    /// those of others are made whenever such a chunk comes.
    pub fn passed(&mut self, number: u64) {
        let epoch = number >> EPOCH_BITS;
        while self.data[0].0 < epoch {
            let next = self.data[1].0.max(epoch.saturating_sub(1)) + 1;
            let fresh = (next, self.source.data(self.direction, next));
            self.data.swap(0, 1);
            self.data[1] = fresh;
        }
    }
}

/// What an accept has in front of its ciphertext.
fn fresh(record: &[u8]) -> Option<Fresh> {
    record.get(PREFIX..ACCEPT_PREFIX)?.try_into().ok().map(Fresh)
}

fn open<'a>(
    key: &LessSafeKey,
    header: &Header,
    record: &'a mut [u8],
) -> Result<&'a mut [u8], RecordError> {
    let front = header.kind.prefix();
    if record.len() < front + TAG {
        return Err(RecordError::Malformed("shorter than header and tag"));
    }
    let (prefix, sealed) = record.split_at_mut(front);
    let aad = Aad::from(&*prefix);
    key.open_in_place(nonce(header.number), aad, sealed).map_err(|_| RecordError::Forged)
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}
