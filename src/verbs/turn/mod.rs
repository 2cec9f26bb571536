//! `meshwire turn`

pub(crate) mod places;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use meshwire_peer::api::{ApiError, ErrorKind};
use meshwire_transport::net::random;
use meshwire_turn::auth::REALM;
use meshwire_turn::{Cidr, Kind, Member, PORT, RelayAddress, Secret, TLS_PORT, TurnError};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::context::Context;
use crate::exit::{Exit, invalid};
use places::{Places, Relaying, address, ports};

/// Of the process's descriptors, one in two may be an allocation.
const SHARE: usize = 2;
/// Least length of a secret, bytes: half of what `openssl rand -hex 16` writes.
const MIN_SECRET: usize = 16;
/// How long the credentials hold that are shown for trying out.
const TRIAL: Duration = Duration::from_secs(24 * 3_600);

/// Run a STUN and TURN server by itself; a broker has one of its own
///
/// Whoever knows the secret makes credentials for it, as for coturn's use-auth-secret (TURN REST):
/// username EXPIRY:NAME, seconds since 1970; password base64(HMAC-SHA1(secret, username)). Without
/// --secret-file it makes a secret for this run, and shows credentials for a day.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire turn --listen 127.0.0.1:3478              to try it out\n  \
    openssl rand -hex 32 > secret && meshwire turn --secret-file secret\n  \
    meshwire turn --secret-file secret --tls 0.0.0.0 --cert chain.pem --key key.pem\n  \
    meshwire turn --secret-file secret --public-ip 198.51.100.7   behind NAT")]
pub(crate) struct Args {
    /// Where to listen, over UDP and TCP; port 0 chooses free ones
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:3478", value_parser = main_address)]
    listen: SocketAddr,
    /// Where to listen within TLS; port 5349 unless it says otherwise
    #[arg(long, value_name = "ADDR", value_parser = tls_address, requires = "cert")]
    tls: Option<SocketAddr>,
    /// A certificate chain (PEM) that clients verify
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// What passwords are made of: the first line of a file
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// This host's address as others know it, behind a one-to-one NAT; one of each family
    #[arg(long, value_name = "IP")]
    public_ip: Vec<IpAddr>,
    /// Ports to relay from [default: 49152-65535]
    #[arg(long, value_name = "FIRST-LAST", value_parser = ports)]
    ports: Option<RangeInclusive<u16>>,
    /// Private addresses that it may relay to, such as 192.168.0.0/16; repeat for more
    #[arg(long, value_name = "CIDR")]
    allow: Vec<Cidr>,
}

fn main_address(text: &str) -> Result<SocketAddr, String> {
    address(text, PORT).ok_or_else(|| format!("{text:?} is no address such as 0.0.0.0:{PORT}"))
}

fn tls_address(text: &str) -> Result<SocketAddr, String> {
    let no = || format!("{text:?} is no address such as 0.0.0.0:{TLS_PORT}");
    address(text, TLS_PORT).ok_or_else(no)
}

/// What it prints once it listens.
#[derive(Debug, Serialize)]
struct Listening {
    event: &'static str,
    udp: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    /// The second socket for STUN.
    behaviour: Option<SocketAddr>,
    /// Addresses that others see relayed data come from.
    relay: Vec<IpAddr>,
    realm: &'static str,
    /// Where nobody else could make credentials.
    trial: Option<Trial>,
}

#[derive(Debug, Serialize)]
struct Trial {
    username: String,
    password: String,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let secret = match &args.secret_file {
        Some(path) => read_secret(path)?,
        None => Secret::new(random::<32>(&*cx.net)),
    };
    let relay = places::relayed(args.listen.ip(), &places::own(), &args.public_ip)?;
    let relayed = relay.iter().map(|r: &RelayAddress| r.public).collect();
    let relaying = Relaying { public: args.public_ip, ports: args.ports, allow: args.allow };
    let mut config = places::config(secret, relay, &relaying, SHARE);
    if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
        config.identity = Some(places::identity(cert, key)?);
    }
    let at = |behaviour| Places { main: args.listen, tls: args.tls, behaviour };
    // Listened for before anybody is told that the server is there to be stopped.
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let server = places::first(&cx.net, &config, &[at(true), at(false)]).await.map_err(failed)?;
    let trial = match args.secret_file {
        Some(_) => None,
        None => {
            let given = server.credentials(&Member::new(Kind::Other, "trial")?, TRIAL);
            Some(Trial { username: given.username, password: given.password.to_string() })
        }
    };
    let bound = server.listening().clone();
    let listening = Listening {
        event: "listening",
        udp: bound.udp,
        tcp: bound.tcp,
        tls: bound.tls,
        behaviour: bound.behaviour,
        relay: relayed,
        realm: REALM,
        trial,
    };
    cx.out.show(&listening, || describe(&listening))?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    let done = server.metrics();
    tracing::info!(allocated = done.counters.allocated, now = done.allocations, "stopping");
    server.shutdown().await;
    Ok(Exit::Ok)
}

/// Why a server did not start, for the exit code.
pub(crate) fn failed(error: TurnError) -> anyhow::Error {
    let text = format!("TURN: {error}");
    match error {
        TurnError::Bind { .. } => ApiError::new(ErrorKind::Unreachable, "listen", text).into(),
        _ => invalid("turn", text).into(),
    }
}

fn read_secret(path: &Path) -> anyhow::Result<Secret> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let secret = text.lines().next().unwrap_or_default().trim();
    if secret.len() < MIN_SECRET {
        let path = path.display();
        let text = format!(
            "{path}: its first line is the secret, {MIN_SECRET} characters at least: make one by \
             openssl rand -hex 32 > {path}"
        );
        return Err(invalid("secret", text).into());
    }
    Ok(Secret::new(secret))
}

fn describe(l: &Listening) -> String {
    let all = |of: &[SocketAddr]| of.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let relay: Vec<String> = l.relay.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        format!("meshwire turn {}", env!("CARGO_PKG_VERSION")),
        format!("UDP         {}", all(&l.udp)),
        format!("TCP         {}", all(&l.tcp)),
    ];
    if !l.tls.is_empty() {
        lines.push(format!("TLS         {}", all(&l.tls)));
    }
    if let Some(other) = l.behaviour {
        lines.push(format!("STUN also   {other}"));
    }
    lines.push(format!("relays from {}", relay.join(" ")));
    lines.push(format!("realm       {}", l.realm));
    if let Some(trial) = &l.trial {
        lines.push(format!("username    {}", trial.username));
        lines.push(format!("password    {}", trial.password));
        lines.push(
            "These are for a day, and for this run: for more, give --secret-file.".to_owned(),
        );
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_the_first_line_and_not_too_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "0123456789abcdef\nand more\n").unwrap();
        assert!(read_secret(&path).is_ok());
        for short in ["", "\n0123456789abcdef", "hunter2\n"] {
            std::fs::write(&path, short).unwrap();
            let error = read_secret(&path).unwrap_err().to_string();
            assert!(error.contains("openssl rand"), "{error}");
        }
        assert!(read_secret(&folder.path().join("none")).is_err());
    }
}
