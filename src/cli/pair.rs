//! `twinmq pair init`: a folder for each of two servers, consistent by construction. Everything is
//! made in memory and both profiles are loaded before the first file is written; nothing that is
//! there is ever written over.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::args::{PairInitArgs, PairMode};
use super::{CliError, print};
use crate::config::{ConfigErrors, SecretError, is_host, is_name, load_text, new_secret};
use crate::exit::ExitCode;
use crate::io::mounts::{Mount, mount_of};

mod gateway;
mod identity;
mod texts;

use identity::Authority;

/// Why no pair was made.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// A host that is none, or that the other machine cannot reach.
    #[error("--{argument} {host}: {why}")]
    Host {
        /// Which argument.
        argument: &'static str,
        /// As given.
        host: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The lock file's path cannot be used.
    #[error("--lock-file {path}: {why}")]
    LockFile {
        /// As given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The shared store's path cannot be used.
    #[error("--db-path {path}: {why}")]
    DbPath {
        /// As given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No gateway was named, and the lock file's mount does not tell.
    #[error(
        "--gateway is needed: {lock_file} is not on a network share here; name the machine that \
         exports it"
    )]
    NoGateway {
        /// The lock file.
        lock_file: String,
    },
    /// The pair's name is none.
    #[error("--cluster {0:?}: expected 1 to 64 letters, digits, dots, dashes and underscores")]
    Cluster(String),
    /// The folder has something in it.
    #[error("{path} is there and not empty: nothing was written; name another folder", path = .0.display())]
    Exists(PathBuf),
    /// A file or folder cannot be made.
    #[error("{path} cannot be written: {cause}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A secret cannot be made.
    #[error("{0}")]
    Secret(SecretError),
    /// A certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Certificate(rcgen::Error),
    /// The profiles that would be written are not valid together with what was given.
    #[error("{0}")]
    Profile(ConfigErrors),
}

impl PairError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Host { .. }
            | Self::LockFile { .. }
            | Self::DbPath { .. }
            | Self::NoGateway { .. }
            | Self::Cluster(_)
            | Self::Profile(_) => ExitCode::Usage,
            Self::Exists(_) | Self::Write { .. } | Self::Secret(_) | Self::Certificate(_) => {
                ExitCode::Failed
            }
        }
    }
}

/// Makes the pair and prints what to do with it.
///
/// # Errors
/// When something that was given cannot be used, or a file cannot be written.
pub fn run(args: &PairInitArgs) -> Result<ExitCode, CliError> {
    let mount = mount_of(Path::new(&args.lock_file)).ok().flatten();
    let next_steps =
        make(args, mount.as_ref()).map_err(|error| CliError::of(error.exit_code(), error))?;
    print(&next_steps)?;
    Ok(ExitCode::Done)
}

/// One of the two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Primary,
    Secondary,
}

impl Role {
    const BOTH: [Self; 2] = [Self::Primary, Self::Secondary];

    fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}

/// A file to be written. Private ones are made with mode 0600.
struct NewFile {
    path: PathBuf,
    text: String,
    private: bool,
}

/// Makes everything and writes it; gives the next steps.
fn make(args: &PairInitArgs, mount: Option<&Mount>) -> Result<String, PairError> {
    check(args)?;
    let gateway = match &args.gateway {
        Some(host) => host.clone(),
        None => mount
            .and_then(gateway::of_mount)
            .ok_or_else(|| PairError::NoGateway {
                lock_file: args.lock_file.clone(),
            })?,
    };
    let steps = texts::next_steps(args);
    let files = plan(args, &gateway, &steps)?;
    write(&args.dir, &files)?;
    Ok(steps)
}

fn check(args: &PairInitArgs) -> Result<(), PairError> {
    let hosts = [
        ("primary", Some(&args.primary)),
        ("secondary", Some(&args.secondary)),
        ("gateway", args.gateway.as_ref()),
    ];
    for (argument, host) in hosts {
        let Some(host) = host else { continue };
        let address = host.parse::<IpAddr>().ok();
        let why = if !is_host(host) {
            Some("expected a host name or an IP address")
        } else if address.is_some_and(|address| address.is_unspecified()) {
            Some("expected the address at which other machines reach it")
        } else if host.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|address| address.is_loopback())
        {
            Some(
                "other machines do not reach a loopback address; for a pair on one machine: \
                 twinmq run -p replicated/primary, and replicated/secondary",
            )
        } else {
            None
        };
        if let Some(why) = why {
            let host = host.clone();
            return Err(PairError::Host {
                argument,
                host,
                why,
            });
        }
    }
    if args.primary.eq_ignore_ascii_case(&args.secondary) {
        return Err(PairError::Host {
            argument: "secondary",
            host: args.secondary.clone(),
            why: "is the primary too: a pair is two machines",
        });
    }
    let servers = [&args.primary, &args.secondary];
    if let Some(host) = &args.gateway
        && servers
            .iter()
            .any(|server| server.eq_ignore_ascii_case(host))
    {
        return Err(PairError::Host {
            argument: "gateway",
            host: host.clone(),
            why: "is one of the two servers: a third machine must export the lock file",
        });
    }
    if args.cluster.is_empty() || !is_name(&args.cluster) {
        return Err(PairError::Cluster(args.cluster.clone()));
    }
    check_lock_file(&args.lock_file)?;
    check_db_path(args)
}

