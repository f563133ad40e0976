//! The pair's shared secret and what is computed with it: the proofs of the HA channel, the MAC of
//! the arbiter's files, the id of a session.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::proto::ids::{Epoch, NodeId, SessionId};

/// A secret that both servers of a pair share, written by `pair init`. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PairSecret(Arc<[u8]>);

impl PairSecret {
    /// Takes the bytes as they are; any length.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for PairSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairSecret(..)")
    }
}

/// What a proof says: this server, in this role, on the connection of these two nonces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofClaim {
    /// The nonce in the hello of the server that proves.
    pub sender_nonce: [u8; 16],
    /// The nonce in the hello of the server that checks.
    pub receiver_nonce: [u8; 16],
    /// Who proves.
    pub sender: NodeId,
    /// It dialled this connection. Without this a proof could be reflected to its maker.
    pub sender_dialled: bool,
}

impl ProofClaim {
    /// The HMAC-SHA-256 under the secret. Without a secret (both ends on loopback) the key is empty:
    /// the proof then shows only that the sender is alive and speaks the protocol.
    #[must_use]
    pub fn prove(&self, secret: Option<&PairSecret>) -> [u8; 32] {
        self.keyed(secret).finalize().into_bytes().into()
    }

    /// Whether `proof` is right; takes the same time for every wrong one.
    #[must_use]
    pub fn holds(&self, secret: Option<&PairSecret>, proof: &[u8; 32]) -> bool {
        self.keyed(secret).verify_slice(proof).is_ok()
    }

    fn keyed(&self, secret: Option<&PairSecret>) -> Hmac<Sha256> {
        let mut mac = keyed(secret.map_or(&[], |secret| &secret.0));
        mac.update(b"twinmq channel proof\0");
        mac.update(&self.sender_nonce);
        mac.update(&self.receiver_nonce);
        mac.update(&self.sender.0);
        mac.update(&[u8::from(self.sender_dialled)]);
        mac
    }
}

/// What a last word says: this server's process, which served in this epoch, has ended. It stays true
/// for ever, since each process claims an epoch of its own: so it needs no nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeathNotice {
    /// The pair's name.
    pub cluster: String,
    /// Whose process.
    pub node: NodeId,
    /// The epoch in which it served.
    pub epoch: Epoch,
}

impl DeathNotice {
    /// The HMAC-SHA-256 under the secret; with an empty key where the pair has none, as a proof.
    #[must_use]
    pub fn prove(&self, secret: Option<&PairSecret>) -> [u8; 32] {
        self.keyed(secret).finalize().into_bytes().into()
    }

    /// Whether `proof` is right; takes the same time for every wrong one.
    #[must_use]
    pub fn holds(&self, secret: Option<&PairSecret>, proof: &[u8; 32]) -> bool {
        self.keyed(secret).verify_slice(proof).is_ok()
    }

    fn keyed(&self, secret: Option<&PairSecret>) -> Hmac<Sha256> {
        let mut mac = keyed(secret.map_or(&[], |secret| &secret.0));
        mac.update(b"twinmq last word\0");
        mac.update(&self.node.0);
        mac.update(&self.epoch.0.to_be_bytes());
        mac.update(self.cluster.as_bytes());
        mac
    }
}

/// The id of the session on the connection of these nonces: both servers compute the same, and no
/// other connection has it.
#[must_use]
pub fn session_id(dialler_nonce: &[u8; 16], acceptor_nonce: &[u8; 16]) -> SessionId {
    let digest = Sha256::new()
        .chain_update(b"twinmq session\0")
        .chain_update(dialler_nonce)
        .chain_update(acceptor_nonce)
        .finalize();
    let mut id = [0u8; 8];
    id.copy_from_slice(&digest[..8]);
    SessionId(u64::from_be_bytes(id))
}

/// The MAC of a file's bytes under the secret; zeros where the pair has none.
#[must_use]
pub fn file_mac(secret: Option<&PairSecret>, bytes: &[u8]) -> [u8; 32] {
    secret.map_or([0; 32], |secret| {
        let mut mac = keyed(&secret.0);
        mac.update(b"twinmq arbiter file\0");
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    })
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> ProofClaim {
        ProofClaim {
            sender_nonce: [1; 16],
            receiver_nonce: [2; 16],
            sender: NodeId([3; 16]),
            sender_dialled: true,
        }
    }

    #[test]
    fn a_proof_holds_for_its_claim_and_secret_only() {
        let secret = PairSecret::new(b"one");
        let proof = claim().prove(Some(&secret));
        assert!(claim().holds(Some(&secret), &proof));
        assert!(!claim().holds(Some(&PairSecret::new(b"two")), &proof));
        assert!(!claim().holds(None, &proof));
        for other in [
            ProofClaim {
                sender_nonce: [9; 16],
                ..claim()
            },
            ProofClaim {
                receiver_nonce: [9; 16],
                ..claim()
            },
            ProofClaim {
                sender: NodeId([9; 16]),
                ..claim()
            },
            ProofClaim {
                sender_dialled: false,
                ..claim()
            },
        ] {
            assert!(!other.holds(Some(&secret), &proof), "{other:?}");
        }
    }

    #[test]
    fn a_last_word_holds_for_one_process_and_secret_only() {
        let secret = PairSecret::new(b"one");
        let notice = DeathNotice {
            cluster: "twinmq".to_owned(),
            node: NodeId([3; 16]),
            epoch: Epoch(4),
        };
        let proof = notice.prove(Some(&secret));
        assert!(notice.holds(Some(&secret), &proof));
        assert!(!notice.holds(None, &proof));
        let (mut other, mut later, mut elsewhere) =
            (notice.clone(), notice.clone(), notice.clone());
        other.node = NodeId([9; 16]);
        later.epoch = Epoch(5);
        elsewhere.cluster = "orders".to_owned();
        for wrong in [other, later, elsewhere] {
            assert!(!wrong.holds(Some(&secret), &proof), "{wrong:?}");
        }
    }

    #[test]
    fn a_session_belongs_to_both_nonces_in_their_roles() {
        let id = session_id(&[1; 16], &[2; 16]);
        assert_eq!(id, session_id(&[1; 16], &[2; 16]));
        assert_ne!(id, session_id(&[2; 16], &[1; 16]));
        assert_ne!(id, session_id(&[1; 16], &[3; 16]));
    }

    #[test]
    fn a_file_mac_is_zeros_only_without_a_secret() {
        assert_eq!(file_mac(None, b"x"), [0; 32]);
        let secret = PairSecret::new(b"one");
        assert_ne!(file_mac(Some(&secret), b"x"), file_mac(Some(&secret), b"y"));
        assert_eq!(format!("{secret:?}"), "PairSecret(..)");
    }
}
