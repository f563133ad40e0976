//! One server as a real process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use twinmq::cli::admin_client::{AdminClient, Status};
use twinmq::config::ENVIRONMENT_PREFIX;
use twinmq::time::Moment;

use super::eventually::{SOON, eventually, now};

/// The binary under test.
pub(crate) const TWINMQ: &str = env!("CARGO_BIN_EXE_twinmq");
/// The variable that names another build of it, by an absolute path.
const BINARY: &str = "TWINMQ_BINARY";
/// So much of a log is shown when a test fails, in lines.
const LOG_LINES_SHOWN: usize = 80;

/// Held while a server is being started: between fork and exec its process holds every file of this one,
/// also one whose lock another thread has just let go and wants again.
pub(crate) static FORKS: RwLock<()> = RwLock::new(());

/// The stock ports of a role.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) client: u16,
    pub(crate) ha: u16,
    pub(crate) admin: u16,
}

/// Which server of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Primary,
    Secondary,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }

    /// The ports of the stock profile (interface.md).
    pub(crate) fn ports(self) -> Ports {
        match self {
            Self::Primary => Ports {
                client: 1856,
                ha: 2000,
                admin: 1858,
            },
            Self::Secondary => Ports {
                client: 1956,
                ha: 3000,
                admin: 1859,
            },
        }
    }
}

/// A server that is or is not running. Its process is killed when this is dropped.
pub(crate) struct Server {
    pub(crate) role: Role,
    profile: String,
    folder: PathBuf,
    settings: Vec<String>,
    /// What it is started under; see [`Server::start_under`].
    wrapper: Vec<String>,
    address: Ipv4Addr,
    child: Option<Child>,
    lives: u32,
    group: Option<u32>,
    environment: Vec<(String, String)>,
    /// When a life was ended by `kill -9`, by its number: no log says so.
    killed: BTreeMap<u32, Moment>,
}

impl Server {
    /// A replicated server of the stock profile, moved to `address`; nothing runs yet.
    pub(crate) fn replicated(role: Role, address: Ipv4Addr, folder: &Path) -> Self {
        Self::of_pair("replicated", role, address, folder)
    }

    /// The same of a shared pair.
    pub(crate) fn shared(role: Role, address: Ipv4Addr, folder: &Path) -> Self {
        Self::of_pair("shared", role, address, folder)
    }

    fn of_pair(mode: &str, role: Role, address: Ipv4Addr, folder: &Path) -> Self {
        let (own, peer) = (role.ports(), role.other().ports());
        let settings = vec![
            format!("client.listen={address}:{}", own.client),
            format!("admin.ip_address={address}"),
            format!("ha.ip_address={address}"),
            format!("ha.backup_ha_ip_address={address}"),
            format!("ha.backup_ha_port={}", peer.ha),
            format!("ha.backup_server_ip={address}"),
            format!("ha.gateway.gateway_server_ip_address={address}"),
        ];
        Self {
            role,
            profile: format!("{mode}/{}", role.name()),
            folder: folder.to_owned(),
            settings,
            wrapper: Vec::new(),
            address,
            child: None,
            lives: 0,
            group: None,
            environment: Vec::new(),
            killed: BTreeMap::new(),
        }
    }

    /// A standalone server at `address`; nothing runs yet.
    pub(crate) fn standalone(address: Ipv4Addr, folder: &Path) -> Self {
        Self {
            role: Role::Primary,
            profile: "standalone".to_owned(),
            folder: folder.to_owned(),
            settings: vec![
                format!("client.listen={address}:{}", Role::Primary.ports().client),
                format!("admin.ip_address={address}"),
            ],
            wrapper: Vec::new(),
            address,
            child: None,
            lives: 0,
            group: None,
            environment: Vec::new(),
            killed: BTreeMap::new(),
        }
    }

    /// The same with a profile of the test's own, whose keys the settings of this harness override.
    pub(crate) fn use_profile(&mut self, file: &Path) {
        self.profile = file.display().to_string();
    }