/// Not to be put into a systemd unit.
fn awkward(letter: char) -> bool {
    letter.is_whitespace() || letter.is_control() || matches!(letter, '"' | '\'' | '\\' | '%')
}

fn check_db_path(args: &PairInitArgs) -> Result<(), PairError> {
    let path = match (args.mode, &args.db_path) {
        (PairMode::Shared, Some(path)) => path,
        (PairMode::Replicated, None) => return Ok(()),
        (PairMode::Shared, None) => {
            return Err(PairError::DbPath {
                path: String::new(),
                why: "shared mode needs the folder of the one store",
            });
        }
        (PairMode::Replicated, Some(path)) => {
            return Err(PairError::DbPath {
                path: path.clone(),
                why: "goes with --mode shared: in replicated mode each server has a store of its own, in \
                      /var/lib/twinmq",
            });
        }
    };
    let why = if !path.starts_with('/') {
        "expected an absolute path"
    } else if Path::new(path).file_name().is_none()
        || Path::new(path).parent() == Some(Path::new("/"))
    {
        "expected a folder in the share, not in /"
    } else if Path::new(path).starts_with(texts::STORE) {
        "is below /var/lib/twinmq, each server's own disk: name a folder on the share"
    } else if path.contains(awkward) {
        "use a path without spaces, quotes, % and backslashes: it goes into a systemd unit"
    } else {
        return Ok(());
    };
    Err(PairError::DbPath {
        path: path.clone(),
        why,
    })
}

fn check_lock_file(path: &str) -> Result<(), PairError> {
    let why = if !path.starts_with('/') {
        "expected an absolute path"
    } else if path.ends_with('/') || Path::new(path).file_name().is_none() {
        "expected a file, not a folder"
    } else if Path::new(path).parent() == Some(Path::new("/")) {
        "expected a file in a folder of the share, not in /"
    } else if path.contains(awkward) {
        "use a path without spaces, quotes, % and backslashes: it goes into a systemd unit"
    } else {
        return Ok(());
    };
    Err(PairError::LockFile {
        path: path.to_owned(),
        why,
    })
}

/// Every file, relative to the pair's folder. Both profiles are loaded here.
fn plan(args: &PairInitArgs, gateway: &str, steps: &str) -> Result<Vec<NewFile>, PairError> {
    let authority = Authority::new(&args.cluster)?;
    let secret = new_secret().map_err(PairError::Secret)? + "\n";
    let token = new_secret().map_err(PairError::Secret)? + "\n";
    let mut files = Vec::new();
    let mut add = |path: &str, text: String, private: bool| {
        files.push(NewFile {
            path: PathBuf::from(path),
            text,
            private,
        });
    };
    for role in Role::BOTH {
        let host = match role {
            Role::Primary => &args.primary,
            Role::Secondary => &args.secondary,
        };
        let folder = role.name();
        let profile = texts::profile(args, role, gateway).render();
        load_text(&format!("{folder}/profile.toml"), &profile).map_err(PairError::Profile)?;
        let certificate = authority.certify(role.name(), host)?;
        add(&format!("{folder}/profile.toml"), profile, false);
        add(&format!("{folder}/ca.pem"), authority.pem(), false);
        add(&format!("{folder}/cert.pem"), certificate.cert, false);
        add(&format!("{folder}/key.pem"), certificate.key, true);
        add(&format!("{folder}/pair.secret"), secret.clone(), true);
        add(&format!("{folder}/admin.token"), token.clone(), true);
        add(
            &format!("{folder}/twinmq.service"),
            texts::unit(args),
            false,
        );
    }
    add("ca/ca.pem", authority.pem(), false);
    add("ca/ca-key.pem", authority.key_pem(), true);
    add("README.txt", format!("{steps}\n"), false);
    Ok(files)
}

fn write(root: &Path, files: &[NewFile]) -> Result<(), PairError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| PairError::Write { path, cause }
    };
    match std::fs::read_dir(root) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(PairError::Exists(root.to_owned()));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(root)(error)),
    }
    for file in files {
        let path = root.join(&file.path);
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(failed(folder))?;
        }
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if file.private { 0o600 } else { 0o644 })
            .open(&path)
            .and_then(|mut out| {
                out.write_all(file.text.as_bytes())
                    .and_then(|()| out.sync_all())
            })
            .map_err(failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
