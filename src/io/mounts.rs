//! What the kernel says of the mount that a path lies on. A line of `/proc/self/mountinfo` is: id,
//! parent, major:minor, root, mount point, options, optional fields, `-`, type, source, options.

use std::io;
use std::path::{Path, PathBuf};

/// A mount, as far as locks depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: PathBuf,
    /// Its type: `nfs4`, `cifs`, `ext4`, ...
    pub kind: String,
    /// What is mounted: `host:/export`, a device.
    pub source: String,
    /// The mount's options, then the file system's.
    pub options: Vec<String>,
}

impl Mount {
    /// Whether another machine may have it mounted as well.
    #[must_use]
    pub fn is_network(&self) -> bool {
        self.is_nfs() || self.is_smb() || self.kind.starts_with("fuse") || self.kind == "9p"
    }

    /// NFS of any version.
    #[must_use]
    pub fn is_nfs(&self) -> bool {
        matches!(self.kind.as_str(), "nfs" | "nfs4")
    }

    /// SMB, that is Samba or Windows.
    #[must_use]
    pub fn is_smb(&self) -> bool {
        matches!(self.kind.as_str(), "cifs" | "smb3")
    }

    /// The value of an option: `Some("")` for one without.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            (key == name).then_some(value)
        })
    }

    /// The option by which locks stay on this machine, so that another does not see them (H26).
    #[must_use]
    pub fn local_lock_option(&self) -> Option<&str> {
        let local: &[&str] = if self.is_nfs() {
            &["nolock", "local_lock=all", "local_lock=posix"]
        } else if self.is_smb() {
            &["nobrl", "nolock"]
        } else {
            &[]
        };
        let mut options = self.options.iter().map(String::as_str);
        options.find(|option| local.contains(option))
    }
}

/// The mount that a path lies on; the path itself need not exist.
///
/// # Errors
/// When the kernel's list cannot be read.
pub fn mount_of(path: &Path) -> io::Result<Option<Mount>> {
    let absolute = std::path::absolute(path)?;
    // Of what exists, so that symbolic links are followed to the mount that they lead to.
    let existing = absolute.ancestors().find_map(|it| it.canonicalize().ok());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(find(&mounts, existing.as_deref().unwrap_or(&absolute)))
}

/// The deepest mount counts; of two at one place the later.
fn find(mounts: &str, path: &Path) -> Option<Mount> {
    mounts
        .lines()
        .filter_map(parse)
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

fn parse(line: &str) -> Option<Mount> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(4);
    let (point, own) = (mount.next()?, mount.next()?);
    let mut system = system.split(' ');
    let (kind, source, options) = (system.next()?, system.next()?, system.next()?);
    Some(Mount {
        point: PathBuf::from(unescape(point)),
        kind: kind.to_owned(),
        source: unescape(source),
        options: own
            .split(',')
            .chain(options.split(','))
            .map(str::to_owned)
            .collect(),
    })
}

/// Blanks and the like stand there as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (written, meant) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(written, meant);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/root rw,nolock
36 22 0:45 / /ha rw,relatime shared:1 - nfs4 gw:/ rw,vers=4.1,local_lock=none,acregmin=3
37 22 0:46 / /old rw,relatime - nfs gw:/ rw,vers=3,nolock,local_lock=all
38 22 0:47 / /flock rw - nfs gw:/ rw,vers=3,local_lock=flock
39 22 0:48 / /smb rw master:2 shared:3 - cifs //gw/share rw,vers=3.1.1,nobrl,soft
40 22 0:49 / /with\\040blank rw - nfs4 gw:/b rw
41 36 0:50 / /ha/deep rw - tmpfs none rw
broken line - nfs
";

    #[test]
    fn the_deepest_mount_of_a_path_is_found_with_its_options() {
        let found = |path: &str| find(MOUNTS, Path::new(path)).unwrap();
        assert_eq!(found("/hax/lock").kind, "ext4");
        assert_eq!(found("/ha/lock").source, "gw:/");
        assert_eq!(found("/ha/deep/lock").kind, "tmpfs");
        assert_eq!(found("/with blank/lock").source, "gw:/b");
        assert_eq!(found("/ha/lock").option("acregmin"), Some("3"));
        assert_eq!(found("/old/lock").option("nolock"), Some(""));
        assert_eq!(found("/ha/lock").option("nolock"), None);
    }

    #[test]
    fn mounts_whose_locks_stay_local_are_told_apart() {
        let option = |path: &str| {
            let mount = find(MOUNTS, Path::new(path)).unwrap();
            mount.local_lock_option().map(str::to_owned)
        };
        assert_eq!(option("/lock"), None, "a local file system's own option");
        assert_eq!(option("/ha/lock"), None);
        assert_eq!(option("/old/lock").as_deref(), Some("nolock"));
        assert_eq!(option("/flock/lock"), None);
        assert_eq!(option("/smb/lock").as_deref(), Some("nobrl"));
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(mount_of(Path::new("/no/such/file")).unwrap().is_some());
    }
}
