//! From a new connection to the channel: hello, proof, and which connection it is.

use crate::machines::link::channel::{Channel, printable};
use crate::machines::link::{
    ConnId, Dialling, HANDSHAKES_MAX, LinkConfig, LinkDownCause, LinkEffect, LinkMachine,
};
use crate::proto::auth::{DeathNotice, ProofClaim, session_id};
use crate::proto::ids::{Epoch, NodeId, SessionId};
use crate::proto::peer::{FEATURE_CLIENTS, Frame, Hello, PeerFacts};
use crate::time::Moment;

/// What the server that decides says to a connection that is one too many. Not a failure.
const ANOTHER_IS_UP: &str = "another channel is up";

/// A connection that is not the channel (yet).
#[derive(Clone, Debug)]
pub(super) struct Handshake {
    pub(super) conn: ConnId,
    /// This server dialled it.
    pub(super) dialled: bool,
    pub(super) deadline: Moment,
    /// This server's, in its hello.
    nonce: [u8; 16],
    stage: Stage,
}

/// What is awaited from the peer.
#[derive(Clone, Debug)]
enum Stage {
    /// Own hello sent.
    Hello,
    /// Own proof sent.
    Proof(Box<Hello>),
    /// The peer is who it says, and decides.
    Welcome(Box<Hello>),
}

impl Handshake {
    /// The session, if this becomes the channel.
    fn session(&self, peer: &Hello) -> SessionId {
        if self.dialled {
            session_id(&self.nonce, &peer.nonce)
        } else {
            session_id(&peer.nonce, &self.nonce)
        }
    }
}

impl LinkMachine {
    /// Says hello on a new connection.
    pub(super) fn open(
        &mut self,
        now: Moment,
        conn: ConnId,
        nonce: [u8; 16],
        dialled: bool,
        effects: &mut Vec<LinkEffect>,
    ) {
        let mut span = self.config.initialization_timeout;
        if dialled {
            // The timeout protects the side that accepts. Whoever dialled into a network that then
            // went away had better dial again soon.
            span = span.min(self.config.ping_interval.saturating_mul(4));
        }
        self.handshakes.push(Handshake {
            conn,
            dialled,
            deadline: now.after(span),
            nonce,
            stage: Stage::Hello,
        });
        effects.push(LinkEffect::Send {
            conn,
            frame: Frame::Hello(Box::new(Hello {
                versions: self.config.versions,
                features: FEATURE_CLIENTS,
                cluster: self.config.cluster.clone(),
                node: self.config.node,
                primary: self.config.primary,
                name: self.config.name.clone(),
                nonce,
                must_agree: self.config.must_agree.clone(),
                facts: self.facts.clone(),
            })),
        });
    }

    /// Whoever connects often without a word cannot keep the peer out.
    pub(super) fn make_room(&mut self, effects: &mut Vec<LinkEffect>) {
        if self.handshakes.len() >= HANDSHAKES_MAX
            && let Some(index) = self.handshakes.iter().position(|it| !it.dialled)
        {
            let conn = self.handshakes.remove(index).conn;
            effects.push(LinkEffect::Close { conn });
        }
    }

    pub(super) fn expire_handshakes(&mut self, now: Moment, effects: &mut Vec<LinkEffect>) {
        while let Some(index) = self.handshakes.iter().position(|it| it.deadline <= now) {
            let handshake = self.handshakes.remove(index);
            let missing = match handshake.stage {
                Stage::Hello => "no hello came in time",
                Stage::Proof(_) => "no proof of the pair secret came in time",
                Stage::Welcome(_) => "no welcome came in time",
            };
            self.give_up(&handshake, missing.to_owned(), effects);
        }
    }

    /// `handshake` is out of the list; it goes back if it is not over.
    pub(super) fn handshake_frame(
        &mut self,
        now: Moment,
        mut handshake: Handshake,
        frame: Frame,
        effects: &mut Vec<LinkEffect>,
    ) {
        match (handshake.stage, frame) {
            (Stage::Hello, Frame::Hello(hello)) => {
                handshake.stage = Stage::Hello;
                self.hello_received(handshake, hello, effects);
            }
            (Stage::Proof(hello), Frame::Proof(proof)) => {
                handshake.stage = Stage::Hello;
                self.proof_received(now, handshake, hello, &proof, effects);
            }
            (Stage::Welcome(hello), Frame::Welcome(session)) => {
                handshake.stage = Stage::Hello;
                if session == handshake.session(&hello) {
                    self.establish(now, &handshake, hello, effects);
                } else {
                    let reason = "the peer welcomed another session".to_owned();
                    self.give_up(&handshake, reason, effects);
                }
            }
            (Stage::Hello | Stage::Proof(_) | Stage::Welcome(_), Frame::Refuse(reason)) => {
                let conn = handshake.conn;
                effects.push(LinkEffect::Close { conn });
                if reason != ANOTHER_IS_UP {
                    let reason = format!("the peer refuses: {}", printable(&reason));
                    self.not_linked(reason, effects);
                }
            }
            (Stage::Hello, Frame::LastWord { node, epoch, proof }) => {
                handshake.stage = Stage::Hello;
                self.last_word(&handshake, node, epoch, &proof, effects);
            }
            (
                stage @ (Stage::Hello | Stage::Proof(_) | Stage::Welcome(_)),
                Frame::Hello(_)
                | Frame::Proof(_)
                | Frame::Welcome(_)
                | Frame::Session(..)
                | Frame::LastWord { .. },
            ) => {
                handshake.stage = stage;
                let reason = "the other side does not keep to the handshake".to_owned();
                self.give_up(&handshake, reason, effects);
            }
        }
    }

