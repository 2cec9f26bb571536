//! The Linux lab with the kernel's own sockets and programs. Needs root and iproute2; where they are
//! missing, tests say so and pass, unless `MESHWIRE_REQUIRE_LAB=1`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers panic, which is what they are for
#![allow(clippy::print_stderr, reason = "a test that cannot run says why")]

mod changes;
mod killed;
mod measured;
mod programs;
mod world;
