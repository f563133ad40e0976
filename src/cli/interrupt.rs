//! Ctrl-C and the other signals that ask for an end, as a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Whether somebody asked for the end.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes SIGINT, SIGTERM and SIGHUP from now on. Called before other threads start: they
    /// inherit that they leave these signals alone.
    pub(super) fn watch() -> Self {
        let signals = signals();
        let came = Self(Arc::new(AtomicBool::new(false)));
        // Without the block the signals end the process as they always do, and the servers with it.
        if signals.thread_block().is_ok() {
            let flag = Arc::clone(&came.0);
            thread::spawn(move || {
                if signals.wait().is_ok() {
                    flag.store(true, Ordering::Relaxed);
                }
            });
        }
        came
    }

    /// Starts a child process: it inherits what is blocked, and a server wants its signals. One that
    /// comes just now ends this process as signals do, and the servers' reapers see to them.
    pub(super) fn let_through<T>(start: impl FnOnce() -> T) -> T {
        let before = signals().thread_swap_mask(SigmaskHow::SIG_UNBLOCK);
        let started = start();
        if let Ok(before) = before {
            // The mask was valid when it was read.
            before.thread_set_mask().ok();
        }
        started
    }

    pub(super) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect()
}
