//! Stragglers that are parts of bodies, or lie beside them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::proto::ids::Lsn;
use crate::proto::message::{self, Envelope, MessageWriter, Parts, Properties};
use crate::storage::api::*;

use super::relog::{SLACK, acknowledge, assert_sound, open, settle};
use super::resync::full_copy;
use super::rig::*;
use super::{assert_same, catch_up, media};

/// Parts are small here, so that many fill a chunk.
const PART: usize = 900;

fn part_of(lsn: Lsn) -> Bytes {
    let mut part = lsn.0.to_be_bytes().to_vec();
    part.resize(PART, u8::try_from(lsn.0 % 251).unwrap());
    Bytes::from(part)
}

/// Messages of three parts each, in lots of ten whose parts are mixed.
fn send(rig: &Rig, targets: &[u32], lots: u64, upload: &mut u64) {
    rig.flush();
    for _ in 0..lots {
        let first = rig.end().next();
        let mut records = Vec::new();
        let mut bodies = vec![Parts::default(); 10];
        for at in 0..30u64 {
            let lsn = Lsn(first.0 + at);
            let place = usize::try_from(at % 10).unwrap();
            assert!(bodies[place].push(lsn, PART));
            records.push(Draft::Part {
                upload: *upload + at % 10,
                bytes: part_of(lsn),
            });
        }
        for parts in &bodies {
            let writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 0);
            records.push(put(targets, writer.finish_in_parts(parts).unwrap()));
        }
        records.extend((*upload..*upload + 10).map(Draft::UploadEnded));
        *upload += 10;
        rig.store.submit(vec![unit(0, records)]);
        rig.flush();
    }
}

/// The parts of each message that is owed.
fn parts(rig: &Rig, dest: u32) -> BTreeMap<u64, Vec<Lsn>> {
    let owed = rig.owed(dest).into_iter();
    owed.map(|(lsn, head)| (lsn, message::parts(&head).unwrap().lsns().collect()))
        .collect()
}

fn assert_whole(rig: &Rig, dest: u32) {
    for lsns in parts(rig, dest).values() {
        let expected: Vec<Bytes> = lsns.iter().copied().map(part_of).collect();
        assert_eq!(rig.read_parts(lsns), expected);
    }
}

fn live(rig: &Rig) -> u64 {
    rig.owed(1)
        .iter()
        .map(|(_, head)| message::whole_bytes(head) + head.len() as u64)
        .sum()
}

#[test]
fn one_body_of_fifty_is_left_and_the_log_shrinks() {
    let (_a, _b, media) = media();
    for medium in media {
        let mut rig = open(&medium);
        rig.serve(1);
        rig.store.submit(vec![unit(0, vec![define(1)])]);
        send(&rig, &[1], 100, &mut 0);
        acknowledge(&rig, 1, |place| place % 50 == 7);
        let left = parts(&rig, 1);
        assert_eq!(left.len(), 20);
        settle(&rig, 2 * live(&rig) + SLACK);
        for epoch in 2..4 {
            assert_eq!(parts(&rig, 1), left);
            assert_whole(&rig, 1);
            rig.store.close();
            drop(rig);
            assert_sound(&medium);
            rig = open(&medium);
            rig.serve(epoch);
        }
        acknowledge(&rig, 1, |_| false);
        assert_eq!(rig.store.facts().messages, 0);
        settle(&rig, SLACK);
    }
}

