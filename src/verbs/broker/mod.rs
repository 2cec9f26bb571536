//! `meshwire broker`

mod backup;
mod check;
mod turn;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use meshwire_coord::{Broker, BrokerConfig, Database, Policy, Tls, TurnDesk};
use meshwire_signaling::{Hash, PublicKey};
use meshwire_transport::url::BaseUrl;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::addresses;
use crate::context::Context;
use crate::exit::Exit;

/// Run a broker: it lets nodes find each other and keeps what waits for them, encrypted
///
/// On loopback it speaks plain HTTP. Elsewhere it makes a certificate for itself, which invites and
/// the admin token pin, or takes one with --cert and --key. Beside it runs a STUN and TURN server that
/// its members alone may use: pairs of them whose networks allow no direct path have one by it.
#[derive(Debug, clap::Args)]
#[command(after_help = "EXAMPLE:\n  \
    meshwire broker\n  \
    meshwire broker --listen 0.0.0.0:7900 --public-url https://192.168.1.20:7900\n  \
    meshwire broker --turn off                         without STUN and TURN\n  \
    meshwire broker --check                            would it start, and is all well?\n  \
    meshwire broker --backup backup-monday             a copy, while it runs")]
pub(crate) struct Args {
    /// Where to listen; port 0 chooses a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7900")]
    listen: SocketAddr,
    /// How nodes reach it, if not at the address it listens on
    #[arg(long, value_name = "URL")]
    public_url: Option<BaseUrl>,
    /// Where its key and database are kept [default: broker in the home folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A certificate chain (PEM) that nodes verify by their own roots
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Speak plain HTTP wherever it listens: a proxy in front ends TLS
    #[arg(long, conflicts_with_all = ["cert", "key"])]
    behind_proxy: bool,
    /// Replace the admin token by a new one and print it
    #[arg(long)]
    new_admin_token: bool,
    /// Where what must be kept is kept
    #[arg(long, value_enum, default_value_t = Store::Sqlite)]
    database: Store,
    /// Messages a second that each member may send
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    #[command(flatten)]
    turn: turn::TurnArgs,
    /// Look at this setup and say what is wrong with it; serve and change nothing
    #[arg(long, conflicts_with = "new_admin_token")]
    check: bool,
    /// Copy database, key and certificate to a new folder, while the broker runs or not
    #[arg(long, value_name = "DIR", conflicts_with_all = ["check", "new_admin_token"])]
    backup: Option<PathBuf>,
}

impl Args {
    /// Whether it stays to serve.
    pub(crate) fn serves(&self) -> bool {
        !self.check && self.backup.is_none()
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Store {
    /// A file in the data folder
    Sqlite,
    /// Nowhere: all is lost when the broker ends
    Memory,
}

/// What `--json` prints once it listens.
#[derive(Serialize)]
struct Listening<'a> {
    event: &'static str,
    url: &'a str,
    addr: SocketAddr,
    key: PublicKey,
    pin: Option<Hash>,
    data: &'a std::path::Path,
    admin_token: Option<String>,
    turn: turn::Shown,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<Exit> {
    let data = match args.data {
        Some(data) => data,
        None if args.check || args.backup.is_some() => cx.home_path()?.join("broker"),
        None => cx.home()?.path().join("broker"),
    };
    let certificate = args.cert.clone().zip(args.key.clone());
    let tls = match (args.cert, args.key) {
        (Some(cert), Some(key)) => Tls::Files { cert, key },
        _ if args.behind_proxy => Tls::BehindProxy,
        _ => Tls::Auto,
    };
    let mut policy = Policy::default();
    policy.rate = args.rate.unwrap_or(policy.rate);
    let mut config = BrokerConfig {
        listen: args.listen,
        public_url: args.public_url.as_ref().map(ToString::to_string),
        data: data.clone(),
        database: match args.database {
            Store::Sqlite => Database::Sqlite,
            Store::Memory => Database::Memory,
        },
        tls,
        policy,
        new_admin_token: args.new_admin_token,
        turn: None,
    };
    let around = turn::Around {
        listen: config.listen,
        public_url: args.public_url.as_ref(),
        certificate: certificate.as_ref().map(|(cert, key)| (cert, key)),
    };
    if args.check {
        return check::run(cx, &config, &args.turn, around).await;
    }
    if let Some(target) = &args.backup {
        return backup::run(cx, &config, target).await;
    }
    // Listened for before anybody is told that the broker is there to be stopped.
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let (desk, turn) = args.turn.start(&cx.net, around).await?;
    config.turn = desk.clone().map(|desk| desk as Arc<dyn TurnDesk>);
    let broker = Broker::start(cx.net.clone(), config).await?;
    let addr = broker.addr();
    let url = match &args.public_url {
        Some(url) => url.to_string(),
        None => reached_at(broker.url(), addr, addresses::reachable().first().copied()),
    };
    let listening = Listening {
        event: "listening",
        url: &url,
        addr,
        key: broker.key(),
        pin: broker.pin(),
        data: &data,
        admin_token: broker.admin_token().map(ToString::to_string),
        turn,
    };
    cx.out.show(&listening, || describe(&listening))?;
    tracing::info!(%addr, %url, "listening");
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("stopping");
    broker.shutdown().await;
    if let Some(desk) = desk {
        desk.shutdown().await;
    }
    Ok(Exit::Ok)
}

/// The address for nodes where none was given: nobody connects to "every address".
fn reached_at(url: &str, addr: SocketAddr, own: Option<IpAddr>) -> String {
    let scheme = url.split("://").next().unwrap_or("https");
    match own {
        _ if !addr.ip().is_unspecified() => url.to_owned(),
        Some(ip) => format!("{scheme}://{}", SocketAddr::new(ip, addr.port())),
        None => format!("{scheme}://127.0.0.1:{}", addr.port()),
    }
}

fn describe(l: &Listening<'_>) -> String {
    let mut lines = vec![
        format!("meshwire broker {}", env!("CARGO_PKG_VERSION")),
        format!("listens on  {}", l.addr),
        format!("reached at  {}", l.url),
        format!("key         {}", l.key),
        format!("data        {}", l.data.display()),
    ];
    lines.extend(l.turn.lines());
    if l.addr.ip().is_loopback() {
        let ip = addresses::reachable().first().copied();
        let for_others = ip.map(|ip| addresses::broker_command(ip, l.addr.port()));
        lines.push("Only this machine can reach it.".to_owned());
        lines.extend(for_others.map(|c| format!("For other machines: {c}")));
    }
    if let Some(token) = &l.admin_token {
        lines.push(String::new());
        lines.push(
            "The admin token: `meshwire mesh create` needs it, and it is not shown again:".into(),
        );
        lines.push(token.clone());
    }
    lines.push(String::new());
    lines.push(format!("Next: meshwire mesh create NAME --broker {} --admin-token TOKEN", l.url));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_no_address_to_connect_to() {
        let own = Some("192.168.1.20".parse().unwrap());
        let any = "0.0.0.0:7900".parse().unwrap();
        assert_eq!(reached_at("https://0.0.0.0:7900", any, own), "https://192.168.1.20:7900");
        assert_eq!(reached_at("http://0.0.0.0:7900", any, None), "http://127.0.0.1:7900");
        let one = "10.0.0.7:7900".parse().unwrap();
        assert_eq!(reached_at("https://10.0.0.7:7900", one, own), "https://10.0.0.7:7900");
    }
}
