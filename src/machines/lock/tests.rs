use super::*;
use crate::proto::ids::{ArbiterId, Nonce, RecordSeq};

const NODE: NodeId = NodeId([1; 16]);

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

fn machine() -> LockMachine {
    LockMachine::new(LockConfig::new(
        NODE,
        Duration::from_millis(500),
        Duration::from_millis(1000),
    ))
}

fn step(machine: &mut LockMachine, ms: u64, input: LockInput) -> Vec<LockEffect> {
    let mut effects = Vec::new();
    machine.step(at(ms), input, &mut effects);
    effects
}

fn command(command: LockCommand) -> LockInput {
    LockInput::Command(command)
}

fn answer(id: u64, answer: ArbiterAnswer) -> LockInput {
    LockInput::Answered { id, answer }
}

fn refused(id: u64) -> LockInput {
    answer(id, ArbiterAnswer::Refused { holder: None })
}

fn try_lock(id: u64) -> LockEffect {
    LockEffect::Call {
        id,
        call: ArbiterCall::TryLock,
    }
}

fn check(id: u64, counter: u64, epoch: u64) -> LockEffect {
    LockEffect::Call {
        id,
        call: ArbiterCall::Check(LockHeartbeat {
            owner: NODE,
            epoch: Epoch(epoch),
            seq: RecordSeq::ZERO,
            counter,
            positions: Vec::new(),
        }),
    }
}

fn report(report: LockReport) -> LockEffect {
    LockEffect::Report(report)
}

fn facts(counter: u64) -> LockFacts {
    LockFacts {
        nonce: Nonce([7; 16]),
        device: 1,
        inode: 2,
        local: true,
        last: Some(LockHeartbeat {
            owner: NodeId([2; 16]),
            epoch: Epoch(3),
            seq: RecordSeq::ZERO,
            counter,
            positions: Vec::new(),
        }),
    }
}

fn locked(id: u64) -> LockInput {
    answer(
        id,
        ArbiterAnswer::Locked {
            lock: facts(41),
            record: None,
        },
    )
}

fn record() -> ArbiterRecord {
    ArbiterRecord {
        arbiter: ArbiterId([1; 16]),
        cluster: "pair".to_owned(),
        seq: RecordSeq(4),
        epoch: Epoch(3),
        owner: NODE,
        isr: vec![StoreId([1; 16])],
        generation: Epoch::ZERO,
    }
}

fn held() -> LockMachine {
    let mut machine = machine();
    assert_eq!(
        step(
            &mut machine,
            0,
            command(LockCommand::Acquire(LockPace::Waiting))
        ),
        [try_lock(1)]
    );
    assert_eq!(
        step(&mut machine, 3, locked(1)),
        [report(LockReport::Acquired {
            lock: facts(41),
            record: None,
            sent_at: at(0),
        })]
    );
    machine
}

#[test]
fn attempts_fall_on_multiples_of_half_the_ping_interval() {
    let mut machine = machine();
    assert_eq!(
        step(
            &mut machine,
            100,
            command(LockCommand::Acquire(LockPace::Waiting))
        ),
        [try_lock(1)]
    );
    assert_eq!(
        machine.next_deadline(),
        Some(at(1100)),
        "the overdue notice"
    );
    assert_eq!(
        step(&mut machine, 110, refused(1)),
        [report(LockReport::Refused { holder: None })]
    );
    assert_eq!(machine.next_deadline(), Some(at(350)));
    assert_eq!(step(&mut machine, 349, LockInput::Tick), []);
    assert_eq!(step(&mut machine, 350, LockInput::Tick), [try_lock(2)]);
    // An answer that took long skips the multiples that it missed.
    step(&mut machine, 1000, refused(2));
    assert_eq!(machine.next_deadline(), Some(at(1100)));
}

