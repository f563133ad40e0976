//! What an operator can do about a refused claim.

use super::Refusal;

impl Refusal {
    /// What an operator can do; `{own}` and `{other}` stand for the two servers' profiles.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => {
                "see to the share that the lock file is on; what is wrong with it: twinmq check -p {own}"
            }
            Self::FirstBootOfSecondary => "start the primary: twinmq run -p {other}",
            Self::PeerRemembers | Self::RecordGone { .. } => {
                "put the folder LockFile.d and the lock file back from where they went, or start both \
                 servers: a linked pair that remembers the same record makes it anew"
            }
            Self::RecordRolledBack { .. } | Self::RecordBehindLog { .. } => {
                "put the newest rec.N back into LockFile.d; with both servers running they compare what \
                 they know: twinmq run -p {other}. If it is gone for good: twinmq promote -p {own}"
            }
            Self::EpochRefused(_) => {
                "see the log of this server, and its disk: twinmq store check -p {own}"
            }
            Self::OtherArbiter => {
                "make ha.lock_file and ha.cluster the same on both servers: twinmq config show -p {own}"
            }
            Self::LockFileMissing => "start the other server too: twinmq run -p {other}",
            Self::SyncInProgress | Self::OlderThanConfirmed => {
                "start the other server, which brings this one into step: twinmq run -p {other}"
            }
            Self::NotInSync { .. } => {
                "start the other server, whose copy has every confirmed message: twinmq run -p {other}. If \
                 that copy is gone for good: twinmq promote -p {own}"
            }
            Self::GatewayUnreachable => {
                "see to this machine's network: ping the gateways of ha.gateway from here"
            }
            Self::LockHeldInSilence { .. } => {
                "end the process that hangs, or power its machine off: this server goes on by itself then"
            }
            Self::LockHeld { .. } => "if the server that holds it hangs, end its process",
            Self::Conflict => "none is needed: it looks again by itself",
            Self::StoreUnreachable(_) | Self::OtherStore { .. } => {
                "see to the mount that the store is on, and compare store.path of both profiles: \
                 twinmq check -p {own}"
            }
            Self::StoreInUse(_) => "end that process: this server goes on by itself then",
            Self::StoreBehind { .. } => {
                "put the newest copy of the store back, then start both servers"
            }
        }
    }
}
