//! Network namespaces by name, as `ip netns` knows them.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::Ipv6Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_bind_recursive, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::error::LabError;
use super::sweep::FILES;

/// Where `ip netns` keeps namespaces.
pub(crate) const NAMES: &str = "/run/netns";

/// How often the kernel is asked whether it has done something: three seconds, the most that Linux takes
/// for a carrier being one.
const ROUNDS: u32 = 600;
const ROUND: Duration = Duration::from_millis(5);

/// The file that stands for a namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// Runs `work` on a thread of its own inside a namespace. Sockets and devices that it makes belong to
/// that namespace for good, wherever they are used later.
///
/// # Errors
/// There is no such namespace, entering it needs CAP_SYS_ADMIN, or `work` panicked.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(path(name))?;
    let enter = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    };
    // The thread ends here, so that no other work ever finds itself in the wrong namespace.
    std::thread::scope(|scope| scope.spawn(enter).join())
        .unwrap_or_else(|_| Err(io::Error::other("the work inside the namespace panicked")))
}

/// Makes a namespace whose programs see these instead of /etc/hosts and /etc/resolv.conf.
///
/// It does itself what `ip netns add` does: a program that is started for it could still be at it when
/// this process has been killed and the next lab has looked for what is left.
pub(crate) fn add(name: &str, hosts: &str) -> Result<(), LabError> {
    let files = Path::new(FILES).join(name);
    fs::create_dir_all(&files)
        .and_then(|()| fs::write(files.join("hosts"), hosts))
        .map_err(LabError::system(format!("write {}", files.join("hosts").display())))?;
    if Path::new("/etc/resolv.conf").exists() {
        // No name server: a name that is not in the hosts file fails at once instead of after
        // timeouts towards a server that the lab does not have.
        fs::write(
            files.join("resolv.conf"),
            "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n",
        )
        .map_err(LabError::system(format!("write {}", files.display())))?;
    }
    share_names().map_err(LabError::system(format!("make {NAMES} a shared mount")))?;
    make(&path(name)).map_err(LabError::system(format!("make namespace {name}")))
}

/// Makes the directory of names such that what is unmounted there is so in every mount namespace; each
/// `ip netns exec` makes one.
fn share_names() -> io::Result<()> {
    fs::create_dir_all(NAMES)?;
    // As `ip` does, so that two at once do not mount it twice.
    let directory = File::open(NAMES)?;
    flock(&directory, FlockOperation::LockExclusive)?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount_change(NAMES, shared) {
        Err(rustix::io::Errno::INVAL) => {
            mount_bind_recursive(NAMES, NAMES)?;
            Ok(mount_change(NAMES, shared)?)
        }
        done => Ok(done?),
    }
}

/// Makes a namespace and lets a file stand for it.
fn make(path: &Path) -> io::Result<()> {
    File::create_new(path)?;
    let make = || {
        #[expect(deprecated, reason = "unsafe only with FILES; the successor is so for all flags")]
        rustix::thread::unshare(UnshareFlags::NEWNET)?;
        mount_bind("/proc/thread-self/ns/net", path)
    };
    // The thread ends here, and the namespace lives on by its file.
    let made = std::thread::scope(|scope| scope.spawn(make).join());
    made.unwrap_or(Err(rustix::io::Errno::IO)).map_err(Into::into)
}

/// Gives the programs of a namespace other names, also those that run: the file stays the same one.
pub(crate) fn rename(name: &str, hosts: &str) -> Result<(), LabError> {
    let path = Path::new(FILES).join(name).join("hosts");
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).open(&path)?;
        let old = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        // One call, and never shorter than before: who reads meanwhile does not find half a file.
        let mut text = hosts.to_owned();
        text.extend(std::iter::repeat_n('\n', old.saturating_sub(text.len())));
        file.write_all(text.as_bytes())
    };
    write().map_err(LabError::system(format!("write {}", path.display())))
}

