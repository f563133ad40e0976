//! Waiting for conditions. Deadlines are generous: they end a test that hangs, they measure nothing.

use std::thread;
use std::time::Duration;

use twinmq::time::{Clock, Moment, SystemClock};

/// Long enough for any single step of a pair on a slow machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Now, on the clock that servers and clients use too.
pub(crate) fn now() -> Moment {
    SystemClock.now()
}

/// Asks until there is an answer. The error is what was seen last, for the failure's text.
///
/// # Panics
/// When the deadline is over.
#[track_caller]
pub(crate) fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let until = now().after(deadline);
    loop {
        match condition() {
            Ok(found) => return found,
            Err(seen) if now() >= until => {
                panic!(
                    "{what}: not within {} s; last seen: {seen}",
                    deadline.as_secs()
                )
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
