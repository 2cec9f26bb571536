//! The Linux lab with the kernel's own sockets and programs. Needs root and iproute2; where they are
//! missing, tests say so and pass, unless `MESHWIRE_REQUIRE_LAB=1`.

#![cfg(target_os = "linux")]

mod changes;
mod killed;
mod measured;
mod programs;
mod world;
