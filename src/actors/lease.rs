//! The right to speak to clients (A7): one moment, written by HAManager whenever it has proof that
//! this server still serves, read before each flush of what clients may rely on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::{Clock, Moment};

/// Whether a confirm or a delivery may leave now.
pub trait ServingLease: Send + Sync {
    /// Judged at the moment of use: the process may have been paused since the last check.
    fn may_speak(&self) -> bool;
}

/// The lease of a server.
pub struct Lease {
    /// Nanoseconds on the clock's scale; at this moment the right is over.
    deadline: AtomicU64,
    clock: Arc<dyn Clock>,
}

impl Lease {
    /// A lease that is over.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            deadline: AtomicU64::new(0),
            clock,
        }
    }

    /// The right lasts until `deadline`, also when it was longer before.
    pub fn set(&self, deadline: Moment) {
        self.deadline.store(deadline.0, Ordering::Release);
    }

    /// The right lasts as long as the process: a server without a peer or arbiter.
    pub fn set_for_ever(&self) {
        self.set(Moment(u64::MAX));
    }

    /// The right is over.
    pub fn revoke(&self) {
        self.set(Moment(0));
    }
}

impl ServingLease for Lease {
    fn may_speak(&self) -> bool {
        self.clock.now().0 < self.deadline.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SystemClock;

    #[test]
    fn a_lease_is_over_at_its_deadline() {
        let lease = Lease::new(Arc::new(SystemClock));
        assert!(!lease.may_speak());
        lease.set_for_ever();
        assert!(lease.may_speak());
        lease.set(SystemClock.now());
        assert!(!lease.may_speak());
        lease.set_for_ever();
        lease.revoke();
        assert!(!lease.may_speak());
    }
}
