//! Each rule is there for something: without it the search finds what comes of that.

use twinmq::machines::ha::Takeover;

use super::budget::{Begin, Budget};
use super::rules::{Rule, Rules, Words};
use super::search::{HALF_SERVES, LOST, NAMED, Search, TWO_SERVE};

/// With the rule nothing of the kind is found, without it the shortest way is shown.
fn breaks(property: &'static str, rule: Rule, budget: Budget) {
    for takeover in [Takeover::Fence, Takeover::Lock] {
        breaks_by(takeover, property, rule, budget);
    }
}

#[expect(clippy::print_stdout, reason = "the trace is the result")]
fn breaks_by(takeover: Takeover, property: &'static str, rule: Rule, budget: Budget) {
    let rules = Rules {
        // The lock file's words are a second line behind the stores' identities.
        words: Words::None,
        ..Rules::of(takeover)
    };
    let search = |rules| Search::new(Begin::Formed, budget, rules).only(property);
    let found = search(rules).violation();
    assert!(found.is_none(), "with {rule:?}: {found:?}");
    let without = Rules {
        without: Some(rule),
        ..rules
    };
    match search(without).violation() {
        Some((_, path)) => println!("by {takeover:?} without {rule:?}, {property}: {path}"),
        None => panic!("without {rule:?} nothing is found against {property}"),
    }
}

#[test]
fn without_r1_a_stale_copy_serves() {
    let budget = Budget {
        writes: 1,
        crashes: 2,
        ..Budget::NONE
    };
    breaks(LOST, Rule::R1, budget);
}

#[test]
fn without_r2_a_lone_confirm_is_lost() {
    let budget = Budget {
        writes: 1,
        cuts: 1,
        ..Budget::NONE
    };
    breaks(NAMED, Rule::R2, budget);
}

#[test]
fn without_r5_a_lone_confirm_races_the_extension() {
    let budget = Budget {
        writes: 1,
        crashes: 1,
        ..Budget::NONE
    };
    breaks(NAMED, Rule::R5, budget);
}

#[test]
fn without_r6_two_serve() {
    let budget = Budget {
        pauses: 1,
        lost_locks: 1,
        ..Budget::NONE
    };
    breaks(TWO_SERVE, Rule::R6, budget);
}

#[test]
fn without_r6_a_fence_does_not_keep_two_apart() {
    let budget = Budget {
        pauses: 1,
        ..Budget::NONE
    };
    breaks_by(Takeover::Fence, TWO_SERVE, Rule::R6, budget);
}

#[test]
fn without_r8_the_record_is_overwritten() {
    let budget = Budget {
        writes: 1,
        cuts: 1,
        lost_locks: 1,
        ..Budget::NONE
    };
    breaks(NAMED, Rule::R8, budget);
}

#[test]
fn without_session_ids_an_old_report_counts() {
    let budget = Budget {
        writes: 1,
        crashes: 1,
        cuts: 1,
        delays: 1,
        ..Budget::NONE
    };
    breaks(NAMED, Rule::Sessions, budget);
}

#[test]
fn without_store_ids_a_new_disk_serves() {
    let budget = Budget {
        writes: 1,
        crashes: 2,
        wipes: 1,
        ..Budget::NONE
    };
    breaks(LOST, Rule::Stores, budget);
}

#[test]
fn under_an_override_without_r4_half_a_copy_serves() {
    let budget = Budget {
        writes: 1,
        crashes: 2,
        overrides: 1,
        ..Budget::NONE
    };
    breaks(HALF_SERVES, Rule::R4, budget);
}

/// With R1 and sessions, these two are a second line: the search holds without them.
fn holds_without(rule: Rule, budget: Budget) {
    for takeover in [Takeover::Fence, Takeover::Lock] {
        let without = Rules {
            without: Some(rule),
            ..Rules::of(takeover)
        };
        let found = Search::new(Begin::Formed, budget, without).violation();
        assert!(found.is_none(), "without {rule:?}: {found:?}");
    }
}

#[test]
fn r4_is_a_second_line_behind_r1() {
    let budget = Budget {
        writes: 1,
        crashes: 2,
        ..Budget::NONE
    };
    holds_without(Rule::R4, budget);
}

#[test]
fn the_epoch_in_frames_is_a_second_line_behind_the_session() {
    let budget = Budget {
        writes: 1,
        crashes: 1,
        cuts: 1,
        ..Budget::NONE
    };
    holds_without(Rule::R3, budget);
}
