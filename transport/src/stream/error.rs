//! How a stream fails, and how a record does.

use std::io;

use meshwire_signaling::stream::RecordError;

/// Why a stream, or one half of it, ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The other side did not accept it.
    #[error("the stream was refused (code {code}): {reason}")]
    Refused {
        /// One of [`meshwire_signaling::stream::code`], or the application's.
        code: u32,
        /// The other side's words.
        reason: String,
    },
    /// The other side ended it.
    #[error("the other side reset the stream (code {code}): {reason}")]
    Reset {
        /// One of [`meshwire_signaling::stream::code`], or the application's.
        code: u32,
        /// The other side's words.
        reason: String,
    },
    /// This side ended it.
    #[error("the stream was reset here (code {code})")]
    Cancelled {
        /// The code that was given.
        code: u32,
    },
    /// This half was stopped: by the other side, which reads no more, or by this side, which does not.
    #[error("nobody reads this half of the stream any more (code {code})")]
    Stopped {
        /// One of [`meshwire_signaling::stream::code`], or the application's.
        code: u32,
    },
    /// This half was finished: nothing can be written to it.
    #[error("this half of the stream is finished")]
    Finished,
    /// Nothing authentic came for too long, on whatever link.
    #[error("nothing has been heard from the other side of the stream for too long")]
    Silent,
    /// The other side did not answer the open in time.
    #[error("the other side did not answer the open of the stream")]
    Unanswered,
    /// The other side, and nobody else, broke a rule.
    #[error("the other side broke a rule of streams: {0}")]
    Protocol(&'static str),
    /// There is no memory for another stream just now.
    #[error("no room for another stream: {limit} bytes are for all streams together")]
    Busy {
        /// The budget's limit.
        limit: u64,
    },
    /// More was sent than a stream can number.
    #[error("the stream has used all its numbers")]
    Exhausted,
}

impl StreamError {
    /// What kind of I/O error it is.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Refused { .. } => io::ErrorKind::ConnectionRefused,
            Self::Reset { .. } => io::ErrorKind::ConnectionReset,
            Self::Cancelled { .. } => io::ErrorKind::ConnectionAborted,
            Self::Stopped { .. } | Self::Finished => io::ErrorKind::BrokenPipe,
            Self::Silent | Self::Unanswered => io::ErrorKind::TimedOut,
            Self::Protocol(_) => io::ErrorKind::InvalidData,
            Self::Busy { .. } => io::ErrorKind::OutOfMemory,
            Self::Exhausted => io::ErrorKind::Other,
        }
    }
}

/// The stream's error is inside: `get_ref` and `downcast_ref` give it back.
impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// Why a record was dropped. The stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// It is none of this stream, or not as the other side made it: anybody may have sent it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The other side sent more than it was granted.
    #[error("a chunk beyond what was granted")]
    BeyondLimit,
}
