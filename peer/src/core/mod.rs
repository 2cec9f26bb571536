//! The node's policies and state machines, without I/O, clock or randomness.
//!
//! | module | what it decides |
//! |---|---|
//! | [`outbox`] | which state of a sent message may follow which, when to try again |
//! | [`inbox`] | what becomes of an envelope that comes in |
//! | [`group`] | who gets a group's message, and where the whole of it stands |
//! | [`order`] | when an accepted message surfaces |
//! | [`gate`] | which mail surfaces while its addressee is busy |
//! | [`process`] | whether a process is the one that it was |
//! | [`resolve`] | whom a text given by a person means |
//! | [`session_name`] | what a session may be called |
//! | [`streams`] | how many opens of streams are looked at |

pub mod gate;
pub mod group;
pub mod inbox;
pub mod order;
pub mod outbox;
pub mod process;
pub mod resolve;
pub mod session_name;
pub mod streams;
