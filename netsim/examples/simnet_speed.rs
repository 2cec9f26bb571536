//! How many UDP datagrams per second programs exchange through a NAT in virtual time, on one core. Run
//! it in release: `cargo run --release -p meshwire-netsim --example simnet_speed`

use std::io::Write as _;

use meshwire_netsim::bench::{PAYLOAD, virtual_udp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let report = virtual_udp(2_000_000)?;
    let (rate, simulated) = (report.per_second(), report.simulated.as_secs_f64());
    writeln!(
        std::io::stdout(),
        "{rate:.0} datagrams/s of {PAYLOAD} bytes through one NAT; {simulated:.1} s were simulated"
    )?;
    Ok(())
}
