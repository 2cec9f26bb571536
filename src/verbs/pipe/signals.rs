//! Who ends this by hand.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C and the like.
pub(super) struct Signals {
    int: Signal,
    term: Signal,
    /// A terminal that was closed, unless nobody wants to hear of that.
    hup: Option<Signal>,
}

impl Signals {
    /// From now on none of them kills the process.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn listen() -> io::Result<Self> {
        let hup = if ignores_hangups() { None } else { Some(signal(SignalKind::hangup())?) };
        let (int, term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { int, term, hup })
    }

    /// Waits for one.
    pub(super) async fn any(&mut self) {
        let hup = async {
            match &mut self.hup {
                Some(hup) => _ = hup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
            () = hup => {}
        }
    }
}

/// Whether this process was started so that it outlives its terminal, as by nohup. Asking the system itself needs
/// unsafe code, so Linux's file has to do; elsewhere hangups are handled in any case, nohup or not.
fn ignores_hangups() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| hangup_in(&status))
}

/// Whether the line `SigIgn` of a process's status, a mask in hexadecimal whose lowest bit is signal 1, has SIGHUP.
fn hangup_in(status: &str) -> bool {
    let masks = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = masks.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_in_the_status() {
        let status = |mask: &str| {
            format!(
                "Name:\tmeshwire\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t0000000000000001\n"
            )
        };
        assert!(hangup_in(&status("0000000000000001")) && hangup_in(&status("0000000000001001")));
        assert!(!hangup_in(&status("0000000000001000")) && !hangup_in(&status("no mask")));
        assert!(!hangup_in("") && !hangup_in("Name:\tSigIgn:\t1\n"));
    }
}
