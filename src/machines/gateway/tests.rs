use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

fn machine(targets: &[&str]) -> GatewayMachine {
    GatewayMachine::new(GatewayConfig {
        targets: targets.iter().map(ToString::to_string).collect(),
        interval: SECOND,
        timeout: SECOND / 2,
        misses_max: 2,
    })
}

fn step(machine: &mut GatewayMachine, ms: u64, input: GatewayInput) -> Vec<GatewayEffect> {
    let mut effects = Vec::new();
    machine.step(at(ms), input, &mut effects);
    effects
}

fn probe(probe_id: u64) -> GatewayEffect {
    GatewayEffect::Probe {
        probe_id,
        targets: vec!["gw:7".to_owned()],
        timeout: SECOND / 2,
    }
}

fn nothing(probe_id: u64) -> GatewayInput {
    GatewayInput::ProbeFinished {
        probe_id,
        outcome: ProbeOutcome::NothingReached {
            reason: "gw:7: timed out".to_owned(),
        },
    }
}

fn reached(probe_id: u64) -> GatewayInput {
    GatewayInput::ProbeFinished {
        probe_id,
        outcome: ProbeOutcome::Reached {
            target: "gw:7".to_owned(),
        },
    }
}

#[test]
fn two_misses_make_unreachable_and_one_answer_reachable() {
    let mut machine = machine(&["gw:7"]);
    assert_eq!(step(&mut machine, 0, GatewayInput::Started), [probe(1)]);
    assert_eq!(step(&mut machine, 500, nothing(1)), []);
    assert_eq!(machine.verdict(), GatewayVerdict::Unknown);
    assert_eq!(machine.next_deadline(), Some(at(1000)));
    assert_eq!(step(&mut machine, 1000, GatewayInput::Tick), [probe(2)]);
    assert_eq!(
        step(&mut machine, 1500, nothing(2)),
        [GatewayEffect::Report {
            verdict: GatewayVerdict::Unreachable,
            reason: "2 probes in a row reached nothing: gw:7: timed out".to_owned(),
        }]
    );
    assert_eq!(step(&mut machine, 2000, GatewayInput::Tick), [probe(3)]);
    assert_eq!(
        step(&mut machine, 2001, reached(3)),
        [GatewayEffect::Report {
            verdict: GatewayVerdict::Reachable,
            reason: "gw:7 answers".to_owned(),
        }]
    );
    // One miss alone changes nothing.
    assert_eq!(step(&mut machine, 3000, GatewayInput::Tick), [probe(4)]);
    assert_eq!(step(&mut machine, 3500, nothing(4)), []);
    assert_eq!(machine.verdict(), GatewayVerdict::Reachable);
}

#[test]
fn the_arbiter_counts_as_reached_and_clears_the_misses() {
    let mut machine = machine(&["gw:7"]);
    assert_eq!(step(&mut machine, 0, GatewayInput::Started), [probe(1)]);
    assert_eq!(step(&mut machine, 500, nothing(1)), []);
    assert_eq!(
        step(&mut machine, 600, GatewayInput::ArbiterReached),
        [GatewayEffect::Report {
            verdict: GatewayVerdict::Reachable,
            reason: "the lock file's machine answers".to_owned(),
        }]
    );
    assert_eq!(step(&mut machine, 1000, GatewayInput::Tick), [probe(2)]);
    assert_eq!(step(&mut machine, 1500, nothing(2)), []);
    assert_eq!(machine.verdict(), GatewayVerdict::Reachable);
}

#[test]
fn a_hanging_probe_is_not_asked_again_but_counts_as_missed() {
    let mut machine = machine(&["gw:7"]);
    assert_eq!(step(&mut machine, 0, GatewayInput::Started), [probe(1)]);
    assert_eq!(step(&mut machine, 1500, GatewayInput::Tick), []);
    assert!(matches!(
        step(&mut machine, 2500, GatewayInput::Tick)[..],
        [GatewayEffect::Report {
            verdict: GatewayVerdict::Unreachable,
            ..
        }]
    ));
    // When it does come back, its answer is taken and the next round starts at once.
    assert!(matches!(
        step(&mut machine, 9000, reached(1))[..],
        [
            GatewayEffect::Report {
                verdict: GatewayVerdict::Reachable,
                ..
            },
            GatewayEffect::Probe { probe_id: 2, .. }
        ]
    ));
}

#[test]
fn without_targets_nothing_is_asked_and_the_verdict_stays_unknown() {
    let mut machine = machine(&[]);
    assert_eq!(step(&mut machine, 0, GatewayInput::Started), []);
    assert_eq!(machine.next_deadline(), None);
    assert_eq!(step(&mut machine, 60_000, GatewayInput::Tick), []);
    assert_eq!(machine.verdict(), GatewayVerdict::Unknown);
}

#[test]
fn no_input_in_any_state_panics_and_late_answers_change_nothing() {
    let inputs = [
        GatewayInput::Started,
        GatewayInput::Stopped,
        reached(7),
        nothing(7),
        GatewayInput::ArbiterReached,
        GatewayInput::Tick,
    ];
    let prefixes: [&[GatewayInput]; 3] = [
        &[],
        &[GatewayInput::Started],
        &[GatewayInput::Started, reached(1)],
    ];
    for prefix in prefixes {
        for input in &inputs {
            let mut machine = machine(&["gw:7"]);
            for (index, input) in prefix.iter().enumerate() {
                step(&mut machine, index as u64, input.clone());
            }
            let verdict = machine.verdict();
            step(&mut machine, 100, input.clone());
            if *input == nothing(7) || *input == reached(7) {
                assert_eq!(machine.verdict(), verdict, "{prefix:?} {input:?}");
            }
        }
    }
}
