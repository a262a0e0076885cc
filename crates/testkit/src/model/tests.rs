use super::*;

fn found(tags: &[(u64, usize)]) -> Found {
    found_from(0, tags)
}

fn found_from(first_seq: u64, tags: &[(u64, usize)]) -> Found {
    Found { first_seq, entries: tags.iter().map(|&(tag, len)| entry(tag, len)).collect() }
}

fn append(model: &mut StreamModel, entries: &[(u64, usize)], level: Level) {
    model.begin(Change::Append(entries.to_vec()));
    model.done(level);
}

#[test]
fn only_whole_batches_survive_a_crash() {
    let mut model = StreamModel::default();
    append(&mut model, &[(1, 10), (2, 20)], Level::Synced);
    append(&mut model, &[(3, 5), (4, 6)], Level::Buffered);
    model.begin(Change::Append(vec![(5, 0)]));
    let all = [(1, 10), (2, 20), (3, 5), (4, 6), (5, 0)];
    for n in [2, 4, 5] {
        assert_eq!(model.clone().check_recovered(&found(&all[..n])), Ok(()), "{n}");
    }
    for n in [0, 1, 3] {
        assert!(model.clone().check_recovered(&found(&all[..n])).is_err(), "{n}");
    }
    let other = [(1, 10), (2, 20), (9, 5), (4, 6)];
    assert!(model.clone().check_recovered(&found(&other)).is_err(), "other bytes");
    let more = [&all[..], &[(6, 1)]].concat();
    assert!(model.clone().check_recovered(&found(&more)).is_err(), "never asked for");
    let mut after = model.clone();
    after.check_recovered(&found(&all[..4])).unwrap();
    assert!(after.check_recovered(&found(&all)).is_err(), "a lost entry came back");
    assert!(after.check_recovered(&found(&all[..2])).is_err(), "a recovered entry is gone");
}

#[test]
fn flushed_entries_are_sure_until_a_power_loss() {
    let mut model = StreamModel::default();
    append(&mut model, &[(1, 10)], Level::Flushed);
    assert!(model.clone().check_recovered(&found(&[])).is_err());
    model.crashed(true);
    assert_eq!(model.check_recovered(&found(&[])), Ok(()));
}

#[test]
fn entries_shown_as_durable_are_sure() {
    let mut model = StreamModel::default();
    append(&mut model, &[(1, 10)], Level::Buffered);
    append(&mut model, &[(2, 10)], Level::Buffered);
    model.shown_durable(1);
    model.crashed(true);
    assert!(model.clone().check_recovered(&found(&[])).is_err());
    assert_eq!(model.check_recovered(&found(&[(1, 10)])), Ok(()));
}

#[test]
fn shown_entries_stay_wherever_the_stream_begins() {
    let all = found(&[(1, 10), (2, 20), (3, 30)]);
    let shown = found_from(1, &[(2, 20)]);
    assert_eq!(shown.is_still_in(&all), Ok(()));
    assert_eq!(shown.is_still_in(&shown), Ok(()));
    assert!(all.is_still_in(&shown).is_err(), "the first is gone");
    assert!(all.is_still_in(&found(&[(1, 10), (2, 20)])).is_err(), "the last is gone");
    assert!(all.is_still_in(&found(&[(1, 10), (9, 20), (3, 30)])).is_err(), "another");
}

#[test]
fn pending_change_happened_wholly_or_not_at_all() {
    let mut model = StreamModel::default();
    append(&mut model, &[(1, 10), (2, 20), (3, 30)], Level::Synced);
    model.begin(Change::TruncateFrom(1));
    assert_eq!(model.clone().check_recovered(&found(&[(1, 10), (2, 20), (3, 30)])), Ok(()));
    assert_eq!(model.clone().check_recovered(&found(&[(1, 10)])), Ok(()));
    assert!(model.clone().check_recovered(&found(&[(1, 10), (2, 20)])).is_err());
    model.refused();
    model.begin(Change::TruncateBefore(2));
    assert_eq!(model.clone().check_recovered(&found_from(2, &[(3, 30)])), Ok(()));
    assert!(model.clone().check_recovered(&found_from(1, &[(2, 20), (3, 30)])).is_err());
    model.done(Level::Buffered);
    assert!(model.clone().check_recovered(&found(&[(1, 10), (2, 20), (3, 30)])).is_err(), "it came back");
    model.begin(Change::TruncateBefore(9));
    assert_eq!(model.clone().check_recovered(&found_from(9, &[])), Ok(()));
    model.refused();
    model.begin(Change::Delete);
    assert_eq!(model.clone().check_recovered(&found(&[])), Ok(()));
    assert_eq!(model.clone().check_recovered(&found_from(2, &[(3, 30)])), Ok(()));
    model.done(Level::Buffered);
    assert_eq!((model.exists(), model.first_seq(), model.next_seq()), (false, 0, 0));
}

