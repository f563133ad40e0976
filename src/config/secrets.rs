//! Files that hold a secret: the pair secret and the admin token. They are read only if nobody but
//! their owner can read them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Shortest and longest secret, in bytes.
const LENGTH: std::ops::RangeInclusive<usize> = 16..=1024;

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("secret file {path} cannot be read: {cause}", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Others than its owner may read the file.
    #[error(
        "secret file {path} has mode {mode:04o}, so others can read it: chmod 600 {path}, and make \
         a new secret if others are on this machine",
        path = path.display()
    )]
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file holds something else.
    #[error(
        "secret file {path} does not hold one line of {} to {} characters",
        LENGTH.start(), LENGTH.end(), path = path.display()
    )]
    NoSecret {
        /// Which.
        path: PathBuf,
    },
    /// The file cannot be made.
    #[error("secret file {path} cannot be made: {cause}", path = path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// No secret can be made.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

/// A new secret: 256 random bits as 64 hex digits.
///
/// # Errors
/// When the system gives no random bytes.
pub fn new_secret() -> Result<String, SecretError> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(SecretError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads a secret, without the white space round it.
///
/// # Errors
/// When it cannot be read, others can read it too, or it is no secret.
pub fn read_secret(path: &Path) -> Result<String, SecretError> {
    let bytes = read_private(path, 8192)?;
    std::str::from_utf8(&bytes)
        .ok()
        .map(str::trim)
        .filter(|text| LENGTH.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()))
        .map(ToOwned::to_owned)
        .ok_or_else(|| SecretError::NoSecret {
            path: path.to_owned(),
        })
}

/// Reads a file that only its owner may read, such as a private key: at most the first `bytes_max`
/// bytes of it.
///
/// # Errors
/// When it cannot be read, or others can read it too.
pub fn read_private(path: &Path, bytes_max: u64) -> Result<Vec<u8>, SecretError> {
    let unreadable = |cause| SecretError::Unreadable {
        path: path.to_owned(),
        cause,
    };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(SecretError::TooOpen { path, mode });
    }
    let mut bytes = Vec::new();
    file.take(bytes_max)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    Ok(bytes)
}

/// Reads a secret; makes it, with mode 0600, if the file is missing. Of two processes that make it
/// at the same time both get the one that remains.
///
/// # Errors
/// As [`read_secret`], and when it cannot be made.
pub fn read_or_make_secret(path: &Path) -> Result<String, SecretError> {
    match read_secret(path) {
        Err(SecretError::Unreadable { cause, .. }) if cause.kind() == ErrorKind::NotFound => {}
        other => return other,
    }
    make(path, &new_secret()?).map_err(|cause| SecretError::Unwritable {
        path: path.to_owned(),
        cause,
    })?;
    read_secret(path)
}

/// Makes the file in one step, unless it is there by now: it is never seen half-written.
fn make(path: &Path, secret: &str) -> std::io::Result<()> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(format!("{secret}\n").as_bytes())?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&temporary, path);
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &[u8], mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_missing_token_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/admin.token");
        let token = read_or_make_secret(&path).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(read_or_make_secret(&path).unwrap(), token);
        make(&path, "another").unwrap();
        assert_eq!(read_secret(&path).unwrap(), token, "what is there stays");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "no temporary file stays");
    }

    #[test]
    fn what_others_can_read_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pair.secret");
        for mode in [0o640, 0o604, 0o660] {
            write(&path, b"0123456789abcdef", mode);
            assert_eq!(
                read_secret(&path).unwrap_err().to_string(),
                format!(
                    "secret file {path} has mode {mode:04o}, so others can read it: chmod 600 \
                     {path}, and make a new secret if others are on this machine",
                    path = path.display()
                )
            );
        }
        write(&path, b" 0123456789abcdef\n", 0o400);
        assert_eq!(read_secret(&path).unwrap(), "0123456789abcdef");
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pair.secret");
        for content in [
            &b""[..],
            b"short",
            b"two words that are long",
            &[0xff; 32],
            &[b'a'; 1025],
            &[b'a'; 9000],
        ] {
            write(&path, content, 0o600);
            assert!(matches!(
                read_secret(&path),
                Err(SecretError::NoSecret { .. })
            ));
        }
        assert!(matches!(
            read_or_make_secret(Path::new("/dev/null/x")),
            Err(SecretError::Unreadable { .. })
        ));
    }
}
