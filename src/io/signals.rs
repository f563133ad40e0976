//! Signals as events: one thread waits for them, all others leave them to it.

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Number, pthread_sigmask};

/// A signal that the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: end in order.
    Terminate,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// Why signals cannot be waited for.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The system refuses to block them.
    #[error("signals cannot be set up: {0}")]
    Mask(nix::Error),
    /// No thread.
    #[error("the signal thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// Blocks the signals in this thread and those that it starts from now on, and tells `told` of each on
/// a thread of its own.
///
/// # Errors
/// When the system refuses.
pub fn spawn_signals(told: impl Fn(Signal) + Send + 'static) -> Result<(), SignalError> {
    let mut set = SigSet::empty();
    for number in [Number::SIGTERM, Number::SIGINT, Number::SIGHUP] {
        set.add(number);
    }
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(SignalError::Mask)?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            loop {
                match set.wait() {
                    Ok(Number::SIGTERM | Number::SIGINT) => told(Signal::Terminate),
                    Ok(Number::SIGHUP) => told(Signal::Reload),
                    Ok(other) => {
                        tracing::debug!(target: "twinmq::ha", %other, "a signal of no use")
                    }
                    // Interrupted: wait on.
                    Err(error) => {
                        tracing::debug!(target: "twinmq::ha", %error, "waiting for signals")
                    }
                }
            }
        })
        .map_err(SignalError::Thread)?;
    Ok(())
}
