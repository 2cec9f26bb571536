//! Rebuilds the crate when a migration is added: they are compiled in.

#[allow(clippy::print_stdout)] // how a build script speaks
fn main() {
    println!("cargo:rerun-if-changed=../migrations/coord/sqlite");
}