#[test]
fn after_an_ended_channel_attempts_follow_fast_and_then_fall_back() {
    let mut machine = machine();
    step(
        &mut machine,
        0,
        command(LockCommand::Acquire(LockPace::AfterEnd)),
    );
    step(&mut machine, 1, refused(1));
    assert_eq!(machine.next_deadline(), Some(at(16)));
    assert_eq!(step(&mut machine, 16, LockInput::Tick), [try_lock(2)]);
    step(&mut machine, 1000, refused(2));
    assert_eq!(machine.next_deadline(), Some(at(1250)));
}

#[test]
fn a_lock_lost_under_a_live_channel_is_tried_at_the_active_interval() {
    let mut machine = machine();
    step(
        &mut machine,
        0,
        command(LockCommand::Acquire(LockPace::Reacquire)),
    );
    step(&mut machine, 1, refused(1));
    assert_eq!(machine.next_deadline(), Some(at(1000)));
    // The channel ends meanwhile: at once.
    assert_eq!(
        step(
            &mut machine,
            400,
            command(LockCommand::Acquire(LockPace::AfterEnd))
        ),
        [try_lock(2)]
    );
}

#[test]
fn a_held_lock_is_checked_and_carries_when_the_check_was_sent() {
    let mut machine = held();
    assert!(machine.is_held());
    assert_eq!(machine.next_deadline(), Some(at(1000)));
    step(
        &mut machine,
        10,
        command(LockCommand::Heartbeat {
            epoch: Epoch(4),
            seq: RecordSeq::ZERO,
            positions: Vec::new(),
        }),
    );
    // The counter goes on from the last holder's.
    assert_eq!(step(&mut machine, 1001, LockInput::Tick), [check(2, 42, 4)]);
    assert_eq!(
        step(
            &mut machine,
            1400,
            answer(
                2,
                ArbiterAnswer::Held {
                    record: Some(record())
                }
            )
        ),
        [report(LockReport::Confirmed {
            sent_at: at(1001),
            record: Some(record()),
        })]
    );
    assert_eq!(machine.next_deadline(), Some(at(2001)));
    assert_eq!(step(&mut machine, 2001, LockInput::Tick), [check(3, 43, 4)]);
    assert_eq!(
        step(
            &mut machine,
            2002,
            answer(3, ArbiterAnswer::Lost("replaced".to_owned()))
        ),
        [report(LockReport::Lost {
            reason: "replaced".to_owned()
        })]
    );
    assert!(!machine.is_held());
    assert_eq!(machine.next_deadline(), None);
    // What is left of it is kept from others until whoever served by it is done.
    assert_eq!(
        step(&mut machine, 2003, command(LockCommand::Release)),
        [LockEffect::Call {
            id: 4,
            call: ArbiterCall::Unlock
        }]
    );
    assert_eq!(
        step(&mut machine, 2004, answer(4, ArbiterAnswer::Unlocked)),
        [report(LockReport::Released)]
    );
}

#[test]
fn a_check_without_an_answer_is_said_once_and_nothing_is_queued_behind_it() {
    let mut machine = held();
    step(&mut machine, 1000, LockInput::Tick);
    assert_eq!(
        step(&mut machine, 2000, LockInput::Tick),
        [report(LockReport::Unreachable {
            reason: "the lock file has not answered for 1000 ms".to_owned()
        })]
    );
    assert_eq!(step(&mut machine, 60_000, LockInput::Tick), []);
    assert_eq!(machine.next_deadline(), None);
    // It confirms only what it was sent for: an old moment.
    assert_eq!(
        step(
            &mut machine,
            60_001,
            answer(2, ArbiterAnswer::Held { record: None })
        ),
        [
            report(LockReport::Confirmed {
                sent_at: at(1000),
                record: None
            }),
            check(3, 43, 3),
        ]
    );
}

#[test]
fn a_failed_check_is_repeated_and_does_not_end_the_lock() {
    let mut machine = held();
    step(&mut machine, 1000, LockInput::Tick);
    assert_eq!(
        step(
            &mut machine,
            1010,
            answer(2, ArbiterAnswer::Failed("disk full".to_owned()))
        ),
        [report(LockReport::Unreachable {
            reason: "disk full".to_owned()
        })]
    );
    assert!(machine.is_held());
    assert_eq!(machine.next_deadline(), Some(at(1260)));
}

