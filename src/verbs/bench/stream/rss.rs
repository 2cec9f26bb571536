//! Most memory that a process had (proc_pid_status(5)): resident, in bytes.

/// Lets what this process had before count no more.
pub(super) fn forget() {
    // proc_pid_clear_refs(5); where it may not, the figure is that of the process's whole life.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Of this process; 0 where nobody says.
pub(super) fn own() -> u64 {
    of("self")
}

/// Of another process.
pub(super) fn of(process: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let most = super::super::hub::field(&status, "VmHWM:");
    most.unwrap_or_default().saturating_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_given_back_counts() {
        forget();
        let before = own();
        assert!(before > 1 << 20);
        drop(std::hint::black_box(vec![1_u8; 64 << 20]));
        assert!(own() > before + (32 << 20));
    }
}