/// Runs `ip -batch` inside a namespace.
pub(crate) fn configure(name: &str, script: &str) -> Result<(), LabError> {
    // `ip rule` alone does not take the family from the address that it is given.
    let is_v6_rule = |line: &&str| line.starts_with("rule ") && line.contains(':');
    let (rules, rest): (Vec<&str>, Vec<&str>) = script.lines().partition(is_v6_rule);
    for (family, lines) in [(None, rest), (Some("-6"), rules)] {
        if !lines.is_empty() {
            let args = ["-netns", name].into_iter().chain(family).chain(["-batch", "-"]);
            ip(&args.collect::<Vec<_>>(), &(lines.join("\n") + "\n"))?;
        }
    }
    Ok(())
}

fn ip(args: &[&str], input: &str) -> Result<String, LabError> {
    let failed = |source| LabError::System { what: "run `ip` (iproute2)".to_owned(), source };
    let mut child = Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // An `ip` that has given up says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let out = child.wait_with_output().map_err(failed)?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; ");
    let sent = if input.is_empty() { String::new() } else { format!(" (`{}`)", input.trim()) };
    Err(LabError::Ip { command: args.join(" "), message: message + &sent })
}

/// Waits until the kernel has noticed that a device has a carrier or none: it does so in its own time,
/// and until then sends packets where there is no way any more.
pub(crate) fn await_carrier(name: &str, device: &str, on: bool) -> Result<(), LabError> {
    // IPv6 looks at the device itself.
    let args = ["-netns", name, "-4", "route", "show", "table", "all", "dev", device];
    wait_for(&format!("see the carrier of {device} change"), || {
        let routes = ip(&args, "")?;
        Ok(routes
            .lines()
            .filter(|r| r.starts_with("default"))
            .all(|r| r.contains("linkdown") != on))
    })
}

/// Waits until the kernel takes packets to these addresses: IPv6's are entered in its own time.
pub(crate) fn await_addresses(name: &str, addresses: &[Ipv6Addr]) -> Result<(), LabError> {
    if addresses.is_empty() {
        return Ok(());
    }
    wait_for("see IPv6 addresses come into use", || {
        let read = || fs::read_to_string("/proc/thread-self/net/ipv6_route");
        let routes =
            inside(name, read).and_then(|text| text).map_err(LabError::system("read routes"))?;
        let own: Vec<Ipv6Addr> = routes.lines().filter_map(local).collect();
        Ok(addresses.iter().all(|a| own.contains(a)))
    })
}

fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool, LabError>) -> Result<(), LabError> {
    for _ in 0..ROUNDS {
        if done()? {
            return Ok(());
        }
        std::thread::sleep(ROUND);
    }
    Err(LabError::system(what)(io::ErrorKind::TimedOut.into()))
}

/// The address of a line of /proc/net/ipv6_route whose route leads to this host itself: destination,
/// its length, source, its length, next hop, metric, two counters, flags, device.
fn local(line: &str) -> Option<Ipv6Addr> {
    const LOCAL: u32 = 0x8000_0000;
    let mut fields = line.split_whitespace();
    let to = u128::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u32::from_str_radix(fields.nth(7)?, 16).ok()?;
    (flags & LOCAL != 0).then(|| to.into())
}

/// Sets a value below /proc/sys/net for the calling thread's namespace. What this kernel does not
/// have, such as IPv6, needs no setting.
pub(crate) fn set(key: &str, value: &str) -> io::Result<()> {
    match fs::write(Path::new("/proc/sys/net").join(key), value) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_told_from_other_routes() {
        let line = |flags: &str| {
            let zero = "0".repeat(32);
            format!(
                "20010db8000000000000000000000001 80 {zero} 00 {zero} 00000000 00000003 00000000 {flags} eth0"
            )
        };
        assert_eq!(local(&line("80200001")), Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
        assert_eq!(local(&line("00000001")), None);
        assert_eq!(local(""), None);
    }
}
