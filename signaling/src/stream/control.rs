//! The plaintext of control records. Integers are big-endian.

/// Bytes of a state.
const STATE: usize = 30;
/// Bytes of a reset without its reason.
const RESET: usize = 14;
/// Most bytes of a reset's reason.
pub const MAX_REASON: usize = 256;

const ANSWER: u8 = 1;
const STOP: u8 = 2;
const DONE: u8 = 4;

/// Codes of resets and stops; from 256 on they are the application's.
pub mod code {
    /// No reason given.
    pub const NONE: u32 = 0;
    /// The other side broke a rule of streams.
    pub const PROTOCOL: u32 = 1;
    /// Nobody wants the stream.
    pub const REFUSED: u32 = 2;
    /// There is no room for another stream.
    pub const BUSY: u32 = 3;
    /// The first code of the application.
    pub const APPLICATION: u32 = 256;
}

/// All that one side has to say; a later one replaces those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether it is to be answered at once.
    pub answer: bool,
    /// Its author reads no more, and why.
    pub stop: Option<u32>,
    /// Its author has all of the stream, and all of its own is acknowledged.
    pub done: bool,
    /// The highest control number that its author has had, 0 for none.
    pub heard: u64,
    /// Its author has all chunks below this number.
    pub next: u64,
    /// How many bytes of records its reader may send altogether.
    pub limit: u64,
}

/// What a control record says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// How far its author is.
    State(State),
    /// The stream has ended in both directions.
    Reset {
        /// As [`State::heard`].
        heard: u64,
        /// One of [`code`], or the application's.
        code: u32,
        /// For people, at most [`MAX_REASON`] bytes.
        reason: String,
    },
}

/// A control that came from the other side and does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed control of a stream")]
pub struct BadControl;

impl Control {
    /// The plaintext. A longer reason is cut to [`MAX_REASON`] bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(STATE);
        match self {
            Self::State(state) => {
                let flag = |set, bit| if set { bit } else { 0 };
                let stop = flag(state.stop.is_some(), STOP);
                out.extend([1, flag(state.answer, ANSWER) | stop | flag(state.done, DONE)]);
                for number in [state.heard, state.next, state.limit] {
                    out.extend(number.to_be_bytes());
                }
                out.extend(state.stop.unwrap_or(0).to_be_bytes());
            }
            Self::Reset { heard, code, reason } => {
                out.extend([2, 0]);
                out.extend(heard.to_be_bytes());
                out.extend(code.to_be_bytes());
                let end = reason.floor_char_boundary(MAX_REASON);
                out.extend_from_slice(&reason.as_bytes()[..end]);
            }
        }
        out
    }

    /// Reads a plaintext; none for types from the future.
    ///
    /// # Errors
    /// [`BadControl`].
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, BadControl> {
        match bytes.first() {
            None => Err(BadControl),
            Some(1) => {
                let bytes = bytes.first_chunk::<STATE>().ok_or(BadControl)?;
                let flags = bytes[1];
                Ok(Some(Self::State(State {
                    answer: flags & ANSWER != 0,
                    stop: (flags & STOP != 0).then(|| u32_at(bytes, 26)).transpose()?,
                    done: flags & DONE != 0,
                    heard: u64_at(bytes, 2)?,
                    next: u64_at(bytes, 10)?,
                    limit: u64_at(bytes, 18)?,
                })))
            }
            Some(2) => {
                let (heard, code) = (u64_at(bytes, 2)?, u32_at(bytes, 10)?);
                let reason = bytes.get(RESET..).ok_or(BadControl)?;
                if reason.len() > MAX_REASON {
                    return Err(BadControl);
                }
                let reason = std::str::from_utf8(reason).map_err(|_| BadControl)?;
                Ok(Some(Self::Reset { heard, code, reason: reason.to_owned() }))
            }
            Some(_) => Ok(None),
        }
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, BadControl> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map(|b| u64::from_be_bytes(*b)).ok_or(BadControl)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, BadControl> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map(|b| u32::from_be_bytes(*b)).ok_or(BadControl)
}
