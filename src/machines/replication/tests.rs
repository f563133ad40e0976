//! Exact effects of single phases; pairs of machines and stores are in the modules beside this.

mod follower;
mod leader;
mod pair;
mod random;

use std::time::Duration;

use super::*;

const SESSION: SessionId = SessionId(3);
const EPOCH: Epoch = Epoch(1);

fn machine() -> ReplicationMachine {
    ReplicationMachine::new(ReplicationConfig {
        window_bytes: 100,
        piece_bytes: 50,
        ack_timeout: Duration::from_secs(1),
        resync_bytes_per_s: 0,
        resync_pause_max: Duration::from_secs(10),
    })
}

fn step(machine: &mut ReplicationMachine, input: ReplicationInput) -> Vec<ReplicationEffect> {
    let mut effects = Vec::new();
    machine.step(Moment(0), input, &mut effects);
    effects
}

fn frame(body: Body) -> ReplicationInput {
    ReplicationInput::Frame {
        session: SESSION,
        body,
    }
}

fn request() -> Body {
    Body::SyncRequest {
        epochs: Vec::new(),
        position: Position::default(),
        chain: 0,
        checkpoint: Lsn::ZERO,
    }
}

#[test]
fn a_request_before_the_lead_is_kept_for_its_session_only() {
    for (session, expected) in [
        (SESSION, vec![ReplicationEffect::DescribeLog]),
        (SessionId(4), Vec::new()),
    ] {
        let mut machine = machine();
        assert_eq!(step(&mut machine, frame(request())), []);
        let lead = ReplicationInput::Lead {
            session,
            epoch: EPOCH,
        };
        assert_eq!(step(&mut machine, lead), expected);
    }
}

#[test]
fn frames_of_a_session_that_is_over_do_nothing() {
    let mut machine = machine();
    let follow = ReplicationInput::Follow {
        session: SessionId(4),
        epoch: EPOCH,
    };
    assert_eq!(step(&mut machine, follow), [ReplicationEffect::DescribeLog]);
    let stale = frame(Body::InSync { epoch: EPOCH });
    assert_eq!(step(&mut machine, stale), []);
}

#[test]
fn a_refused_batch_makes_the_next_request_a_full_one() {
    let mut machine = machine();
    let follow = || ReplicationInput::Follow {
        session: SESSION,
        epoch: EPOCH,
    };
    let facts = LogFacts {
        store: StoreId([1; 16]),
        durable: Position {
            epoch: EPOCH,
            lsn: Lsn(9),
        },
        chain: 7,
        epochs: Vec::new(),
        floor: Lsn::ZERO,
        checkpoint: Lsn(2),
        sync_in_progress: false,
    };
    for checkpoint in [Lsn(2), Lsn(u64::MAX), Lsn(2)] {
        assert_eq!(
            step(&mut machine, follow()),
            [ReplicationEffect::DescribeLog]
        );
        let asked = ReplicationEffect::Send {
            session: SESSION,
            body: Body::SyncRequest {
                epochs: Vec::new(),
                position: facts.durable,
                chain: 7,
                checkpoint,
            },
        };
        assert_eq!(
            step(&mut machine, ReplicationInput::Log(facts.clone())),
            [asked]
        );
        if checkpoint == Lsn(2) {
            let refused = ReplicationInput::ReplicaRefused("no".to_owned());
            let failed = ReplicationReport::SyncFailed {
                session: SESSION,
                reason: "no".to_owned(),
            };
            assert_eq!(
                step(&mut machine, refused),
                [ReplicationEffect::Report(failed)]
            );
        }
        if checkpoint == Lsn(u64::MAX) {
            assert_eq!(step(&mut machine, ReplicationInput::Rest), []);
        }
    }
}