    /// Not from the peer's process but from its watchdog, after the process has ended.
    fn last_word(
        &mut self,
        handshake: &Handshake,
        node: NodeId,
        epoch: Epoch,
        proof: &[u8; 32],
        effects: &mut Vec<LinkEffect>,
    ) {
        let notice = DeathNotice {
            cluster: self.config.cluster.clone(),
            node,
            epoch,
        };
        if node == self.config.node || !notice.holds(self.config.secret.as_ref(), proof) {
            let reason = "a last word came that is not this pair's".to_owned();
            self.give_up(handshake, reason, effects);
            return;
        }
        let conn = handshake.conn;
        effects.push(LinkEffect::Close { conn });
        effects.push(LinkEffect::PeerDied { node, epoch });
    }

    fn hello_received(
        &mut self,
        mut handshake: Handshake,
        hello: Box<Hello>,
        effects: &mut Vec<LinkEffect>,
    ) {
        if hello.nonce == handshake.nonce {
            let reason = "what was said comes back: something echoes there".to_owned();
            self.give_up(&handshake, reason, effects);
            return;
        }
        if self.handshakes.iter().any(|it| it.nonce == hello.nonce) {
            let address = &self.config.peer_address;
            let reason = format!("{address} is this server itself: set the other server's address");
            self.mismatch(&handshake, &hello, reason, effects);
            return;
        }
        let claim = ProofClaim {
            sender_nonce: handshake.nonce,
            receiver_nonce: hello.nonce,
            sender: self.config.node,
            sender_dialled: handshake.dialled,
        };
        effects.push(LinkEffect::Send {
            conn: handshake.conn,
            frame: Frame::Proof(claim.prove(self.config.secret.as_ref())),
        });
        handshake.stage = Stage::Proof(hello);
        self.handshakes.push(handshake);
    }

    /// Only now is the hello believed: a stranger's must stop nobody.
    fn proof_received(
        &mut self,
        now: Moment,
        mut handshake: Handshake,
        hello: Box<Hello>,
        proof: &[u8; 32],
        effects: &mut Vec<LinkEffect>,
    ) {
        let claim = ProofClaim {
            sender_nonce: hello.nonce,
            receiver_nonce: handshake.nonce,
            sender: hello.node,
            sender_dialled: !handshake.dialled,
        };
        if !claim.holds(self.config.secret.as_ref(), proof) {
            let reason = "the pair secrets differ".to_owned();
            self.give_up(&handshake, reason, effects);
            return;
        }
        let differences = differences(&self.config, &self.facts, &hello);
        if !differences.is_empty() {
            let reason = differences.join("\n");
            self.mismatch(&handshake, &hello, reason, effects);
        } else if !self.decides(&hello) {
            handshake.stage = Stage::Welcome(hello);
            self.handshakes.push(handshake);
        } else if self
            .channel
            .as_ref()
            .is_some_and(|channel| !channel.is_doubtful(now))
        {
            self.give_up(&handshake, ANOTHER_IS_UP.to_owned(), effects);
        } else {
            self.establish(now, &handshake, hello, effects);
        }
    }

    fn decides(&self, peer: &Hello) -> bool {
        (self.config.primary, self.config.node) > (peer.primary, peer.node)
    }

    fn establish(
        &mut self,
        now: Moment,
        handshake: &Handshake,
        hello: Box<Hello>,
        effects: &mut Vec<LinkEffect>,
    ) {
        self.end_channel(now, LinkDownCause::Replaced, effects);
        let (session, conn) = (handshake.session(&hello), handshake.conn);
        if self.decides(&hello) {
            effects.push(LinkEffect::Send {
                conn,
                frame: Frame::Welcome(session),
            });
        }
        self.said.clear();
        let mut channel = Channel::new(
            now,
            (session, conn),
            (self.config.ping_interval, self.config.ping_misses),
            self.facts.clone(),
            hello.facts.clone(),
        );
        effects.push(LinkEffect::LinkUp {
            session,
            conn,
            hello,
        });
        // The facts in the hello may be of before: the first ping brings today's.
        channel.ping_if_due(now, &self.facts, effects);
        self.channel = Some(channel);
    }

