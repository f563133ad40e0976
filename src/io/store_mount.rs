//! Whether the share that a shared store lies on keeps two servers apart (ha-protocol A12, Z28). On a
//! local file system the data file's lock goes with the process that writes; on NFSv4 the file server
//! refuses what is written after the lock was lost. Mounts on which neither is so are refused.

use std::io;
use std::path::{Path, PathBuf};

use crate::io::mounts::{Mount, mount_of};

/// The NFS client's switch for taking lost locks again without telling anybody.
pub const RECOVER_LOST_LOCKS: &str = "/sys/module/nfs/parameters/recover_lost_locks";

/// Why a shared store is not opened there.
#[derive(Debug, thiserror::Error)]
pub enum StoreMountError {
    /// The kernel's list of mounts.
    #[error("what the shared store {} is mounted from cannot be read: {cause}", path.display())]
    Unknown {
        /// The store.
        path: PathBuf,
        /// As the system said.
        cause: io::Error,
    },
    /// SMB.
    #[error(
        "the shared store {} is on SMB ({}): its client takes locks again after a lost connection, and \
         writes that came too late with them; use NFSv4, or a replicated pair", path.display(), point.display()
    )]
    Smb {
        /// The store.
        path: PathBuf,
        /// The mount.
        point: PathBuf,
    },
    /// NFS before version 4.
    #[error(
        "the shared store {} is on NFS version {version} ({}): its locks do not fence writes; mount it \
         with vers=4.1 or later, or use a replicated pair", path.display(), point.display()
    )]
    OldNfs {
        /// The store.
        path: PathBuf,
        /// The mount.
        point: PathBuf,
        /// As the mount says.
        version: String,
    },
    /// H26.
    #[error(
        "the shared store {} is mounted with {option}, so that other machines do not see its lock: \
         mount it without that option", path.display()
    )]
    LocksStayLocal {
        /// The store.
        path: PathBuf,
        /// The mount's option.
        option: String,
    },
    /// Z28.
    #[error(
        "nfs.recover_lost_locks is Y: after a lost lock the NFS client would overwrite what the other \
         server has written to {}; set it to N (options nfs recover_lost_locks=N in \
         /etc/modprobe.d, then mount anew)", path.display()
    )]
    RecoversLostLocks {
        /// The store.
        path: PathBuf,
    },
}

/// The check of a shared store's directory at the start, before anything is opened. `recover` is
/// [`RECOVER_LOST_LOCKS`], but in tests. True: no other machine can have it mounted.
///
/// # Errors
/// What is wrong and what to do.
pub fn check_store_mount(path: &Path, recover: &Path) -> Result<bool, StoreMountError> {
    let mount = mount_of(path).map_err(|cause| StoreMountError::Unknown {
        path: path.to_path_buf(),
        cause,
    })?;
    // A file that is not there: a kernel without an NFS client.
    let recovers = std::fs::read_to_string(recover).is_ok_and(|text| text.trim() == "Y");
    match mount {
        Some(mount) => judge(path, &mount, recovers).map(|()| !mount.is_network()),
        None => Ok(false),
    }
}

fn judge(path: &Path, mount: &Mount, recovers: bool) -> Result<(), StoreMountError> {
    let path = path.to_path_buf();
    let point = mount.point.clone();
    if mount.is_smb() {
        return Err(StoreMountError::Smb { path, point });
    }
    if let Some(option) = mount.local_lock_option() {
        return Err(StoreMountError::LocksStayLocal {
            path,
            option: option.to_owned(),
        });
    }
    if mount.is_nfs() {
        let version = mount.option("vers").unwrap_or("unknown").to_owned();
        if !version.starts_with('4') {
            return Err(StoreMountError::OldNfs {
                path,
                point,
                version,
            });
        }
        if recovers {
            return Err(StoreMountError::RecoversLostLocks { path });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: &str, options: &str, recovers: bool) -> Result<(), String> {
        let mount = Mount {
            point: PathBuf::from("/ha"),
            kind: kind.to_owned(),
            source: "gw:/".to_owned(),
            options: options.split(',').map(str::to_owned).collect(),
        };
        judge(Path::new("/ha/store"), &mount, recovers).map_err(|error| error.to_string())
    }

    #[test]
    fn mounts_that_do_not_keep_two_servers_apart_are_refused() {
        said("ext4", "rw", true).unwrap();
        said("nfs4", "rw,vers=4.1,local_lock=none", false).unwrap();
        for (kind, options, recovers, text) in [
            ("cifs", "rw", false, "is on SMB (/ha)"),
            ("smb3", "rw", false, "is on SMB (/ha)"),
            ("nfs", "rw,vers=3,local_lock=none", false, "NFS version 3"),
            ("nfs4", "rw", false, "NFS version unknown"),
            ("nfs", "rw,vers=3,nolock", false, "mounted with nolock"),
            ("nfs4", "vers=4.0,local_lock=all", false, "local_lock=all"),
            ("nfs4", "rw,vers=4.2", true, "recover_lost_locks is Y"),
        ] {
            let error = said(kind, options, recovers).unwrap_err();
            assert!(error.contains(text), "{error}");
            assert!(error.contains("/ha/store"), "{error}");
        }
    }

    #[test]
    fn the_kernels_switch_is_read_and_may_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        let switch = folder.path().join("recover_lost_locks");
        check_store_mount(folder.path(), &switch).unwrap();
        std::fs::write(&switch, "Y\n").unwrap();
        // Not on NFS: it does not matter.
        check_store_mount(folder.path(), &switch).unwrap();
    }
}
