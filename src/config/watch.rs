//! Watches a profile's file for changes. Editors write a new file and rename it over the old one, or
//! truncate and write in steps: so the folder is watched, and the file is read again once it has
//! been quiet for a moment.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::time::{Clock, SystemClock};

/// The folder must be quiet for this long before the file is read again.
const QUIET: Duration = Duration::from_millis(200);
/// A folder that is never quiet delays a reload no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a file cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The system refuses, for example because it is out of inotify watches.
    #[error("changes of {path} cannot be watched: {cause}; reload with SIGHUP instead", path = path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: notify::Error,
    },
    /// No thread for it.
    #[error("changes cannot be watched: no thread: {0}; reload with SIGHUP instead")]
    Thread(std::io::Error),
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct ConfigWatcher {
    _watcher: RecommendedWatcher,
}

/// Calls back after each change of the file's content, on a thread of its own. Not when the file is
/// gone, touched, or written with the same content. Call it before the file is loaded, so that no
/// change falls between the two. A change behind a symbolic link into another folder is not seen.
///
/// # Errors
/// When the system does not let the file's folder be watched.
pub fn watch(
    path: &Path,
    callback: impl Fn() + Send + 'static,
) -> Result<ConfigWatcher, WatchError> {
    let refused = |cause| WatchError::Refused {
        path: path.to_owned(),
        cause,
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let (wake, woken) = channel();
    let mut watcher =
        notify::recommended_watcher(move |event| on_event(&event, &wake)).map_err(refused)?;
    watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .map_err(refused)?;
    let file = path.to_owned();
    let known = std::fs::read(&file).ok();
    std::thread::Builder::new()
        .name("config-watch".to_owned())
        .spawn(move || follow(&file, known, &woken, &callback))
        .map_err(WatchError::Thread)?;
    Ok(ConfigWatcher { _watcher: watcher })
}

fn on_event(event: &notify::Result<Event>, wake: &Sender<()>) {
    // Reading the file is an event too, and must not lead to reading it again.
    let read_only = |kind: &EventKind| match kind {
        EventKind::Access(access) => *access != AccessKind::Close(AccessMode::Write),
        _ => false,
    };
    if event.as_ref().is_ok_and(|event| read_only(&event.kind)) {
        return;
    }
    if wake.send(()).is_err() {
        tracing::debug!(target: "twinmq::config", "file event after the watch has ended");
    }
}

/// Ends when the watcher, which holds the sender, is dropped.
fn follow(
    file: &Path,
    mut known: Option<Vec<u8>>,
    woken: &Receiver<()>,
    callback: &(impl Fn() + Send),
) {
    while woken.recv().is_ok() {
        if !settle(woken) {
            return;
        }
        let now = std::fs::read(file).ok();
        if now.is_some() && now != known {
            known = now;
            callback();
        }
    }
}

/// Waits for quiet; false if the watcher is gone.
fn settle(woken: &Receiver<()>) -> bool {
    let began = SystemClock.now();
    loop {
        match woken.recv_timeout(QUIET) {
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
            Ok(()) if SystemClock.now().since(began) > PATIENCE => return true,
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn replace(path: &Path, text: &str) {
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(&temporary, path).unwrap();
    }

    #[test]
    fn each_change_of_content_calls_back_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.toml");
        std::fs::write(&path, "one").unwrap();
        let (sender, seen) = channel();
        let file = path.clone();
        let watcher = watch(&path, move || {
            sender
                .send(std::fs::read_to_string(&file).unwrap())
                .unwrap();
        })
        .unwrap();
        std::fs::write(folder.path().join("other"), "x").unwrap();
        replace(&path, "one");
        replace(&path, "two");
        assert_eq!(seen.recv_timeout(LONG).unwrap(), "two");
        std::fs::remove_file(&path).unwrap();
        replace(&path, "three");
        assert_eq!(seen.recv_timeout(LONG).unwrap(), "three");
        drop(watcher);
        assert_eq!(
            seen.recv_timeout(LONG),
            Err(RecvTimeoutError::Disconnected),
            "the thread ends with the watcher"
        );
    }

    #[test]
    fn a_folder_that_is_not_there_is_refused() {
        let error = watch(Path::new("/nowhere/profile.toml"), || {}).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("changes of /nowhere/profile.toml cannot be watched: "),
            "{error}"
        );
    }
}
