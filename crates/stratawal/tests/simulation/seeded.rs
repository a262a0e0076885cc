//! The simulation finds what it is there for: each of these faults in the code, and a disk that
//! lies.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use stratawal_segment::FailPoint as SegmentFailPoint;
use stratawal_stream::FailPoint;
use stratawal_testkit::{Failure, Outcome, Rng, Volume, crash_everywhere, fault_everywhere, play};

use crate::stale::what_was_cut_comes_back;
use crate::subject::{LOG, SHAPE};

const VOLUME: Volume = Volume { losses: 6, depth: 2, nested: 1, lie: None };

/// The first seed below `seeds_max` that shows what is seeded.
fn first_found(seeds_max: u64) -> Option<Failure> {
    (0..seeds_max).find_map(|seed| {
        let mut outcome = Outcome::default();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let crashes = crash_everywhere(&LOG, seed, &SHAPE, &VOLUME, &mut outcome);
            crashes.and_then(|()| fault_everywhere(&LOG, seed, &SHAPE, 3, &mut outcome))
        }));
        let found = match tried {
            Ok(outcome) => outcome.err()?,
            Err(panic) if ASSERTED.contains(&text_of(&*panic)) => {
                Failure { seed, at: "an assertion".to_owned(), what: text_of(&*panic).to_owned() }
            }
            Err(panic) => resume_unwind(panic),
        };
        assert!(is_finding(&found), "the harness failed, and found nothing: {found}");
        Some(found)
    })
}

/// What the code says that notices by itself that it went wrong. Any other panic is no finding.
const ASSERTED: [&str; 1] = ["all is settled"];

/// What the harness says of a log that broke a promise: it does not open, shows too little, too
/// much or other entries, lost what was shown, or does not open where the power goes behind what
/// was shown.
const FINDINGS: [&str; 8] = [
    "does not open",
    "begins at",
    "ends at",
    "has other bytes",
    "in part",
    "was shown",
    "another process",
    "after a power loss just then",
];

fn is_finding(failure: &Failure) -> bool {
    let asserted = ASSERTED.contains(&&*failure.what);
    failure.at != "at the start" && (asserted || FINDINGS.iter().any(|finding| failure.what.contains(finding)))
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}

fn found_by(fail_point: FailPoint) -> Option<Failure> {
    fail_point.activate();
    let found = first_found(40);
    FailPoint::deactivate();
    found
}

macro_rules! is_found {
    ($($test:ident: $fail_point:ident,)*) => {
        $(
            #[test]
            fn $test() {
                let found = found_by(FailPoint::$fail_point);
                println!("{found:?}");
                assert!(found.is_some(), "{:?} is not found", FailPoint::$fail_point);
            }
        )*
    };
}

is_found! {
    an_acknowledgement_before_the_sync_is_found: AcknowledgedBeforeSync,
    an_attestation_before_the_sync_is_found: AttestedBeforeSync,
    a_watermark_that_passes_what_is_not_settled_is_found: UnsyncedPassed,
    a_tail_that_is_not_written_again_is_found: TailNotRewritten,
    an_attestation_that_is_not_clamped_is_found: AttestationNotClamped,
    a_generation_that_is_used_twice_is_found: GenerationKept,
    a_start_that_is_recorded_after_the_unlink_is_found: StartAfterUnlink,
    a_folder_that_is_not_synced_is_found: DirSyncSkipped,
    a_descriptor_that_is_closed_before_its_sync_is_found: DescriptorClosed,
    a_reader_that_is_shown_what_is_only_flushed_is_found: FlushedShown,
    a_reader_in_another_process_that_does_not_sync_what_it_shows_is_found: ShownUnsynced,
}

#[test]
fn a_segment_whose_name_may_not_be_durable_is_found() {
    SegmentFailPoint::DirSyncSkipped.activate();
    let found = first_found(40);
    SegmentFailPoint::deactivate();
    println!("{found:?}");
    assert!(found.is_some());
}

#[test]
fn a_salt_that_is_kept_is_found() {
    FailPoint::SaltKept.activate();
    assert!(what_was_cut_comes_back());
}

/// What the fuzzer plays, on bytes that nobody chose.
#[test]
fn an_acknowledgement_before_the_sync_is_found_by_playing_any_bytes() {
    FailPoint::AcknowledgedBeforeSync.activate();
    let found = (0..300).find_map(|seed| {
        let mut rng = Rng::new(seed);
        let bytes: Vec<u8> = (0..300).map(|_| u8::try_from(rng.below(256)).expect("a byte")).collect();
        play(&LOG, &bytes, &SHAPE).err()
    });
    FailPoint::deactivate();
    println!("{found:?}");
    assert!(found.as_ref().is_some_and(is_finding));
}
