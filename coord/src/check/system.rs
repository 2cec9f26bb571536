//! What the machine gives: the port, space on the disk, file descriptors.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use meshwire_signaling::PublicKey;
use meshwire_transport::http::broker_info;
use meshwire_transport::net::Net;
use meshwire_transport::url::BaseUrl;

use super::Check;
use crate::health::free_bytes;
use crate::tls::Identity;

const MIB: u64 = 1 << 20;
/// Below this the next busy hour may fill the disk.
const LOW: u64 = 1_024 * MIB;
/// Below this even a quiet broker's log may not fit: SQLite's write-ahead log is a few MiB.
const FULL: u64 = 64 * MIB;
/// Descriptors that a broker of a few thousand members needs, one each and some for itself.
const DESCRIPTORS: u64 = 4_096;

/// Whether the address can be listened on. `own`: the key of the broker that would.
pub(super) async fn listen(
    net: &dyn Net,
    addr: SocketAddr,
    identity: Option<&Identity>,
    own: Option<PublicKey>,
) -> Check {
    const NAME: &str = "listen";
    let error = match net.tcp_bind(addr).await {
        Ok(_) if addr.port() == 0 => return Check::ok(NAME, "a free port will be chosen"),
        Ok(_) => return Check::ok(NAME, format!("{addr} is free")),
        Err(e) => e,
    };
    match error.kind() {
        ErrorKind::AddrInUse => {
            // Whoever answers with the data folder's key is this broker, already running.
            let host = match addr.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
                ip => ip.to_string(),
            };
            let tls = identity.is_some();
            let base = BaseUrl { tls, host, port: addr.port(), prefix: String::new() };
            let there = broker_info(net, &base, identity.map(|i| i.spki)).await;
            match (there, own) {
                (Ok(info), Some(own)) if info.broker == own => Check::warn(
                    NAME,
                    format!("{addr} is in use by this very broker, which is running"),
                    "nothing, unless you mean to start it again: then stop it first",
                ),
                (Ok(_), _) => Check::fail(
                    NAME,
                    format!("{addr} is in use by another meshwire broker"),
                    "stop it, or choose another port with --listen",
                ),
                (Err(_), _) => Check::fail(
                    NAME,
                    format!("{addr} is in use by another program"),
                    format!(
                        "see which one (ss -ltnp 'sport = :{}'), or choose another port with \
                             --listen",
                        addr.port()
                    ),
                ),
            }
        }
        ErrorKind::AddrNotAvailable => Check::fail(
            NAME,
            format!("{} is no address of this machine", addr.ip()),
            "listen on 0.0.0.0 or [::], and name the address for others with --public-url",
        ),
        ErrorKind::PermissionDenied => Check::fail(
            NAME,
            format!("{addr} is not allowed: {error}"),
            "ports below 1024 want CAP_NET_BIND_SERVICE: choose a higher one",
        ),
        _ => Check::fail(NAME, format!("{addr}: {error}"), "choose another address with --listen"),
    }
}

/// Whether there is space where the data is, or will be.
pub(super) fn disk(data: &Path) -> Check {
    let there = data.ancestors().find(|p| p.exists()).unwrap_or(Path::new("."));
    space(free_bytes(there))
}

fn space(free: Option<u64>) -> Check {
    const NAME: &str = "disk";
    let advice = "make room, or move the data folder; a broker without space refuses messages";
    match free {
        None => Check::ok(NAME, "free space is not known here"),
        Some(free) => {
            let found = format!("{} MiB free", free / MIB);
            match free {
                0..FULL => Check::fail(NAME, found, advice),
                FULL..LOW => Check::warn(NAME, found, advice),
                _ => Check::ok(NAME, found),
            }
        }
    }
}

/// Whether enough connections can be open. `sockets`: how many the broker takes.
pub(super) fn descriptors(sockets: usize) -> Check {
    let limits = std::fs::read_to_string("/proc/self/limits");
    enough(limits.ok().as_deref().and_then(open_files), sockets)
}

/// The soft limit in the text of `/proc/self/limits` (proc_pid_limits(5)).
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn enough(limit: Option<u64>, sockets: usize) -> Check {
    const NAME: &str = "descriptors";
    match limit {
        None => Check::ok(NAME, "the limit is not known here"),
        Some(limit) if limit < DESCRIPTORS => Check::warn(
            NAME,
            format!("{limit} files may be open, and each connection is one"),
            format!("LimitNOFILE={} in the unit, or ulimit -n, before the start", sockets + 1_024),
        ),
        Some(limit) => Check::ok(NAME, format!("{limit} files may be open")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Outcome;

    #[test]
    fn space_has_three_grades() {
        let graded = [0, FULL - 1, FULL, LOW - 1, LOW].map(|n| space(Some(n)).outcome);
        let expected = [Outcome::Fail, Outcome::Fail, Outcome::Warn, Outcome::Warn, Outcome::Ok];
        assert_eq!(graded, expected);
        assert_eq!(space(None).outcome, Outcome::Ok);
    }

    #[test]
    fn the_limit_is_read_as_the_kernel_writes_it() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             63435                63435                processes \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(text), Some(1_024));
        assert_eq!(open_files("Max open files   unlimited unlimited files"), Some(u64::MAX));
        assert_eq!(open_files("Max open files"), None);
        assert_eq!(enough(Some(1_024), 20_000).outcome, Outcome::Warn);
        assert_eq!(enough(Some(4_096), 20_000).outcome, Outcome::Ok);
        assert_eq!(enough(None, 20_000).outcome, Outcome::Ok);
    }
}
