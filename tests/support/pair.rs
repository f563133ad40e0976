//! A folder with the two servers of a pair in it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::address::loopback_of;
use super::eventually::{SOON, eventually};
use super::server::{Role, Server};

/// The scene of a test: its folder, which is kept when the test fails.
pub(crate) struct Scene {
    folder: Option<TempDir>,
    pub(crate) address: Ipv4Addr,
}

impl Scene {
    pub(crate) fn new(test: &str) -> Self {
        let short = test.rsplit("::").next().unwrap_or(test);
        let folder = tempfile::Builder::new()
            .prefix(short)
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("cargo's folder for tests can be written");
        Self {
            folder: Some(folder),
            address: loopback_of(test),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.as_ref().expect("set until drop").path()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("kept for a look: {}", folder.keep().display());
        }
    }
}

/// A replicated pair from the stock profiles.
pub(crate) struct Pair {
    // Dropped in this order: the processes end before their folder goes.
    pub(crate) primary: Server,
    pub(crate) secondary: Server,
    pub(crate) scene: Scene,
}

impl Pair {
    /// Nothing runs yet.
    pub(crate) fn new(test: &str) -> Self {
        let scene = Scene::new(test);
        Self {
            primary: Server::replicated(Role::Primary, scene.address, scene.path()),
            secondary: Server::replicated(Role::Secondary, scene.address, scene.path()),
            scene,
        }
    }

    /// Both run and are in sync, the primary active: it was started first.
    pub(crate) fn in_sync(test: &str) -> Self {
        Self::in_sync_with(test, &[])
    }

    /// The same, with keys set on both.
    pub(crate) fn in_sync_with(test: &str, settings: &[(&str, &str)]) -> Self {
        let mut pair = Self::new(test);
        for (key, value) in settings {
            pair.primary.set(key, value);
            pair.secondary.set(key, value);
        }
        pair.primary.start();
        pair.primary.await_state("STANDALONE");
        pair.secondary.start();
        pair.await_in_sync();
        assert_eq!(pair.active(), Role::Primary);
        pair
    }

    /// A pair with one store; nothing runs yet.
    pub(crate) fn shared(test: &str) -> Self {
        let scene = Scene::new(test);
        Self {
            primary: Server::shared(Role::Primary, scene.address, scene.path()),
            secondary: Server::shared(Role::Secondary, scene.address, scene.path()),
            scene,
        }
    }

    /// The same with both running, the primary active.
    pub(crate) fn shared_in_sync(test: &str) -> Self {
        let mut pair = Self::shared(test);
        pair.start_shared();
        pair
    }

    /// Starts both of a shared pair, the primary first.
    pub(crate) fn start_shared(&mut self) {
        self.primary.start();
        self.primary.await_state("ACTIVE");
        self.secondary.start();
        assert_eq!(self.await_in_sync(), Role::Primary);
    }

    pub(crate) fn server(&mut self, role: Role) -> &mut Server {
        match role {
            Role::Primary => &mut self.primary,
            Role::Secondary => &mut self.secondary,
        }
    }

    /// `kill -9` to both before either is waited for.
    pub(crate) fn kill_both(&mut self) {
        for server in [&mut self.primary, &mut self.secondary] {
            server.signal(Signal::SIGKILL);
        }
        self.primary.await_exit();
        self.secondary.await_exit();
    }

    /// The failover list for clients.
    pub(crate) fn hosts(&self) -> String {
        format!(
            "{},{}",
            self.primary.client_address(),
            self.secondary.client_address()
        )
    }

    /// Waits until one is ACTIVE, the other PASSIVE, and both hold everything confirmed.
    #[track_caller]
    pub(crate) fn await_in_sync(&mut self) -> Role {
        // Asked of both at once, so that one that has ended shows at once.
        let (primary, secondary) = (&mut self.primary, &mut self.secondary);
        eventually(SOON, "the pair is in sync", || {
            for server in [&mut *primary, &mut *secondary] {
                server.assert_runs();
                match server.status() {
                    Ok(status) if status.pair_is_in_sync() => {}
                    Ok(status) => return Err(format!("{status:?}")),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        self.active()
    }

    /// Which server is ACTIVE or STANDALONE; waits until it is one.
    #[track_caller]
    pub(crate) fn active(&mut self) -> Role {
        let (primary, secondary) = (&self.primary, &self.secondary);
        eventually(SOON, "one server serves", || {
            let serves = |server: &Server| server.status().is_ok_and(|status| status.serving);
            match (serves(primary), serves(secondary)) {
                (true, false) => Ok(Role::Primary),
                (false, true) => Ok(Role::Secondary),
                (true, true) => panic!("both servers serve"),
                (false, false) => Err("none".to_owned()),
            }
        })
    }

    /// The lock file of the stock profiles.
    pub(crate) fn lock_file(&self) -> PathBuf {
        let mode = self.primary.mode();
        self.scene.path().join(format!("data/lock/{mode}.lck"))
    }
}

/// Copies a data directory with `cp`, which leaves the holes of its sparse files as holes.
pub(crate) fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .args(["-a", "--sparse=always"])
        .args([from, to])
        .status()
        .expect("cp exists on every Linux");
    assert!(copied.success(), "{} is copied", from.display());
}
