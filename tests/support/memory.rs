//! What a process takes of the machine's memory.

/// `RssAnon` of a process, in KiB: its memory without what the system may drop and read again. None: it
/// has ended.
pub(crate) fn anonymous_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
