//! Who listens on a port, as far as /proc tells this user.

use std::fs;

/// `process 123 (java)`; none where it cannot be told.
pub(super) fn of_port(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| listener_inode(&table, port))?;
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|it| it.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let owns = descriptors
            .flatten()
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|link| link.to_str() == Some(&*wanted));
        if owns {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", name.trim()));
        }
    }
    None
}

/// The columns are: number, local address, remote address, state (0A: listens), two queues, timer,
/// retransmits, user, timeout, inode.
fn listener_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let local = columns.nth(1)?;
        let state = columns.nth(1)?;
        let found = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        if state == "0A" && found == port {
            columns.nth(5)?.parse().ok()
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_by_its_columns() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:07D0 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 111 1 0 100 0\n   \
             1: 0100007F:07D0 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 222 1 0 100 0\n";
        assert_eq!(listener_inode(table, 2000), Some(222));
        assert_eq!(listener_inode(table, 2001), None);
        assert_eq!(listener_inode("sl\n 0: x y\n\n", 2000), None);
    }
}
