//! What the Linux lab costs: `cargo run --release -p meshwire-netsim --example lab_speed`, as root, with
//! iproute2 and iperf3 installed.

#[cfg(target_os = "linux")]
#[expect(clippy::print_stdout, reason = "it is what the example is for")]
fn main() -> Result<(), meshwire_netsim::lab::LabError> {
    use meshwire_netsim::lab::bench::{added_latency, tcp_through_nat};

    let latency = added_latency()?;
    println!(
        "round trip of UDP through one NAT {:?}, over loopback {:?}: the lab adds {:?}",
        latency.lab,
        latency.loopback,
        latency.added()
    );
    println!("TCP through one NAT: {:.2} Gbit/s", tcp_through_nat(5)? / 1e9);
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {}
