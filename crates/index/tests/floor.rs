//! Compares searches in sealed and active indexes with a linear search over the frames.
#![cfg(not(stratawal_loom))]

use proptest::prelude::*;
use stratawal_index::{ActiveIndex, INTERVAL_BYTES_DEFAULT, Index, IndexBuilder, IndexPoint, Span};

/// The frames of a segment: first seq, offset, timestamp.
fn frames() -> impl Strategy<Value = Vec<IndexPoint>> {
    let step = (1u64..50, 5u64..400, 0u64..3);
    prop::collection::vec(step, 0..900).prop_map(|steps| {
        let mut next = IndexPoint { seq: 1_000, offset: 128, timestamp: 1 };
        let mut frame = |(entries, units, wait)| {
            let frame = next;
            next.seq += entries;
            next.offset += 8 * units;
            next.timestamp += wait;
            frame
        };
        steps.into_iter().map(&mut frame).collect()
    })
}

fn build(interval_bytes: u64, frames: &[IndexPoint]) -> Index {
    let mut builder = IndexBuilder::new(interval_bytes);
    for frame in frames {
        builder.push(frame.seq, frame.offset, frame.timestamp).unwrap();
    }
    builder.finish()
}

fn write(index: &ActiveIndex, frames: &[IndexPoint]) {
    for frame in frames {
        index.push(frame.seq, frame.offset, frame.timestamp).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_span_holds_the_frame_of_its_seq(frames in frames(), interval_bytes in 0u64..9_000) {
        let index = build(interval_bytes, &frames);
        let last_seq = frames.last().map_or(1_000, |frame| frame.seq + 10);
        for seq in (990..last_seq).step_by(7) {
            let frame = frames.iter().rfind(|frame| frame.seq <= seq);
            let span = index.floor(seq);
            prop_assert_eq!(span.is_some(), frame.is_some());
            let (Some(span), Some(frame)) = (span, frame) else { continue };
            prop_assert!(span.point.offset <= frame.offset);
            prop_assert!(span.next.is_none_or(|next| frame.offset < next.offset));
        }
    }

    #[test]
    fn a_search_by_time_does_not_miss_a_frame(frames in frames(), interval_bytes in 0u64..9_000) {
        let index = build(interval_bytes, &frames);
        for timestamp in 0..frames.last().map_or(3, |frame| frame.timestamp + 2) {
            let Some(span) = index.floor_time(timestamp) else { prop_assert!(frames.is_empty()); continue };
            // The frame is in the span, or is the first frame of the next.
            if let Some(first) = frames.iter().find(|frame| frame.timestamp >= timestamp) {
                prop_assert!(span.point.offset <= first.offset);
                prop_assert!(span.next.is_none_or(|next| first.offset <= next.offset));
            }
        }
    }

    #[test]
    fn active_and_sealed_indexes_agree(frames in frames(), interval_bytes in 0u64..9_000, cut in any::<prop::sample::Index>()) {
        let sealed = build(interval_bytes, &frames);
        let active = ActiveIndex::new(interval_bytes);
        write(&active, &frames);
        prop_assert_eq!(&active.to_index(), &sealed);
        prop_assert_eq!((active.len(), active.is_empty()), (sealed.len(), sealed.is_empty()));
        for seq in (990..frames.last().map_or(1_000, |frame| frame.seq + 10)).step_by(7) {
            prop_assert_eq!(active.floor(seq), sealed.floor(seq));
            prop_assert_eq!(active.position_of(seq), sealed.position_of(seq));
        }
        for timestamp in 0..frames.last().map_or(3, |frame| frame.timestamp + 2) {
            prop_assert_eq!(active.floor_time(timestamp), sealed.floor_time(timestamp));
        }
        for position in 0..=sealed.len() {
            prop_assert_eq!(active.span_at(position), sealed.span_at(position));
            prop_assert_eq!(sealed.span_at(position).map(|span| span.point), sealed.points().get(position).copied());
        }
        let from = cut.index(sealed.len() + 1);
        prop_assert_eq!(active.points_from(from), &sealed.points()[from..]);
    }

    #[test]
    fn an_active_index_continues_after_given_points(frames in frames(), cut in any::<prop::sample::Index>()) {
        let (before, after) = frames.split_at(cut.index(frames.len() + 1));
        let earlier = build(4_096, before);
        let active = ActiveIndex::from_points(4_096, earlier.points()).unwrap();
        write(&active, after);
        // The first frame after the points becomes a point, wherever it is.
        let expected = [earlier.points(), build(4_096, after).points()].concat();
        prop_assert_eq!(active.to_index(), Index::from_points(expected).unwrap());
    }
}

#[test]
fn an_index_without_points_finds_nothing() {
    let index = Index::default();
    let active = ActiveIndex::new(INTERVAL_BYTES_DEFAULT);
    assert_eq!((index.floor(5), index.floor_time(5), index.position_of(5), index.span_at(0)), (None, None, None, None));
    assert_eq!(
        (active.floor(5), active.floor_time(5), active.position_of(5), active.span_at(0)),
        (None, None, None, None)
    );
    assert_eq!(active.points_from(0), []);
    assert_eq!(active.points_from(usize::MAX), []);
}

#[test]
fn frames_of_one_time_in_two_spans_are_found() {
    let point = |seq, timestamp| IndexPoint { seq, offset: 100 * seq, timestamp };
    // A frame of time 20 may be between the first two points.
    let index = Index::from_points(vec![point(1, 10), point(5, 20), point(9, 20)]).unwrap();
    assert_eq!(index.floor_time(20), Some(Span { point: point(1, 10), next: Some(point(5, 20)) }));
    assert_eq!(index.floor_time(21), Some(Span { point: point(9, 20), next: None }));
    assert_eq!(index.floor_time(0), index.span_at(0));
}

#[test]
fn spans_can_be_read_backwards() {
    let point = |seq| IndexPoint { seq, offset: 100 * seq, timestamp: 0 };
    let index = Index::from_points([2, 4, 6].map(point).to_vec()).unwrap();
    let from = index.position_of(5).unwrap();
    let walked: Vec<u64> = (0..=from).rev().map(|position| index.span_at(position).unwrap().point.seq).collect();
    assert_eq!(walked, [4, 2]);
}

#[test]
fn an_active_index_refuses_unordered_points() {
    let point = |seq| IndexPoint { seq, offset: 100 * seq, timestamp: 0 };
    assert!(ActiveIndex::from_points(4_096, &[point(2), point(1)]).is_err());
    let active = ActiveIndex::from_points(4_096, &[point(2)]).unwrap();
    assert!(active.push(2, 5_000, 0).is_err());
    assert!(active.push(3, 300, 0).unwrap(), "the first frame after the points");
    assert!(!active.push(4, 400, 0).unwrap(), "too near for a point");
    assert!(active.push(5, 5_000, 0).unwrap());
}

#[test]
fn the_weight_of_an_index_counts_its_points() {
    let one = build(0, &[IndexPoint { seq: 0, offset: 8, timestamp: 0 }]);
    assert_eq!(one.weight() - Index::default().weight(), size_of::<IndexPoint>());
}
