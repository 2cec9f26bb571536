//! A server for measurements and for trying clients by hand, on loopback:
//! `serve [SECRET] [UDP-AND-TCP-ADDR]`. Prints where it listens; ends with its standard input.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;

use meshwire_transport::net::OsNet;
use meshwire_turn::{Limits, RelayAddress, Secret, TurnConfig, TurnServer};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it is what this program is for")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let secret = args.next().unwrap_or_else(|| "secret".to_owned());
    let listen: SocketAddr = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let mut config = TurnConfig::new(Secret::new(secret));
    config.udp = vec![listen];
    config.tcp = vec![listen];
    config.relay = vec![RelayAddress::direct(listen.ip())];
    config.allow = vec!["127.0.0.0/8".parse()?, "::1".parse()?];
    config.limits = Limits { bytes_per_second: u64::MAX / 2_000, ..Limits::default() };
    let server = TurnServer::start(Arc::new(OsNet), config).await?;
    println!("{}", server.listening().udp[0]);
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    println!("{:#?}", server.metrics());
    server.shutdown().await;
    Ok(())
}
