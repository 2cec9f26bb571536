//! Whether there can be a lab here, and what is missing where not.

use std::fmt;
use std::fs;
use std::path::Path;

/// CAP_NET_ADMIN, as bit of `CapEff` (capability.h).
const NET_ADMIN: u32 = 12;
/// CAP_SYS_ADMIN: mounting and entering namespaces.
const SYS_ADMIN: u32 = 21;

/// What was found out about the process and the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// CAP_NET_ADMIN.
    pub net_admin: bool,
    /// CAP_SYS_ADMIN.
    pub sys_admin: bool,
    /// `/dev/net/tun` can be opened.
    pub tun: bool,
    /// `ip` is in the path.
    pub ip: bool,
    /// The kernel has network namespaces.
    pub namespaces: bool,
    /// Names of namespaces can be written to `/run` and `/etc`.
    pub writable: bool,
}

impl Facts {
    /// Finds out. Changes nothing.
    #[must_use]
    pub fn gather() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let writable = |dir| rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
        Self {
            net_admin: capable(&status, NET_ADMIN),
            sys_admin: capable(&status, SYS_ADMIN),
            tun: fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_ok(),
            ip: in_path("ip"),
            namespaces: Path::new("/proc/self/ns/net").exists(),
            writable: writable("/run") && writable("/etc"),
        }
    }

    /// # Errors
    /// [`Missing`]: everything that keeps a lab from running.
    pub fn judge(self) -> Result<(), Missing> {
        let needs = [
            (self.net_admin && self.sys_admin, Need::Privilege),
            (self.tun, Need::Tun),
            (self.ip, Need::Ip),
            (self.namespaces, Need::Namespaces),
            (self.writable, Need::Writable),
        ];
        let missing: Vec<Need> =
            needs.into_iter().filter(|(there, _)| !there).map(|(_, need)| need).collect();
        if missing.is_empty() { Ok(()) } else { Err(Missing { needs: missing }) }
    }
}

/// # Errors
/// [`Missing`]: everything that keeps a lab from running here, and what to do about it.
pub fn check() -> Result<(), Missing> {
    Facts::gather().judge()
}

/// Something that a lab needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// CAP_NET_ADMIN and CAP_SYS_ADMIN.
    Privilege,
    /// `/dev/net/tun`.
    Tun,
    /// iproute2.
    Ip,
    /// Network namespaces in the kernel.
    Namespaces,
    /// `/run` and `/etc`.
    Writable,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Privilege => {
                "CAP_NET_ADMIN and CAP_SYS_ADMIN: run as root (sudo), in a container with \
                 --cap-add NET_ADMIN --cap-add SYS_ADMIN"
            }
            Self::Tun => {
                "/dev/net/tun, readable and writable: load it with `modprobe tun`, in a container \
                 pass --device /dev/net/tun"
            }
            Self::Ip => "the program `ip`: install it with `apt-get install iproute2`",
            Self::Namespaces => "network namespaces: use a kernel with CONFIG_NET_NS",
            Self::Writable => {
                "write access to /run and /etc, for names of namespaces and their hosts files"
            }
        })
    }
}

/// Why there can be no lab.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Missing {
    /// What is missing.
    pub needs: Vec<Need>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the Linux lab cannot run here; it needs")?;
        for need in &self.needs {
            write!(f, "\n- {need}")?;
        }
        f.write_str("\nThe virtual driver needs none of this.")
    }
}

fn capable(status: &str, bit: u32) -> bool {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let set = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok());
    set.is_some_and(|set| set >> bit & 1 == 1)
}

pub(crate) fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Facts = Facts {
        net_admin: true,
        sys_admin: true,
        tun: true,
        ip: true,
        namespaces: true,
        writable: true,
    };

    #[test]
    fn everything_there_is_enough() {
        assert_eq!(ALL.judge(), Ok(()));
    }

    #[test]
    fn everything_that_is_missing_is_named_with_its_remedy() {
        let facts = Facts { sys_admin: false, ip: false, ..ALL };
        let missing = facts.judge().expect_err("no lab");
        assert_eq!(missing.needs, [Need::Privilege, Need::Ip]);
        let text = missing.to_string();
        for part in ["run as root", "--cap-add SYS_ADMIN", "apt-get install iproute2"] {
            assert!(text.contains(part), "{text}");
        }
        let text = Facts { tun: false, ..ALL }.judge().expect_err("no lab").to_string();
        assert!(text.contains("modprobe tun") && !text.contains("root"), "{text}");
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "CapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\n";
        assert!(capable(status, NET_ADMIN));
        assert!(!capable(status, SYS_ADMIN));
        assert!(!capable("", NET_ADMIN));
    }
}
