//! `twinmq run`: one server, from its profile to its exit code.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::actors::ha_manager::HaMessage;
use crate::actors::post::post;
use crate::actors::server::{End, Server, StartError, block_on, start};
use crate::admin::{AdminState, Operator, StatusSource};
use crate::config::{Config, ConfigSource, Loaded, load, read_or_make_secret, reload, watch};
use crate::exit::ExitCode;
use crate::io::signals::{Signal, SignalError, spawn_signals};
use crate::io::{open_files, port_owner};
use crate::machines::ha::ExitCause;
use crate::proto::history::{Event, EventKind};
use crate::storage::error::StoreError;
use crate::telemetry::{self, Telemetry};
use crate::time::{Clock, SystemClock};

use super::CliError;
use super::args::RunArgs;

/// How long `--background` waits for the server's first answer: a large store takes a while to open.
const BACKGROUND_START: Duration = Duration::from_secs(120);

/// Why `run` failed before the server was up.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(
        "cannot take the admin port {address}: {cause}{}; stop the program that has it (perhaps \
         another server of the same profile), or change admin.rmi_server_port",
        owner.as_ref().map(|owner| format!(": it is in use by {owner}")).unwrap_or_default()
    )]
    AdminPort {
        address: std::net::SocketAddr,
        cause: std::io::Error,
        owner: Option<String>,
    },
    #[error("the server could not go to the background: {0}")]
    Background(std::io::Error),
    #[error("the admin API could not be started: {0}")]
    Admin(std::io::Error),
}

/// What happens to a running server from outside its actors.
enum Outside {
    Signal(Signal),
    ProfileChanged,
}

/// Runs a server until it ends.
///
/// # Errors
/// When it cannot start.
pub fn run(args: &RunArgs) -> Result<ExitCode, CliError> {
    let source = args.profile.source(args.db_path.clone());
    let loaded = load(&source)?;
    if args.background {
        return start_in_background(&loaded.config);
    }
    let telemetry = telemetry::init(&loaded.config.log)
        .map_err(|error| CliError::of(ExitCode::Configuration, error))?;
    let (outside, told) = unbounded_channel();
    // Before any other thread is there: they all leave these signals to this one.
    let signalled = outside.clone();
    spawn_signals(move |signal| drop(signalled.send(Outside::Signal(signal))))
        .map_err(|error: SignalError| CliError::of(ExitCode::Failed, error))?;
    let watcher = match &loaded.config.file {
        None => None,
        Some(path) => match watch(path, move || drop(outside.send(Outside::ProfileChanged))) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(target: "twinmq::config", %error, "the profile is not watched; SIGHUP reloads it");
                None
            }
        },
    };
    let has_file = loaded.config.log.file.is_some();
    let code = block_on(serve(loaded, &source, &telemetry, told));
    if let Err(error) = &code
        && has_file
    {
        // Nobody may see the standard error of a service (S170).
        tracing::error!(target: "twinmq::ha", "the server does not start: {error}");
    }
    drop(watcher);
    code
}

async fn serve(
    mut loaded: Loaded,
    source: &ConfigSource,
    telemetry: &Telemetry,
    mut outside: UnboundedReceiver<Outside>,
) -> Result<ExitCode, CliError> {
    banner(&loaded);
    let config = loaded.config.clone();
    let connections = config.limits.max_connections as u64;
    if let Err(error) = open_files::raise(connections) {
        tracing::warn!(target: "twinmq::net", "{error}");
    }
    let listener = TcpListener::bind(config.admin.listen).map_err(|cause| {
        let address = config.admin.listen;
        CliError::of(
            ExitCode::AddressInUse,
            RunError::AdminPort {
                address,
                cause,
                owner: port_owner::listener(address),
            },
        )
    })?;
    let token = read_or_make_secret(&config.admin.token_file)
        .map_err(|error| CliError::of(ExitCode::Configuration, error))?;
    let mut server = start(&config)
        .await
        .map_err(|error| CliError::of(code_of(&error), error))?;
    say_where_the_store_is(&config, &server);
    let admin = crate::admin::serve(listener, Arc::new(admin_state(&config, &server, token)))
        .map_err(|error| CliError::of(ExitCode::Failed, RunError::Admin(error)))?;
    let admin_api = admin.handle();
    drop(tokio::task::spawn_local(admin));
    tracing::info!(target: "twinmq::admin", "admin API at http://{}", config.admin.listen);
    notify_systemd(&[sd_notify::NotifyState::Ready]);
    let mut stopping = false;
    loop {
        tokio::select! {
            end = server.ends.recv() => {
                let stepped_down = matches!(end, Some(End::Role(ExitCause::SteppedDown(_))));
                let code = note_end(&server, end);
                if stepped_down {
                    // The peer waits for the end of this process, and nobody else for anything.
                    return Ok(code);
                }
                // Whoever asked for the stop over HTTP gets the answer.
                admin_api.stop(true).await;
                return Ok(code);
            }
            event = outside.recv() => match event {
                Some(Outside::Signal(Signal::Terminate)) if stopping => {
                    tracing::warn!(target: "twinmq::ha", "asked a second time to end: ending at once");
                    return Ok(ExitCode::Failed);
                }
                Some(Outside::Signal(Signal::Terminate)) => {
                    stopping = true;
                    notify_systemd(&[sd_notify::NotifyState::Stopping]);
                    tracing::info!(target: "twinmq::ha", "Container shutdown initiated");
                    post(&server.wired.manager, HaMessage::Stop);
                }
                Some(Outside::Signal(Signal::Reload) | Outside::ProfileChanged) => {
                    take_changes(&mut loaded, source, telemetry, &server).await;
                }
                None => return Ok(ExitCode::Failed),
            },
        }
    }
}

