use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn decoded(run: &Run) -> Run {
    let mut bytes = Vec::new();
    run.encode(&mut bytes);
    let mut from = Reader {
        bytes: &bytes,
        at: 0,
    };
    let run = Run::decode(run.number, &mut from).unwrap();
    assert_eq!(from.at, bytes.len());
    run
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn runs_hold_what_a_set_of_lsns_holds(
        gaps in prop::collection::vec(prop_oneof![9 => 1u64..4, 1 => 1u64..9000], 1..1500),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..1500),
        after in any::<prop::sample::Index>(),
    ) {
        let (mut runs, mut all) = (Runs::default(), BTreeSet::new());
        let mut lsn = 0;
        for gap in gaps {
            lsn += gap;
            runs.push(Lsn(lsn), None, 10);
            all.insert(Lsn(lsn));
        }
        let every: Vec<Lsn> = all.iter().copied().collect();
        for pick in gone {
            let lsn = every[pick.index(every.len())];
            prop_assert_eq!(runs.contains(lsn), all.contains(&lsn));
            prop_assert_eq!(runs.remove(lsn, |_| panic!("nothing is stored")), all.remove(&lsn));
        }
        prop_assert_eq!(runs.len(), all.len() as u64);
        prop_assert!(runs.lsns().eq(all.iter().copied()));
        prop_assert_eq!(runs.last(), all.last().copied().unwrap_or_default());
        let after = every[after.index(every.len())];
        let mut found = Vec::new();
        for run in runs.runs_from(run_of(after)) {
            let mut bits = [0; WORDS];
            run.add_to(&mut bits);
            prop_assert!(put_lsns(run.number, &bits, after, usize::MAX, &mut found));
            prop_assert!(decoded(run).lsns().eq(run.lsns()));
        }
        prop_assert!(found.into_iter().eq(all.range(after.next()..).copied()));
    }
}

#[test]
fn a_run_that_goes_is_named_once_it_has_a_page() {
    let mut runs = Runs::default();
    runs.push(Lsn(5), None, 10);
    assert!(runs.remove(Lsn(5), |_| panic!("it has no page")));
    runs.push(Lsn(6), Some(70), 10);
    runs.push(Lsn(RUN_LSNS + 1), Some(50), 10);
    assert_eq!(runs.expiry(), Some(50));
    let dirty: Vec<u64> = runs.take_dirty().map(|run| run.number).collect();
    assert_eq!(dirty, [0, 1]);
    assert_eq!(runs.take_dirty().count(), 0);
    let mut gone = Vec::new();
    assert!(runs.remove(Lsn(6), |number| gone.push(number)));
    assert_eq!((gone, runs.len()), (vec![0], 1));
    assert!(!runs.remove(Lsn(6), |_| panic!("it is gone")));
}

#[test]
fn a_bound_rises_only_for_what_was_read() {
    let mut runs = Runs::default();
    runs.push(Lsn(1), Some(10), 10);
    runs.push(Lsn(2), Some(90), 10);
    runs.remove(Lsn(1), |_| ());
    assert_eq!(runs.expiry(), Some(10), "a lower bound");
    runs.tighten(0, Lsn(1), Some(90));
    assert_eq!(runs.expiry(), Some(10), "the second one was not read");
    runs.tighten(0, Lsn(2), Some(90));
    assert_eq!(runs.expiry(), Some(90));
}

#[test]
fn bytes_that_are_no_run_are_refused() {
    for bytes in [
        &[][..],
        &[0, 0, 0],
        &[0, 0, 1, 0x80, 0x20],
        &[0, 7],
        &[0, 1, 5],
        &[0, 0, 200, 1, 1],
    ] {
        let mut from = Reader { bytes, at: 0 };
        assert!(Run::decode(3, &mut from).is_err(), "{bytes:?}");
    }
    let mut zeros = vec![0, 1];
    zeros.extend([0; 512]);
    let mut from = Reader {
        bytes: &zeros,
        at: 0,
    };
    assert!(Run::decode(3, &mut from).is_err());
}