#[test]
fn a_release_during_an_attempt_unlocks_behind_it_and_ignores_its_late_success() {
    let mut machine = machine();
    step(
        &mut machine,
        0,
        command(LockCommand::Acquire(LockPace::Waiting)),
    );
    let unlock = |id| LockEffect::Call {
        id,
        call: ArbiterCall::Unlock,
    };
    assert_eq!(
        step(&mut machine, 1, command(LockCommand::Release)),
        [unlock(2)]
    );
    assert_eq!(step(&mut machine, 2, locked(1)), []);
    assert!(!machine.is_held());
    assert_eq!(
        step(&mut machine, 3, answer(2, ArbiterAnswer::Unlocked)),
        [report(LockReport::Released)]
    );
    assert_eq!(
        step(&mut machine, 4, command(LockCommand::Release)),
        [report(LockReport::Released)]
    );
    assert_eq!(machine.next_deadline(), None);
}

#[test]
fn asks_pass_beside_the_lock_in_any_state() {
    let mut machine = held();
    assert_eq!(
        step(
            &mut machine,
            10,
            command(LockCommand::Ask {
                ticket: 9,
                call: RecordCall::CompareAndSet(record()),
            })
        ),
        [LockEffect::Call {
            id: 2,
            call: ArbiterCall::CompareAndSet(record()),
        }]
    );
    step(&mut machine, 1000, LockInput::Tick);
    assert_eq!(
        step(&mut machine, 1001, answer(2, ArbiterAnswer::Set(record()))),
        [report(LockReport::Answered {
            ticket: 9,
            answer: ArbiterAnswer::Set(record()),
        })]
    );
}

#[test]
fn no_input_in_any_state_panics() {
    let answers = || {
        [
            ArbiterAnswer::Read {
                record: None,
                lock: None,
            },
            ArbiterAnswer::Created(record()),
            ArbiterAnswer::Locked {
                lock: facts(0),
                record: None,
            },
            ArbiterAnswer::Refused { holder: None },
            ArbiterAnswer::Unlocked,
            ArbiterAnswer::Held { record: None },
            ArbiterAnswer::Lost(String::new()),
            ArbiterAnswer::Set(record()),
            ArbiterAnswer::Conflict(None),
            ArbiterAnswer::Failed(String::new()),
        ]
    };
    let commands = [
        LockCommand::Acquire(LockPace::AfterEnd),
        LockCommand::Acquire(LockPace::Waiting),
        LockCommand::Acquire(LockPace::Reacquire),
        LockCommand::Release,
        LockCommand::Ask {
            ticket: 1,
            call: RecordCall::Read,
        },
    ];
    let prefixes: [&[LockInput]; 5] = [
        &[],
        &[command(LockCommand::Acquire(LockPace::Waiting))],
        &[command(LockCommand::Acquire(LockPace::Waiting)), locked(1)],
        &[
            command(LockCommand::Acquire(LockPace::Waiting)),
            command(LockCommand::Release),
        ],
        &[command(LockCommand::Acquire(LockPace::Waiting)), refused(1)],
    ];
    for prefix in prefixes {
        let inputs = commands
            .iter()
            .cloned()
            .map(command)
            .chain(
                [1, 2, 3]
                    .into_iter()
                    .flat_map(|id| answers().map(|it| answer(id, it))),
            )
            .chain([LockInput::Tick]);
        for input in inputs {
            let mut machine = machine();
            for (index, input) in prefix.iter().enumerate() {
                step(&mut machine, index as u64, input.clone());
            }
            step(&mut machine, 5000, input.clone());
            for tick in 6..20 {
                let calls = step(&mut machine, tick * 1000, LockInput::Tick)
                    .iter()
                    .filter(|effect| matches!(effect, LockEffect::Call { .. }))
                    .count();
                assert!(calls <= 1, "{prefix:?} {input:?}");
            }
        }
    }
}