    fn mismatch(
        &mut self,
        handshake: &Handshake,
        hello: &Hello,
        reason: String,
        effects: &mut Vec<LinkEffect>,
    ) {
        effects.push(LinkEffect::Send {
            conn: handshake.conn,
            // The peer compares by itself; this is for one that cannot.
            frame: Frame::Refuse(reason.replace('\n', "; ")),
        });
        effects.push(LinkEffect::Close {
            conn: handshake.conn,
        });
        effects.push(LinkEffect::Mismatch {
            reason,
            peer_serving: hello.facts.state.serves(),
        });
        // It will not heal by itself within a moment.
        if let Dialling::Waiting { next_at } = &mut self.dialling {
            *next_at = (*next_at).max(
                self.last_step
                    .after(self.config.ping_interval.saturating_mul(10)),
            );
        }
    }

    fn give_up(&mut self, handshake: &Handshake, reason: String, effects: &mut Vec<LinkEffect>) {
        effects.push(LinkEffect::Send {
            conn: handshake.conn,
            frame: Frame::Refuse(reason.clone()),
        });
        effects.push(LinkEffect::Close {
            conn: handshake.conn,
        });
        if reason != ANOTHER_IS_UP {
            self.not_linked(reason, effects);
        }
    }
}

/// Why the two cannot be a pair, each in words. Empty: they can.
fn differences(config: &LinkConfig, facts: &PeerFacts, peer: &Hello) -> Vec<String> {
    let mut found = Vec::new();
    if peer.node == config.node {
        found.push(format!(
            "both servers have the identity {}: was one's data directory copied from the other?",
            config.node
        ));
    }
    let (low, high) = config.versions;
    if peer.versions.1 < low || high < peer.versions.0 {
        found.push(format!(
            "this server speaks versions {low} to {high} of the protocol, the peer {} to {}",
            peer.versions.0, peer.versions.1
        ));
    }
    if peer.cluster != config.cluster {
        found.push(differs(
            "cluster",
            Some(&config.cluster),
            Some(&peer.cluster),
        ));
    }
    for value in unequal(&config.must_agree, &peer.must_agree) {
        found.push(differs(
            &value.key,
            value.own.as_deref(),
            value.theirs.as_deref(),
        ));
    }
    if let (Some(own), Some(theirs)) = (facts.arbiter, peer.facts.arbiter)
        && own != theirs
    {
        found.push(format!(
            "the stores belong to different arbiters: here {own}, on the peer {theirs}"
        ));
    }
    // Two that remember different records may have looked at different generations of one lock file:
    // a server that was fenced comes back so.
    if let (Some(own), Some(theirs)) = (&facts.lock, &peer.facts.lock)
        && facts.last_record == peer.facts.last_record
        && own.nonce != theirs.nonce
    {
        found.push(format!(
            "the servers use different lock files (identity here {}, on the peer {}): \
             let lock_file name the same file on both",
            own.nonce, theirs.nonce
        ));
    }
    found
}

/// A value that must be equal on both servers, and is not. Fit for a log and a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unequal {
    /// Its key.
    pub key: String,
    /// This server's; none: it does not know the key.
    pub own: Option<String>,
    /// The other's.
    pub theirs: Option<String>,
}

/// What is not equal in both lists of keys and values: own keys first, each list in its order.
#[must_use]
pub fn unequal(own: &[(String, String)], theirs: &[(String, String)]) -> Vec<Unequal> {
    fn value<'a>(list: &'a [(String, String)], key: &str) -> Option<&'a str> {
        let found = list.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| &**value)
    }
    let foreign = theirs
        .iter()
        .filter(|(key, _)| !own.iter().any(|(name, _)| name == key));
    own.iter()
        .chain(foreign)
        .map(|(key, _)| (key, value(own, key), value(theirs, key)))
        .filter(|(_, own, theirs)| own != theirs)
        .map(|(key, own, theirs)| Unequal {
            key: printable(key),
            own: own.map(printable),
            theirs: theirs.map(printable),
        })
        .collect()
}

fn differs(key: &str, own: Option<&str>, theirs: Option<&str>) -> String {
    let show = |value: Option<&str>| value.map_or_else(|| "not set".to_owned(), printable);
    // As a diff of the two profiles.
    format!(
        "{key} differs:\n- {} (this server)\n+ {} (the peer)",
        show(own),
        show(theirs)
    )
}
