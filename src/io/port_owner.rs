//! Which process listens on a TCP port, as far as the system lets us see.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// `name (pid 4711)` of the process that listens on `address`, or on its port at every address. `None` when it cannot be
/// seen: another user's process, or one that has bound the port and does not listen.
#[must_use]
pub fn listener(address: SocketAddr) -> Option<String> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, address))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let process = entry.path();
        if !holds(&process, &sockets) {
            return None;
        }
        let name = fs::read_to_string(process.join("comm")).ok()?;
        Some(format!("{} (pid {pid})", name.trim_end()))
    })
}

/// The sockets that listen on a port, as a process's descriptors name them. Columns: slot, local, remote, state, queues, timer,
/// retransmissions, user, timeout, inode.
fn listening(table: &str, address: SocketAddr) -> Vec<String> {
    let port = address.port();
    let host = match address.ip() {
        IpAddr::V4(ip) => format!("{:08X}", u32::from_ne_bytes(ip.octets())),
        // Four words in this machine's byte order.
        IpAddr::V6(ip) => ip
            .octets()
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .map(|word| format!("{word:08X}"))
            .collect::<Vec<String>>()
            .concat(),
    };
    let ours = format!("{host}:{port:04X}");
    let is_any = |local: &str| {
        local
            .strip_suffix(&format!(":{port:04X}"))
            .is_some_and(|host| host.bytes().all(|digit| digit == b'0'))
    };
    table
        .lines()
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
            ((*local == ours || is_any(local)) && *state == LISTEN)
                .then(|| format!("socket:[{inode}]"))
        })
        .collect()
}

fn holds(process: &Path, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|target| {
            sockets
                .iter()
                .any(|socket| target.as_os_str() == socket.as_str())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found_and_a_free_port_has_none() {
        let listening = std::net::TcpListener::bind("127.9.1.7:0").unwrap();
        let address = listening.local_addr().unwrap();
        let owner = listener(address).expect("our own process can be seen");
        assert!(
            owner.contains(&format!("(pid {})", std::process::id())),
            "{owner}"
        );
        drop(listening);
        assert_eq!(listener(address), None);
    }

    #[test]
    fn only_listeners_on_that_port_count() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let table = "  sl  local_address rem_address   st ...\n\
             0: 0100007F:0740 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1\n\
             1: 0100007F:0740 0100007F:9999 01 00000000:00000000 00:00000000 00000000 0 0 222 1\n\
             2: 0100007F:0741 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 333 1\n\
             3: 00000000:0742 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 444 1\n\
             4: 00000000000000000000000001000000:0743 0:0 0A 0:0 00:0 0 0 0 555 1\n";
        assert_eq!(listening(table, at("127.0.0.1:1856")), ["socket:[111]"]);
        assert_eq!(listening(table, at("127.0.0.2:1856")), [""; 0]);
        assert_eq!(listening(table, at("127.0.0.2:1858")), ["socket:[444]"]);
        assert_eq!(listening(table, at("[::1]:1859")), ["socket:[555]"]);
    }
}
