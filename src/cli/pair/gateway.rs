//! The machine that exports the lock file, as this machine's mounts tell it.

use std::path::Path;

/// The server of the network mount that a path lies on, from the text of `/proc/self/mounts`.
pub(super) fn of_lock_file(mounts: &str, lock_file: &str) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
        .filter(|(_, mount_point, _)| Path::new(lock_file).starts_with(mount_point))
        // The deepest mount is the one that counts; of two at one place the later.
        .max_by_key(|(_, mount_point, _)| Path::new(mount_point).components().count())
        .and_then(|(source, _, kind)| match kind {
            "nfs" | "nfs4" => source.split_once(":/").map(|(host, _)| host),
            "cifs" | "smb3" => source.strip_prefix("//")?.split('/').next(),
            _ => None,
        })
        .map(|host| host.trim_matches(['[', ']']).to_owned())
        .filter(|host| crate::config::is_host(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
/dev/vda1 / ext4 rw 0 0
10.0.0.9:/export /mnt nfs4 rw,vers=4.2 0 0
/dev/vdb1 /mnt/local ext4 rw 0 0
//files.example/share /smb cifs rw 0 0
[fe80::9]:/export /six nfs4 rw 0 0
broken
";

    #[test]
    fn the_deepest_mount_tells() {
        for (path, host) in [
            ("/mnt/pair.lck", Some("10.0.0.9")),
            ("/mnt/a/b/pair.lck", Some("10.0.0.9")),
            ("/mnt/local/pair.lck", None),
            ("/mntx/pair.lck", None),
            ("/smb/pair.lck", Some("files.example")),
            ("/six/pair.lck", Some("fe80::9")),
        ] {
            assert_eq!(of_lock_file(MOUNTS, path).as_deref(), host, "{path}");
        }
    }
}