/// All or nothing: what changed, what needs a restart, or why the file was not taken.
async fn take_changes(
    loaded: &mut Loaded,
    source: &ConfigSource,
    telemetry: &Telemetry,
    server: &Server,
) {
    let plan = match reload(loaded, source) {
        Ok(plan) => plan,
        Err(errors) => {
            tracing::error!(target: "twinmq::config", "the profile was not taken, everything stays as it was: {errors}");
            return;
        }
    };
    if let Err(error) = telemetry.set_level(&plan.loaded.config.log.level) {
        tracing::error!(target: "twinmq::config", %error, "the profile was not taken, everything stays as it was");
        return;
    }
    server.reconfigure(&plan.loaded.config).await;
    // Told when it holds.
    for change in &plan.changed {
        tracing::info!(target: "twinmq::config", "changed {change}");
    }
    for change in &plan.changed_tables {
        tracing::info!(target: "twinmq::config", "changed {change}");
    }
    for change in &plan.needs_restart {
        tracing::warn!(target: "twinmq::config", "needs a restart: {change}");
    }
    if plan.takes_nothing() {
        tracing::info!(target: "twinmq::config", "the profile was read again; nothing to change at once");
    }
    *loaded = plan.loaded;
}

/// The end is the last event of this run.
fn note_end(server: &Server, end: Option<End>) -> ExitCode {
    let why = match &end {
        Some(End::Role(ExitCause::Stopped)) => "stopped in order".to_owned(),
        Some(End::Role(ExitCause::PeerMismatch(why))) => format!("does not fit its peer: {why}"),
        Some(End::Role(ExitCause::SteppedDown(why))) => format!("stepped down: {why}"),
        Some(End::Store(error)) => format!("the store failed: {error}"),
        Some(End::ClientPort(error)) => format!("clients cannot be served: {error}"),
        None => "its threads ended".to_owned(),
    };
    let code = ended(server, end);
    if let Some(history) = &server.history {
        let epoch = server.wired.board.role().epoch;
        let text = format!(
            "ended with exit code {} ({}): {why}",
            code.code(),
            code.name()
        );
        history.end(Event::new(EventKind::End, epoch, text));
    }
    code
}

fn ended(server: &Server, end: Option<End>) -> ExitCode {
    match end {
        Some(End::Role(ExitCause::Stopped)) => {
            // The goodbye is on its way; what the store still holds is flushed before the end.
            server.store.close();
            tracing::info!(target: "twinmq::ha", "Container shutdown successful");
            ExitCode::Done
        }
        Some(End::Role(ExitCause::PeerMismatch(reason))) => {
            tracing::error!(target: "twinmq::ha",
                "HA properties are not set properly in the backup server. Please verify whether the \
                 following properties are configured to use same values in the backup server:\n{reason}");
            server.store.close();
            ExitCode::PeerMismatch
        }
        Some(End::Role(ExitCause::SteppedDown(reason))) => {
            // The store stays as it is: only the end of the process lets it go.
            tracing::error!(target: "twinmq::ha", reason, "this server stepped down: the process ends");
            ExitCode::SteppedDown
        }
        Some(End::Store(error)) => {
            tracing::error!(target: "twinmq::store", %error,
                "the store failed: nothing more is confirmed, the process ends");
            ExitCode::StoreFailed
        }
        Some(End::ClientPort(error)) => {
            tracing::error!(target: "twinmq::net", %error, "clients cannot be served");
            ExitCode::AddressInUse
        }
        None => ExitCode::Failed,
    }
}