    /// Adds a `--set` for all later starts; the last one of a key wins.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.settings.push(format!("{key}={value}"));
    }

    /// Starts it by another program, which must become the server and not its parent.
    pub(crate) fn start_under(&mut self, wrapper: Vec<String>) {
        self.wrapper = wrapper;
        self.start();
        self.wrapper.clear();
    }

    /// Runs later lives in a group of their own, by which the network tells their packets. Needs root.
    pub(crate) fn use_group(&mut self, group: u32) {
        self.group = Some(group);
    }

    /// Sets a variable for all later starts.
    pub(crate) fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the process. Its output goes to one file for each life.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} already runs", self.role.name());
        self.lives += 1;
        let log = File::create(self.log_path()).expect("the test's folder can be written");
        let forking = FORKS.write().unwrap_or_else(PoisonError::into_inner);
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("the binary under test starts");
        drop(forking);
        self.child = Some(child);
    }

    /// `twinmq run` as this server is started, to be run to its end by a test of refusals.
    pub(crate) fn command(&self) -> Command {
        self.subcommand(&self.wrapper, &["run"])
    }

    /// `twinmq COMMAND ...` with this server's profile and settings.
    pub(crate) fn operator(&self, words: &[&str]) -> Command {
        self.subcommand(&[], words)
    }

    /// A command of `twinmq` about this server, with its profile and settings, under another program.
    pub(crate) fn subcommand(&self, wrapper: &[String], operation: &[&str]) -> Command {
        // Measurements may be of another build.
        let binary = std::env::var_os(BINARY).unwrap_or_else(|| TWINMQ.into());
        let mut words = wrapper.iter().map(OsString::from).chain([binary]);
        let mut command = Command::new(words.next().expect("the last one at least"));
        command
            .args(words)
            .current_dir(&self.folder)
            .args(operation)
            .args(["-p", &self.profile]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        // Settings for the servers of whoever runs the tests are not for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(ENVIRONMENT_PREFIX) {
                command.env_remove(name);
            }
        }
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        if let Some(group) = self.group {
            command.gid(group);
        }
        command
    }

    /// Starts it and waits until its admin port answers.
    pub(crate) fn start_and_await(&mut self) -> Status {
        self.start();
        self.await_status("its admin port answers", |_| true)
    }

    /// The process, as long as it was not waited for.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        let pid = self.pid().expect("the server runs");
        let pid = i32::try_from(pid).expect("process ids are positive and small");
        kill(Pid::from_raw(pid), signal).expect("a child that was not waited for exists");
        if signal == Signal::SIGKILL {
            self.killed.entry(self.lives).or_insert_with(now);
        }
    }

    /// The same to the processes that it has started too, its watchdog: what a paused machine does to
    /// all of them. They stop before it and wake after it, so that it may show what it does then.
    pub(crate) fn signal_with_children(&mut self, signal: Signal) {
        let children = self.children();
        if signal == Signal::SIGCONT {
            self.signal(signal);
        }
        for child in children {
            // It may have ended since it was listed.
            kill(child, signal).ok();
        }
        if signal != Signal::SIGCONT {
            self.signal(signal);
        }
    }

    fn children(&self) -> Vec<Pid> {
        let pid = self.pid().expect("the server runs");
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        let lists = tasks.into_iter().flatten().flatten().map(|task| {
            // A thread may end meanwhile.
            fs::read_to_string(task.path().join("children")).unwrap_or_default()
        });
        lists
            .collect::<String>()
            .split_whitespace()
            .map(|child| Pid::from_raw(child.parse().expect("the kernel writes numbers")))
            .collect()
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.await_exit();
    }

    /// SIGTERM, and waits for the orderly end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.await_exit()
    }

    /// Fails if the process has ended by itself.
    #[track_caller]
    pub(crate) fn assert_runs(&mut self) {
        let child = self.child.as_mut().expect("the server was started");
        if let Ok(Some(status)) = child.try_wait() {
            panic!("{} ended with {status}", self.role.name());
        }
    }

    /// How the process ended, if it has by itself; it can be started again then.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let ended = child.try_wait().expect("a child can be waited for");
        if ended.is_some() {
            self.child = None;
        }
        ended
    }

    /// Whether a process was started and not waited for.
    pub(crate) fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Waits until the process ends by itself or by a signal already sent.
    pub(crate) fn await_exit(&mut self) -> ExitStatus {
        let name = self.role.name();
        let child = self.child.as_mut().expect("the server runs");
        let status = eventually(SOON, &format!("{name} ends"), || {
            match child.try_wait().expect("a child can be waited for") {
                Some(status) => Ok(status),
                None => Err("it still runs".to_owned()),
            }
        });
        self.child = None;
        status
    }

    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}:{}", self.address, self.role.ports().admin)
    }

    pub(crate) fn client_address(&self) -> String {
        format!("{}:{}", self.address, self.role.ports().client)
    }

    /// What the server says about itself and its peer.
    pub(crate) fn status(&self) -> Result<Status, String> {
        AdminClient::new(&self.admin_url(), None)
            .status()
            .map_err(|error| error.to_string())
    }

    /// Waits until `status` is as wanted. Fails at once if the process is gone.
    #[track_caller]
    pub(crate) fn await_status(&mut self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        self.await_status_within(SOON, what, wanted)
    }

    #[track_caller]
    pub(crate) fn await_status_within(
        &mut self,
        deadline: Duration,
        what: &str,
        wanted: impl Fn(&Status) -> bool,
    ) -> Status {
        let what = format!("{}: {what}", self.role.name());
        let url = self.admin_url();
        let child = self.child.as_mut().expect("the server runs");
        let client = AdminClient::new(&url, None);
        eventually(deadline, &what, || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{what}: the server ended with {status}");
            }
            match client.status() {
                Ok(status) if wanted(&status) => Ok(status),
                Ok(status) => Err(format!("{status:?}")),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    #[track_caller]
    pub(crate) fn await_state(&mut self, state: &str) -> Status {
        self.await_status(state, |status| status.state == state)
    }

    /// Starts it where it must not serve, and returns why it does not: the reason of its refused
    /// claim if it waits, its log if it ends with an error.
    #[track_caller]
    pub(crate) fn start_and_await_refusal(&mut self) -> String {
        self.start();
        let client = AdminClient::new(&self.admin_url(), None);
        let child = self.child.as_mut().expect("it was just started");
        let reason = eventually(SOON, "a reason not to serve", || {
            if let Ok(Some(ended)) = child.try_wait() {
                assert!(!ended.success(), "it ended as if all were well");
                return Ok(None);
            }
            let status = client.status().map_err(|error| error.to_string())?;
            assert!(!status.serving, "it serves: {status:?}");
            let seen = format!("{status:?}");
            let reason = status.claims.and_then(|claims| claims.reason);
            reason.map(Some).ok_or(seen)
        });
        reason.unwrap_or_else(|| {
            self.child = None;
            self.log()
        })
    }

    /// `twinmq store check` on its data directory, while it is stopped, finds nothing.
    #[track_caller]
    pub(crate) fn assert_store_is_sound(&self) {
        assert!(self.child.is_none(), "{} still runs", self.role.name());
        let checked = Command::new(TWINMQ)
            .args(["store", "check"])
            .arg(self.data_dir())
            .output()
            .expect("the binary under test starts");
        let text = String::from_utf8_lossy(&checked.stdout);
        let errors = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{text}{errors}");
    }

    /// The names in the data directory that say which stores there are.
    pub(crate) fn stores(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.data_dir())
            .expect("the data directory exists")
            .map(|entry| entry.expect("it can be read").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with("store."))
            .collect();
        names.sort();
        names
    }

    /// The first part of the stock profile's name.
    pub(crate) fn mode(&self) -> &str {
        if self.profile.starts_with("shared/") {
            "shared"
        } else {
            "replicated"
        }
    }

    /// The data directory of the stock profile.
    pub(crate) fn data_dir(&self) -> PathBuf {
        let data = self.folder.join("data");
        if self.profile.starts_with("shared/") {
            data.join("shared/store")
        } else {
            data.join(&self.profile)
        }
    }

    /// Waits until this life has printed a text.
    #[track_caller]
    pub(crate) fn await_log(&mut self, text: &str) {
        eventually(SOON, &format!("the log says \"{text}\""), || {
            self.assert_runs();
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        });
    }

    /// What this life has printed so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// What all lives have printed so far, and when they were killed, if they were.
    pub(crate) fn whole_log(&self) -> (String, Vec<Moment>) {
        let log = (1..=self.lives)
            .map(|life| fs::read_to_string(self.log_of(life)).unwrap_or_default())
            .collect();
        (log, self.killed.values().copied().collect())
    }

    fn log_path(&self) -> PathBuf {
        self.log_of(self.lives)
    }

    fn log_of(&self, life: u32) -> PathBuf {
        self.folder.join(format!("{}.{life}.log", self.role.name()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; either way it is gone and reaped after this.
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() && self.lives > 0 {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!(
                "---- end of {} ----\n{}\n----",
                self.log_path().display(),
                shown.join("\n")
            );
        }
    }
}
