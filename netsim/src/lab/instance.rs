//! Names of labs and of their namespaces. A name says which process made it and when that process
//! began, so that names alone tell what a killed lab left behind: there is no registry that could
//! disagree with them.

use std::fmt;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// A lab: `mw<pid>-<start>-<number>`, in hexadecimal. Its namespaces: that, `-`, and the host's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    pid: u32,
    /// When the process began, in clock ticks since boot (proc(5), field 22): pids come again.
    start: u64,
    /// Which of the process' labs.
    number: u32,
}

impl Instance {
    /// The next lab of this process.
    pub(crate) fn next() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let start =
            alive(pid).ok_or_else(|| io::Error::other("/proc does not show this process"))?;
        Ok(Self { pid, start, number: COUNT.fetch_add(1, Ordering::Relaxed) })
    }

    /// The lab of a namespace's name; None for names that are not a lab's.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("mw")?.splitn(4, '-');
        let mut part = || parts.next().filter(|p| !p.is_empty() && !p.starts_with('+'));
        let pid = u32::from_str_radix(part()?, 16).ok()?;
        let start = u64::from_str_radix(part()?, 16).ok()?;
        let number = u32::from_str_radix(part()?, 16).ok()?;
        let instance = Self { pid, start, number };
        // Only what reads back the same is one of ours: no other spellings of the numbers.
        part().and(Some(instance)).filter(|i| name.starts_with(&format!("{i}-")))
    }

    /// Whether its process is gone.
    pub(crate) fn is_dead(&self) -> bool {
        alive(self.pid) != Some(self.start)
    }

    /// The namespace of a host; `index` tells hosts apart whose names are not fit for a file's.
    pub(crate) fn namespace(&self, index: usize, host: &str) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        // Longer names are cut: a file's name has at most 255 bytes.
        if !host.is_empty() && host.len() <= 64 && host.chars().all(fits) {
            return format!("{self}-{host}");
        }
        let clean: String = host.chars().take(48).map(|c| if fits(c) { c } else { '_' }).collect();
        format!("{self}-{index}~{clean}")
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mw{:x}-{:x}-{:x}", self.pid, self.start, self.number)
    }
}

/// When a process began; None when it has ended, even if nobody has reaped it yet.
fn alive(pid: u32) -> Option<u64> {
    start_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn start_of(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, which may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_lab_back() {
        let lab = Instance { pid: 0x1f2, start: 0xabc, number: 3 };
        assert_eq!(lab.to_string(), "mw1f2-abc-3");
        for host in ["alice", "a-b-c", "böse/../x", "", &"x".repeat(300)] {
            let name = lab.namespace(7, host);
            assert!(name.len() < 200 && !name.contains('/'), "{name}");
            assert_eq!(Instance::of(&name), Some(lab.clone()), "{name}");
        }
        assert_ne!(lab.namespace(1, "a/b"), lab.namespace(2, "a:b"));
    }

    #[test]
    fn other_names_are_nobodys() {
        for name in [
            "",
            "mw",
            "mwx",
            "mw1-2-3",
            "mw1-2",
            "xmw1-2-3-a",
            "mw01-2-3-a",
            "mwF-2-3-a",
            "mw+1-2-3-a",
            "mw1-2-zz-a",
            "mw1-2--a",
            "docker0",
            "mwfffffffff-1-1-a",
        ] {
            assert_eq!(Instance::of(name), None, "{name}");
        }
    }

    #[test]
    fn this_process_is_alive_and_another_start_is_not() {
        let lab = Instance::next().expect("procfs");
        assert!(!lab.is_dead());
        assert!(Instance { start: lab.start + 1, ..lab.clone() }.is_dead());
        assert_ne!(Instance::next().expect("procfs"), lab);
    }

    #[test]
    fn a_zombie_has_ended() {
        let stat = |state: &str| format!("7 (a) b) {state} 1{} 42 0", " 0".repeat(17));
        assert_eq!(start_of(&stat("S")), Some(42));
        assert_eq!(start_of(&stat("Z")), None);
        assert_eq!(start_of("7"), None);
    }
}
