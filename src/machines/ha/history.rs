//! What a machine remembers for people only.

use super::{Claims, HaMachine};

impl HaMachine {
    /// Forgets what no decision looks at: counts, words for people, the numbers of calls (a call that
    /// is awaited has number 1 afterwards). For a search through the states, which must find two
    /// servers the same when they will act the same.
    pub fn forget_history(&mut self) {
        self.claims = Claims::default();
        self.reason = None;
        self.cause = None;
        self.lock_refused = None;
        self.previous = self.shown();
        if let Some(last) = &mut self.announced {
            last.previous = last.state;
        }
        self.next_call = 1;
        if let Some((number, _)) = &mut self.call {
            *number = self.next_call;
        }
    }
}