fn say_where_the_store_is(config: &Config, server: &Server) {
    let (dir, lock) = (
        server.store_dir.display(),
        config.ha.as_ref().map(|pair| absolute(&pair.lock_file)),
    );
    match server.found_messages {
        Some(messages) => {
            tracing::info!(target: "twinmq::store", store = %dir, lock, messages,
                "found {messages} messages in {dir}");
        }
        None => {
            tracing::info!(target: "twinmq::store", store = %dir, lock,
                "the shared store {dir} is opened by whichever server becomes active");
        }
    }
}

fn banner(loaded: &Loaded) {
    let config = &loaded.config;
    tracing::info!(target: "twinmq::ha", pid = std::process::id(), profile = config.profile,
        mode = config.mode.name(), "TwinMQ {}", env!("CARGO_PKG_VERSION"));
    for warning in &loaded.warnings {
        tracing::warn!(target: "twinmq::config", "{warning}");
    }
    if config.demo {
        tracing::warn!(target: "twinmq::config",
            "demo profile: both servers and the lock file on one machine; not highly available");
    }
}

fn admin_state(config: &Config, server: &Server, token: String) -> AdminState {
    let manager = server.wired.manager.clone();
    let asked = manager.clone();
    let port = config.admin.listen.port();
    AdminState {
        status: StatusSource {
            name: config.name.clone(),
            profile: config.profile.clone(),
            mode: config.mode.name(),
            lock_path: config
                .ha
                .as_ref()
                .map(|pair| pair.lock_file.display().to_string()),
            node: server.node,
            board: Arc::clone(&server.wired.board),
            store: Arc::clone(&server.store),
            data: server.data.clone(),
            clock: Arc::new(SystemClock),
        },
        token,
        hosts: vec![config.admin.listen.to_string(), format!("localhost:{port}")],
        explain: Box::new(move |ask| post(&asked, HaMessage::Explain(ask))),
        node_dir: config.store.own_folder(),
        operator: Operator::new(manager.clone()),
        stop: Box::new(move || post(&manager, HaMessage::Stop)),
    }
}

fn code_of(error: &StartError) -> ExitCode {
    match error {
        StartError::StoreMount(_) | StartError::Tls(_) | StartError::Secret(_) => {
            ExitCode::Configuration
        }
        StartError::ClientPort(_) | StartError::HaPort(_) => ExitCode::AddressInUse,
        StartError::Store(error) => store_code(error),
        StartError::LockFile(_) => ExitCode::LockFile,
        StartError::LastRecord(_) => ExitCode::StoreDamaged,
        StartError::Thread(_) | StartError::PeerThread => ExitCode::Failed,
    }
}

/// The exit code for a store that cannot be opened.
#[must_use]
pub fn store_code(error: &StoreError) -> ExitCode {
    match error {
        StoreError::InUse { .. } | StoreError::HeldBy { .. } => ExitCode::StoreInUse,
        StoreError::NoDataDir { .. } | StoreError::NotOurs { .. } => ExitCode::Failed,
        StoreError::WrongFormat { .. }
        | StoreError::Damaged { .. }
        | StoreError::Layout { .. }
        | StoreError::WrongCluster { .. } => ExitCode::StoreDamaged,
        StoreError::Commit { .. }
        | StoreError::ReplicaMismatch(_)
        | StoreError::Open { .. }
        | StoreError::Read { .. }
        | StoreError::File { .. }
        | StoreError::Random(_)
        | StoreError::Thread { .. } => ExitCode::StoreFailed,
    }
}

/// Starts this command again without `--background`, in a process group of its own, and waits until its
/// admin port answers or it has ended.
fn start_in_background(config: &Config) -> Result<ExitCode, CliError> {
    use std::os::unix::process::CommandExt;
    let failed = |error| CliError::of(ExitCode::Failed, RunError::Background(error));
    let program = std::env::current_exe().map_err(failed)?;
    let words = std::env::args_os()
        .skip(1)
        .filter(|word| word != "--background");
    let mut child = std::process::Command::new(program)
        .args(words)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let client = super::admin_client::AdminClient::new(&config.admin.listen.to_string(), None);
    let until = SystemClock.now().after(BACKGROUND_START);
    while SystemClock.now() < until {
        if let Some(status) = child.try_wait().map_err(failed)? {
            let text =
                format!("it ended at once with {status}; run it without --background to see why");
            return Err(failed(std::io::Error::other(text)));
        }
        if client.status().is_ok_and(|status| status.pid == child.id()) {
            super::print(&format!("running as process {}", child.id()))?;
            return Ok(ExitCode::Done);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let text = format!(
        "process {} runs, but its admin port has not answered in {} s; see log.file, or stop it",
        child.id(),
        BACKGROUND_START.as_secs()
    );
    Err(failed(std::io::Error::other(text)))
}

fn notify_systemd(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(target: "twinmq::ha", %error, "systemd was not told");
    }
}

fn absolute(path: &std::path::Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_path_buf())
        .display()
        .to_string()
}