#[test]
fn parts_of_an_open_upload_are_brought_too_and_its_message_may_still_come() {
    let rig = open(&memory(1));
    rig.serve(1);
    rig.store.submit(vec![unit(0, vec![define(1)])]);
    let mut uploads = 0;
    send(&rig, &[1], 10, &mut uploads);
    let open_one = 1 << 40;
    let mut body = Parts::default();
    for _ in 0..20 {
        let lsn = rig.end().next();
        assert!(body.push(lsn, PART));
        let bytes = part_of(lsn);
        rig.store.submit(vec![unit(
            0,
            vec![Draft::Part {
                upload: open_one,
                bytes,
            }],
        )]);
        rig.flush();
        send(&rig, &[1], 4, &mut uploads);
    }
    acknowledge(&rig, 1, |_| false);
    let end = rig.end();
    settle(&rig, SLACK);
    assert!(rig.end() > end, "nothing was moved");
    let writer = MessageWriter::new(&Envelope::default(), &Properties::default(), 0);
    let head = writer.finish_in_parts(&body).unwrap();
    rig.store.submit(vec![unit(
        0,
        vec![put(&[1], head), Draft::UploadEnded(open_one)],
    )]);
    rig.flush();
    assert_eq!(parts(&rig, 1).len(), 1);
    assert_whole(&rig, 1);
}

#[test]
fn a_body_of_which_half_was_read_can_be_read_to_its_end_from_where_it_was_moved() {
    let dir = tempfile::tempdir().unwrap();
    for medium in [memory(1), Medium::Threads(dir.path().to_path_buf())] {
        let rig = open(&medium);
        rig.serve(1);
        rig.store.submit(vec![unit(0, vec![define(1)])]);
        let mut uploads = 0;
        for round in 0..3 {
            send(&rig, &[1], 60, &mut uploads);
            acknowledge(&rig, 1, |place| place < round * 12 || place % 50 == 0);
            let owed = parts(&rig, 1);
            for lsns in owed.values() {
                assert_eq!(rig.read_parts(&lsns[..1]), [part_of(lsns[0])]);
            }
            settle(&rig, 2 * live(&rig) + SLACK);
            for lsns in owed.values() {
                let rest = [part_of(lsns[1]), part_of(lsns[2])];
                assert_eq!(rig.read_parts(&lsns[1..]), rest);
            }
        }
    }
}

#[test]
fn the_passive_and_a_full_copy_have_the_parts_where_the_active_has_them() {
    let (active, passive) = (open(&memory(1)), open(&memory(2)));
    active.serve(1);
    active.store.submit(vec![unit(0, vec![define(1)])]);
    passive.store.set_gate(GatePolicy::Following);
    let mut uploads = 0;
    for _ in 0..20 {
        send(&active, &[1], 5, &mut uploads);
        catch_up(&active, &passive);
    }
    acknowledge(&active, 1, |place| place % 25 == 0);
    let most = 2 * live(&active) + SLACK;
    catch_up(&active, &passive);
    settle(&active, most);
    catch_up(&active, &passive);
    settle(&passive, most);
    assert_same(&active, &passive);
    let copy = open(&memory(3));
    full_copy(&active, &copy);
    for rig in [&active, &passive, &copy] {
        assert_whole(rig, 1);
        assert_eq!(parts(rig, 1).len(), 40);
    }
    passive.store.set_gate(GatePolicy::Closed);
    passive.serve(2);
    acknowledge(&passive, 1, |place| place % 8 == 0);
    settle(&passive, 2 * live(&passive) + SLACK);
    assert_whole(&passive, 1);
}

#[test]
fn a_message_whose_body_is_not_there_is_owed_by_nobody_and_no_damage() {
    let (_a, _b, media) = media();
    for medium in media {
        let rig = open(&medium);
        rig.serve(1);
        rig.store.submit(vec![unit(0, vec![define(1)])]);
        send(&rig, &[1], 20, &mut 0);
        let all = rig.owed(1);
        acknowledge(&rig, 1, |_| false);
        settle(&rig, SLACK);
        // Of the log's beginning nothing is there, as of what the message names.
        assert!(rig.store.log_facts().floor > Lsn::ZERO);
        let head = all[0].1.clone();
        rig.store.submit(vec![unit(0, vec![put(&[1], head)])]);
        rig.flush();
        assert_eq!(rig.owed(1), []);
        rig.store.close();
        drop(rig);
        assert_sound(&medium);
    }
}
