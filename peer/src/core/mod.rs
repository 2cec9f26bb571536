//! The node's policies and state machines, without I/O, clock or randomness.
//!
//! | module | what it decides |
//! |---|---|
//! | [`outbox`] | which state of a sent message may follow which, when to try again |
//! | [`inbox`] | what becomes of an envelope that comes in |
//! | [`order`] | when an accepted message surfaces |
//! | [`resolve`] | whom a text given by a person means |

pub mod inbox;
pub mod order;
pub mod outbox;
pub mod resolve;
