//! Moves packets and time.
//!
//! tokio's timers have a resolution of a millisecond, packets one of a nanosecond. The pump therefore
//! moves the clock itself within a millisecond, and leaves longer waits to tokio, which jumps to the
//! next timer of anybody. It acts only when no other task can run, so what a packet or timer of one
//! moment causes is done before the next moment comes.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{advance, sleep_until};

use super::Shared;
use crate::time::Time;

/// tokio's resolution.
const TICK: u64 = 1_000_000;

pub(super) async fn pump(shared: Arc<Shared>) {
    poll_fn(|cx| shared.idle.poll(cx)).await;
    loop {
        let now = shared.now();
        let (stirred, next) = {
            let mut world = shared.lock(now);
            (world.settle(), world.next_deadline())
        };
        if stirred {
            // Whoever was woken acts before time goes on.
            shared.idle.arm();
            poll_fn(|cx| shared.idle.poll(cx)).await;
            continue;
        }
        let past = now.as_nanos() % TICK;
        let boundary = now.as_nanos() - past + TICK;
        match next.map(Time::as_nanos) {
            Some(at) if at < boundary => {
                // No timer fires within a tick, so nobody else has anything to do then.
                advance(Duration::from_nanos(at.saturating_sub(now.as_nanos()))).await;
            }
            _ if past != 0 => {
                // On whole ticks tokio's timers fire when they should.
                advance(Duration::from_nanos(boundary - now.as_nanos())).await;
                shared.idle.arm();
                poll_fn(|cx| shared.idle.poll(cx)).await;
            }
            Some(at) => {
                let tick = shared.epoch + Duration::from_nanos(at - at % TICK);
                let mut timer = pin!(sleep_until(tick));
                poll_fn(|cx| {
                    if timer.as_mut().poll(cx).is_ready() {
                        shared.idle.arm();
                    }
                    shared.idle.poll(cx)
                })
                .await;
            }
            None => poll_fn(|cx| shared.idle.poll(cx)).await,
        }
    }
}