#[test]
fn appended_entries_replace_cut_ones() {
    let mut model = StreamModel::default();
    append(&mut model, &[(1, 10), (2, 10), (3, 10)], Level::Synced);
    append(&mut model, &[(4, 10), (5, 10)], Level::Synced);
    model.begin(Change::TruncateFrom(2));
    model.done(Level::Synced);
    append(&mut model, &[(6, 10)], Level::Synced);
    append(&mut model, &[(7, 10)], Level::Buffered);
    let expected = [(1, 10), (2, 10), (6, 10), (7, 10)];
    let data: Vec<_> = model.entries().map(|(_, expected)| expected.data()).collect();
    assert_eq!(data, found(&expected).entries);
    for (seq, &(tag, len)) in (0..).zip(&expected) {
        assert_eq!(model.entry(seq).map(Expected::data), Some(entry(tag, len)), "{seq}");
    }
    assert!(model.entry(4).is_none());
    assert_eq!([0, 1, 2, 3, 4].map(|seq| model.may_end_at(seq)), [false, false, false, true, true]);
    assert_eq!(model.check_recovered(&found(&expected[..3])), Ok(()));
    assert!(model.entry(3).is_none());
}

#[test]
fn stable_seq_rises_from_acknowledged_to_synced() {
    let mut model = StreamModel::default();
    append(&mut model, &[(1, 10)], Level::Synced);
    append(&mut model, &[(2, 10)], Level::Flushed);
    append(&mut model, &[(3, 10)], Level::Buffered);
    assert!(model.clone().check_stable(0, Level::Synced).is_err(), "an acknowledged entry");
    assert!(model.clone().check_stable(2, Level::Synced).is_err(), "an entry that is not synced");
    assert_eq!(model.clone().check_stable(1, Level::Synced), Ok(()));
    assert!(model.clone().check_stable(1, Level::Flushed).is_err(), "an acknowledged entry");
    assert!(model.clone().check_stable(4, Level::Flushed).is_err(), "an entry that does not exist");
    assert_eq!(model.check_stable(3, Level::Flushed), Ok(()));
    assert!(model.clone().check_stable(2, Level::Flushed).is_err(), "it fell");
    model.begin(Change::TruncateFrom(2));
    model.done(Level::Synced);
    assert_eq!(model.check_stable(2, Level::Flushed), Ok(()), "it fell with the end");
}

#[test]
fn entry_narrows_down_the_seen_state() {
    let mut model = StreamModel::with_past();
    append(&mut model, &[(1, 10), (2, 10)], Level::Flushed);
    model.begin(Change::TruncateFrom(1));
    model.done(Level::Synced);
    append(&mut model, &[(3, 10)], Level::Flushed);
    let seen = |change, seq, tag| {
        let mut candidates = model.matching(0, 0..2);
        let retained = model.retain(&mut candidates, change, seq, &entry(tag, 10));
        retained.map(|()| candidates)
    };
    assert_eq!(model.matching(0, 0..2), [1, 3]);
    assert_eq!(model.matching(0, 0..1), [2], "after the cut alone");
    assert_eq!(seen(1, 0, 1), Ok(vec![1, 3]));
    assert_eq!(seen(1, 1, 2), Ok(vec![1]));
    assert_eq!(seen(3, 1, 3), Ok(vec![3]));
    assert!(seen(3, 1, 2).is_err(), "other bytes");
    assert!(seen(3, 0, 3).is_err(), "at another seq");
    assert!(model.has_lost_since(1) && !model.has_lost_since(3));
    assert!(model.retain_last(&mut vec![1], 1, 0).is_err(), "a part of a batch");
    assert_eq!(model.retain_last(&mut vec![2], 1, 0), Ok(()), "the rest was cut off");
}
