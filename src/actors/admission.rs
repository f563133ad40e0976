//! Which new connections are taken: how many in all, how many from one address, how fast.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::actors::overload::Limit;
use crate::time::Moment;

/// After quiet, as many connections are taken at once as come in this time.
const BURST: Duration = Duration::from_secs(1);

/// Validated values.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionBounds {
    /// Connections at once.
    pub connections: usize,
    /// Of them from one address; none: no bound.
    pub per_address: Option<usize>,
    /// New ones in a second, at least 1; none: no bound.
    pub per_second: Option<u32>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// In all.
    #[error(
        "this server takes {0} connections at most; close some, or raise `limits.max_connections`"
    )]
    TooMany(usize),
    /// From one address.
    #[error(
        "this server takes {0} connections from one address at most; close some, or raise \
         `limits.max_connections_per_address`"
    )]
    TooManyOfAddress(usize),
}

impl Refusal {
    /// Which limit it is.
    #[must_use]
    pub fn limit(self) -> Limit {
        match self {
            Self::TooMany(_) => Limit::Connections,
            Self::TooManyOfAddress(_) => Limit::ConnectionsPerAddress,
        }
    }
}

/// See the module. Shared by all addresses of the client port.
#[derive(Debug)]
pub struct Admission {
    bounds: Cell<AdmissionBounds>,
    connections: Cell<usize>,
    by_address: RefCell<HashMap<IpAddr, usize>>,
    /// When the connections taken so far are paid for.
    paid_until: Cell<Moment>,
}

impl Admission {
    /// With no connection yet.
    #[must_use]
    pub fn new(bounds: AdmissionBounds) -> Rc<Self> {
        Rc::new(Self {
            bounds: Cell::new(bounds),
            connections: Cell::new(0),
            by_address: RefCell::default(),
            paid_until: Cell::new(Moment(0)),
        })
    }

    /// Other bounds, for connections that come from now on.
    pub fn set_bounds(&self, bounds: AdmissionBounds) {
        self.bounds.set(bounds);
    }

    /// Connections that stand.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Every connection that there may be is there.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.connections.get() >= self.bounds.get().connections
    }

    /// How long no connection is to be taken.
    #[must_use]
    pub fn pause(&self, now: Moment) -> Duration {
        let Some(every) = self.interval() else {
            return Duration::ZERO;
        };
        let ahead = self.paid_until.get().since(now);
        ahead.saturating_sub(BURST.saturating_sub(every))
    }

    /// Takes a connection, which counts until the answer is dropped.
    ///
    /// # Errors
    /// When there are too many.
    pub fn admit(self: &Rc<Self>, from: IpAddr, now: Moment) -> Result<Admitted, Refusal> {
        let bounds = self.bounds.get();
        if let Some(every) = self.interval() {
            self.paid_until
                .set(self.paid_until.get().max(now).after(every));
        }
        if self.is_full() {
            return Err(Refusal::TooMany(bounds.connections));
        }
        let mut by_address = self.by_address.borrow_mut();
        let count = by_address.get(&from).copied().unwrap_or_default();
        if let Some(most) = bounds.per_address.filter(|most| count >= *most) {
            return Err(Refusal::TooManyOfAddress(most));
        }
        by_address.insert(from, count.saturating_add(1));
        self.connections
            .set(self.connections.get().saturating_add(1));
        Ok(Admitted {
            admission: Rc::clone(self),
            from,
        })
    }

    fn interval(&self) -> Option<Duration> {
        let per_second = self.bounds.get().per_second?;
        Some(Duration::from_secs(1) / per_second.max(1))
    }
}

/// A connection that counts, for as long as this lives.
#[derive(Debug)]
pub struct Admitted {
    admission: Rc<Admission>,
    from: IpAddr,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let count = &self.admission.connections;
        count.set(count.get().saturating_sub(1));
        let mut by_address = self.admission.by_address.borrow_mut();
        if let Some(count) = by_address.get_mut(&self.from) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_address.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> AdmissionBounds {
        AdmissionBounds {
            connections: 3,
            per_address: Some(2),
            per_second: None,
        }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn connections_are_counted_in_all_and_by_address() {
        let admission = Admission::new(bounds());
        let admit = |last| admission.admit(address(last), Moment(0));
        let one = admit(1).unwrap();
        let _two = admit(1).unwrap();
        assert_eq!(admit(1).unwrap_err(), Refusal::TooManyOfAddress(2));
        let three = admit(2).unwrap();
        assert_eq!(admit(3).unwrap_err(), Refusal::TooMany(3));
        assert!(admission.is_full());
        drop(one);
        assert_eq!(admission.connections(), 2);
        assert!(admit(1).is_ok());
        drop(three);
        assert!(!admission.by_address.borrow().contains_key(&address(2)));
    }

    #[test]
    fn beyond_the_rate_and_its_burst_connections_wait() {
        let admission = Admission::new(AdmissionBounds {
            connections: 100,
            per_address: None,
            per_second: Some(4),
        });
        let start = Moment(0).after(Duration::from_secs(9));
        for _ in 0..4 {
            assert_eq!(admission.pause(start), Duration::ZERO);
            admission.admit(address(1), start).unwrap();
        }
        let quarter = Duration::from_millis(250);
        assert_eq!(admission.pause(start), quarter);
        let later = start.after(quarter);
        assert_eq!(admission.pause(later), Duration::ZERO);
        admission.admit(address(1), later).unwrap();
        assert_eq!(admission.pause(later), quarter);
        // Quiet gives no more than the burst.
        let much_later = later.after(Duration::from_secs(60));
        for _ in 0..4 {
            assert_eq!(admission.pause(much_later), Duration::ZERO);
            admission.admit(address(1), much_later).unwrap();
        }
        assert_eq!(admission.pause(much_later), quarter);
        admission.set_bounds(bounds());
        assert_eq!(admission.pause(much_later), Duration::ZERO);
    }
}
