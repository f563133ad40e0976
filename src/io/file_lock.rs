//! The lock on a file, and what can be said of a lock file before a server starts.
//!
//! The lock is an OFD lock: it belongs to one open file description, not to the process, so that no
//! other descriptor of the same file, opened and closed anywhere in the process, takes it away (Z13,
//! H26). The kernel releases it when the last descriptor is closed, at the latest with the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::statfs::{FsType, fstatfs};

use crate::io::mounts::{Mount, mount_of};

/// File systems of this kernel alone, by their magic: a lock that is free there means that its
/// holder's process has ended. Anything else, NFS, SMB, FUSE and 9p among it, is taken as shared.
const LOCAL_FILE_SYSTEMS: [i64; 11] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0x2fc1_2fc1, // zfs
    0xf2f5_2010, // f2fs
    0xca45_1a4e, // bcachefs
    0x3153_464a, // jfs
    0x5265_4973, // reiserfs
];

/// Why a lock file cannot be used. Each text names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LockFileError {
    /// S190.
    #[error("lock_file is not set: give the path of one file that both servers can reach")]
    NotSpecified,
    /// Its folder is missing.
    #[error(
        "lock file {}: the folder {} does not exist: mount the share there, or create the folder", path.display(), folder.display()
    )]
    NoFolder {
        /// The lock file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// A folder, a socket, a device.
    #[error("lock file {}: this is not a file: give the path of a file, not of a folder", .0.display())]
    NotAFile(PathBuf),
    /// It is there and cannot be read and written.
    #[error(
        "lock file {} cannot be opened for reading and writing: {cause}: give this user read and write permission on it", path.display()
    )]
    NoPermission {
        /// The lock file.
        path: PathBuf,
        /// As the system said.
        cause: io::Error,
    },
    /// Mounted so that locks are not seen by other machines (H26).
    #[error(
        "lock file {}: its share is mounted with {option}, so that other machines do not see the lock: mount it without that option", path.display()
    )]
    LocksStayLocal {
        /// The lock file.
        path: PathBuf,
        /// The mount's option.
        option: String,
    },
    /// No file can be made in its folder.
    #[error(
        "lock file {}: no file can be made in {}: {cause}: give this user write permission on the folder", path.display(), folder.display()
    )]
    FolderNotWritable {
        /// The lock file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
        /// As the system said.
        cause: io::Error,
    },
}

/// Tries once to take the lock on all of the file; false: another open file description, here or in
/// another process, has a lock on it.
///
/// # Errors
/// As the system says; a file system without locks among them.
pub fn try_lock(file: &File) -> io::Result<bool> {
    let whole = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).expect("a small constant"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("a small constant"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether some open file description has a lock on the file of this path; none where there is no such
/// file. Asking takes no lock.
///
/// # Errors
/// As the system says; a file system without locks among them.
pub fn is_locked(path: &Path) -> io::Result<Option<bool>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(cause),
    };
    let mut asked = libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).expect("a small constant"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("a small constant"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut asked))?;
    Ok(Some(i32::from(asked.l_type) != libc::F_UNLCK))
}

/// Whether the file is on a file system of this kernel alone (A3). Unknown ones are not.
///
/// # Errors
/// As the system says.
pub fn is_local(file: &File) -> io::Result<bool> {
    let FsType(magic) = fstatfs(file.as_fd())?.filesystem_type();
    Ok(LOCAL_FILE_SYSTEMS.contains(&magic))
}

/// The boot check (S24): the lock file can be used, or made. Leaves no trace. The folder of a
/// relative path may be missing: it is made at first boot (A4).
///
/// # Errors
/// What is wrong and what to do.
pub fn validate_lock_file(path: &Path) -> Result<(), LockFileError> {
    if path.as_os_str().is_empty() || path.file_name().is_none() {
        return Err(LockFileError::NotSpecified);
    }
    let folder = folder_of(path);
    if !folder.is_dir() {
        if path.is_relative() && !folder.exists() {
            return Ok(());
        }
        return Err(LockFileError::NoFolder {
            path: path.to_owned(),
            folder: folder.to_owned(),
        });
    }
    if path.exists() {
        if !path.is_file() {
            return Err(LockFileError::NotAFile(path.to_owned()));
        }
        let opened = OpenOptions::new().read(true).write(true).open(path);
        opened.map_err(|cause| LockFileError::NoPermission {
            path: path.to_owned(),
            cause,
        })?;
    }
    let mount = mount_of(folder).ok().flatten();
    if let Some(option) = mount.as_ref().and_then(Mount::local_lock_option) {
        return Err(LockFileError::LocksStayLocal {
            path: path.to_owned(),
            option: option.to_owned(),
        });
    }
    // Permission bits do not tell: read-only mounts, root, ACLs of the share. Only trying does.
    let probe = folder.join(format!(".twinmq-probe.{}", std::process::id()));
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&probe)
        .and_then(|_| std::fs::remove_file(&probe))
        .map_err(|cause| LockFileError::FolderNotWritable {
            path: path.to_owned(),
            folder: folder.to_owned(),
            cause,
        })
}

/// The folder that a file is in; of a bare name, the working directory.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_description_excludes_another_and_other_descriptors_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&path).unwrap()
        };
        let (first, second) = (open(), open());
        assert!(try_lock(&first).unwrap());
        assert!(try_lock(&first).unwrap(), "again by the holder");
        assert!(!try_lock(&second).unwrap());
        drop(open());
        assert!(
            !try_lock(&second).unwrap(),
            "a POSIX lock would be gone now"
        );
        drop(first);
        assert!(try_lock(&second).unwrap());
        assert!(is_local(&second).unwrap());
        assert!(!is_local(&File::open("/proc/self/status").unwrap()).unwrap());
    }

    #[test]
    fn the_boot_check_names_the_path_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let said = |path: &Path| validate_lock_file(path).unwrap_err().to_string();
        validate_lock_file(&path("new.lck")).unwrap();
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "no trace"
        );
        std::fs::write(path("there.lck"), "").unwrap();
        validate_lock_file(&path("there.lck")).unwrap();
        validate_lock_file(Path::new("no-such-folder/lock/a.lck")).unwrap();
        assert_eq!(
            said(Path::new("")),
            "lock_file is not set: give the path of one file that both servers can reach"
        );
        assert_eq!(
            said(&path("missing/a.lck")),
            format!(
                "lock file {0}/missing/a.lck: the folder {0}/missing does not exist: mount the \
                 share there, or create the folder",
                folder.path().display()
            )
        );
        assert_eq!(
            said(folder.path()),
            format!(
                "lock file {}: this is not a file: give the path of a file, not of a folder",
                folder.path().display()
            )
        );
        // Not even root can make files here.
        let message = said(Path::new("/proc/twinmq.lck"));
        assert!(
            message.starts_with("lock file /proc/twinmq.lck: no file can be made in /proc: ")
                && message.ends_with(": give this user write permission on the folder"),
            "{message}"
        );
        let message = said(Path::new("/proc/version"));
        assert!(
            message.starts_with("lock file /proc/version cannot be opened for reading and writing")
                || message.contains("no file can be made in /proc"),
            "{message}"
        );
    }
}
