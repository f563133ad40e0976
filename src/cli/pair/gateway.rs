//! The machine that exports the lock file, as this machine's mounts tell it.

use crate::io::mounts::Mount;

/// The server of a network mount, if the mount names one.
pub(super) fn of_mount(mount: &Mount) -> Option<String> {
    let host = if mount.is_nfs() {
        mount.source.split_once(":/").map(|(host, _)| host)
    } else if mount.is_smb() {
        mount.source.strip_prefix("//")?.split('/').next()
    } else {
        None
    }?;
    let host = host.trim_matches(['[', ']']).to_owned();
    crate::config::is_host(&host).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_mounts_name_their_server() {
        for (kind, source, host) in [
            ("nfs4", "10.0.0.9:/export", Some("10.0.0.9")),
            ("ext4", "/dev/vdb1", None),
            ("cifs", "//files.example/share", Some("files.example")),
            ("nfs4", "[fe80::9]:/export", Some("fe80::9")),
        ] {
            let mount = Mount {
                point: "/mnt".into(),
                kind: kind.to_owned(),
                source: source.to_owned(),
                options: Vec::new(),
            };
            assert_eq!(of_mount(&mount).as_deref(), host, "{source}");
        }
    }
}
