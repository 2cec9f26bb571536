//! Taking labs away: one's own, and those whose process was killed.
//!
//! Everything of a lab carries its name ([`super::instance`]) until the very last step, so that a sweep
//! that is itself killed can be repeated. Devices need no sweeping: they end with the process that
//! holds them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::LabError;
use super::instance::Instance;
use super::namespace;

/// Where `ip netns exec` finds files that it shows a namespace instead of those in /etc.
pub(crate) const FILES: &str = "/etc/netns";

/// How often ended processes are looked for before they count as stubborn: five seconds.
const ROUNDS: u32 = 500;
const ROUND: Duration = Duration::from_millis(10);

/// Removes what labs left whose process is gone. Labs that run are not touched.
///
/// # Errors
/// [`LabError::Stubborn`] processes, [`LabError::System`].
pub fn sweep() -> Result<(), LabError> {
    // Decided once: a lab that is killed while this goes on would lose its names and keep its programs.
    let mut all = names(namespace::NAMES)?;
    all.extend(names(FILES)?);
    let labs = all.iter().filter_map(|name| Instance::of(name));
    let dead: Vec<Instance> = labs.filter(Instance::is_dead).collect();
    remove(|lab| dead.contains(lab))
}

/// Removes everything of the labs that `ours` names: processes, then namespaces and files.
pub(crate) fn remove(ours: impl Fn(&Instance) -> bool) -> Result<(), LabError> {
    let is_ours = |name: &str| Instance::of(name).is_some_and(|lab| ours(&lab));
    end_processes(&is_ours)?;
    for name in names(namespace::NAMES)?.iter().filter(|n| is_ours(n)) {
        remove_namespace(name)?;
    }
    for name in names(FILES)?.iter().filter(|n| is_ours(n)) {
        let done = fs::remove_dir_all(Path::new(FILES).join(name));
        gone(done).map_err(LabError::system(format!("remove {FILES}/{name}")))?;
    }
    Ok(())
}

fn remove_namespace(name: &str) -> Result<(), LabError> {
    let path = namespace::path(name);
    // A file on which nothing is mounted is what a killed `ip netns add` leaves.
    match unmount(&path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(LabError::system(format!("unmount {}", path.display()))(e.into())),
    }
    gone(fs::remove_file(&path)).map_err(LabError::system(format!("remove {}", path.display())))
}

/// Another sweep may have been faster.
fn gone(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Names in a directory, none when it is not there.
fn names(dir: &str) -> Result<Vec<String>, LabError> {
    let list = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.map_err(LabError::system(format!("list {dir}")))?,
    };
    Ok(list.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
}

/// Ends processes until there are none left, since they may have had children meanwhile.
fn end_processes(is_ours: &impl Fn(&str) -> bool) -> Result<(), LabError> {
    for _ in 0..ROUNDS {
        let left = inhabitants(is_ours)?;
        if left.is_empty() {
            return Ok(());
        }
        for pid in &left {
            end(*pid, is_ours)?;
        }
        std::thread::sleep(ROUND);
    }
    Err(LabError::Stubborn(inhabitants(is_ours)?.into_iter().collect()))
}

/// Ends a process, if it is still the one that was found.
fn end(pid: u32, is_ours: &impl Fn(&str) -> bool) -> Result<(), LabError> {
    let found = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(handle) = found.and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok()) else {
        return Ok(());
    };
    // The handle stays with the process; the pid might have gone to another one before.
    if inhabits(pid, &inodes(is_ours)?) || starts(pid, is_ours) {
        // It may end by itself right now.
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
    Ok(())
}

/// Processes inside the namespaces, and `ip` on its way into or making one of them.
fn inhabitants(is_ours: &impl Fn(&str) -> bool) -> Result<BTreeSet<u32>, LabError> {
    let inodes = inodes(is_ours)?;
    let pids = names("/proc")?.into_iter().filter_map(|n| n.parse::<u32>().ok());
    let me = std::process::id();
    Ok(pids.filter(|p| *p != me && (inhabits(*p, &inodes) || starts(*p, is_ours))).collect())
}

/// Device and inode of each namespace: what /proc/PID/ns/net is compared with.
fn inodes(is_ours: &impl Fn(&str) -> bool) -> Result<BTreeSet<(u64, u64)>, LabError> {
    let ours = names(namespace::NAMES)?.into_iter().filter(|n| is_ours(n));
    Ok(ours.filter_map(|n| identity(&namespace::path(&n))).collect())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

fn inhabits(pid: u32, inodes: &BTreeSet<(u64, u64)>) -> bool {
    let here = identity(Path::new(&format!("/proc/{pid}/ns/net")));
    here.is_some_and(|i| inodes.contains(&i))
}

/// Whether this is an `ip` with one of our namespaces among its arguments. It outlives the lab that
/// started it by some milliseconds, and could make a namespace after the sweep had looked.
fn starts(pid: u32, is_ours: &impl Fn(&str) -> bool) -> bool {
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    if comm.trim_ascii_end() != b"ip" {
        return false;
    }
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).any(|arg| std::str::from_utf8(arg).is_ok_and(is_ours))
}
