//! Streams that survive a change of path (design section 7, `docs/protocol.md` section 25): the part without I/O.
//!
//! A [`Stream`] is one side of one stream. It takes the application's bytes, records that came in, news of
//! links and the time, and gives records to send. A *link* is one connection that carries records in order
//! while it lives; any number of them come and go.
//!
//! ```text
//!            write, finish            records               records           read
//! application ------------> Stream ------------> links ------------> Stream ------> application
//!                             ^                                        |
//!                             +------ states: next, limit, done -------+
//! ```
//!
//! **To drive one**: call anything, in any order; then, until nothing is left to do,
//! - for each link with room, send what [`Stream::poll_transmit`] returns, in that order, until it returns none;
//! - look at [`Stream::changes`];
//! - be back at [`Stream::poll_timeout`] with [`Stream::handle_timeout`];
//! - drop it once [`Stream::is_over`] and the application has read what is left.
//!
//! A rejected record has changed nothing. Nothing that a peer or a carrier does panics or takes more memory than
//! the windows that were granted; these and what is kept for sending again are taken from a [`Budget`] that all
//! streams of a node share.
//!
//! | module | what it decides |
//! |---|---|
//! | `machine` | what the application and links can do with a stream, and when it is over |
//! | `speak`, `hear` | what is said, and what is made of what comes in |
//! | `timers` | when a stream says something by itself, and when it gives up |
//! | `receive` | order, duplicates, the end |
//! | `window` | how much the other side may send |
//! | `send` | numbers, what is kept, what is sent again |
//! | `links` | which link is the best |
//! | [`Live`] | the driver: locks, wakers, a timer |
//! | [`Budget`] | how much memory all streams have |
//! | [`Scheduler`] | which of many streams sends next on a link |
//! | `shares` | what is left to the less urgent |

mod budget;
mod buffers;
mod error;
mod halves;
mod hear;
mod links;
mod live;
mod look;
mod machine;
mod receive;
mod sched;
mod send;
mod shares;
mod speak;
#[cfg(test)]
mod tests;
mod timers;
mod window;

pub use budget::{Budget, Reservation};
pub use buffers::buffer;
pub use error::{Rejected, StreamError};
pub use halves::{ReadHalf, WriteHalf};
pub use links::{LinkId, MAX_LINKS, Pulse};
pub use live::{Live, Wake};
pub use look::{Changes, Counters};
pub use machine::{Read, Stream};
pub use sched::Scheduler;
pub(crate) use shares::{Shares, level};
pub use window::Windows;
