//! Shared mode: the way to a store that both servers can reach.

use crate::proto::ids::{Epoch, StoreId};

/// Shared mode: what is asked of the one store that both servers can reach, one call at a time. It is
/// closed when the process starts, and it is opened at most once in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreCall {
    /// Which store is there? Reads its label and never touches the data file.
    Look,
    /// First boot: make the store where there is none.
    Found,
    /// Lock the data file, for as long as the process lives or until `Leave`.
    Take,
    /// Let the data file go that was taken and not opened.
    Leave,
    /// Open the store whose data file was taken.
    Open,
    /// Flush, end, and let the data file go.
    Close,
}

/// Answer to a [`StoreCall`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreAnswer {
    /// To `Look`: the store there, if there is one.
    Seen(Option<StoreId>),
    /// To `Found`: the store there, and the last epoch in its log.
    Founded(StoreId, Epoch),
    /// To `Take`: it is this process's.
    Taken {
        /// Its file system is this kernel's own: no other process has the store open.
        local: bool,
    },
    /// To `Take` or `Found`: another process has it open. In words, who.
    InUse(String),
    /// To `Leave`.
    Left,
    /// To `Open`: `LogStore::log_facts` tells of it from now on.
    Opened,
    /// To `Close`: nothing is written by this process any more.
    Closed,
    /// To any call. In words, with the path.
    Failed(String),
}

/// Takes the answer to a [`StoreCall`], on any thread.
pub type StoreAnswerTo = Box<dyn FnOnce(StoreAnswer) + Send>;

/// The way to a shared store. Calls return at once and are done in order.
pub trait StoreDoor: Send + Sync {
    /// One call; its answer goes to `answer_to`.
    fn call(&self, call: StoreCall, answer_to: StoreAnswerTo);
}
