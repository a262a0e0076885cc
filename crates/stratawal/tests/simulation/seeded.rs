//! The simulation finds what it is there for: each of these faults in the code, and a disk that lies.

use std::panic::{AssertUnwindSafe, catch_unwind};

use stratawal_stream::faults::{Fault, seed};
use stratawal_testkit::{Failure, Outcome, Rng, Volume, crash_everywhere, fault_everywhere, play};

use crate::subject::{Log, SHAPE};

const VOLUME: Volume = Volume { losses: 6, depth: 2, nested: 1, lie: None };

/// The first seed below `seeds_max` that shows `fault`.
fn found_by(fault: Fault, seeds_max: u64) -> Option<Failure> {
    seed(Some(fault));
    let found = (0..seeds_max).find_map(|seed| {
        let mut outcome = Outcome::default();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let crashes = crash_everywhere(&Log, seed, &SHAPE, &VOLUME, &mut outcome);
            crashes.and_then(|()| fault_everywhere(&Log, seed, &SHAPE, 3, &mut outcome))
        }));
        // The code may notice by itself that it went wrong.
        tried.unwrap_or_else(|_| Err(Failure { seed, at: String::new(), what: "it panicked".to_owned() })).err()
    });
    seed(None);
    found
}

macro_rules! is_found {
    ($($test:ident: $fault:ident,)*) => {
        $(
            #[test]
            fn $test() {
                let found = found_by(Fault::$fault, 40);
                println!("{found:?}");
                assert!(found.is_some(), "{:?} is not found", Fault::$fault);
            }
        )*
    };
}

is_found! {
    an_acknowledgement_before_the_sync_is_found: AcknowledgedBeforeSync,
    an_attestation_before_the_sync_is_found: AttestedBeforeSync,
    a_watermark_that_passes_what_is_not_settled_is_found: UnsettledPassed,
    a_tail_that_is_not_written_again_is_found: TailNotRewritten,
    an_attestation_that_is_not_clamped_is_found: AttestationNotClamped,
    a_generation_that_is_used_twice_is_found: GenerationKept,
    a_start_that_is_recorded_after_the_unlink_is_found: StartAfterUnlink,
    a_folder_that_is_not_synced_is_found: FolderSyncSkipped,
    a_batch_over_the_border_of_a_segment_is_found: BatchSplit,
    a_descriptor_that_is_closed_before_its_sync_is_found: DescriptorClosed,
}

/// What the fuzzer plays, on bytes that nobody chose.
#[test]
fn an_acknowledgement_before_the_sync_is_found_by_playing_any_bytes() {
    seed(Some(Fault::AcknowledgedBeforeSync));
    let found = (0..300).find_map(|seed| {
        let mut rng = Rng::new(seed);
        let bytes: Vec<u8> = (0..300).map(|_| u8::try_from(rng.below(256)).expect("a byte")).collect();
        play(&Log, &bytes, &SHAPE).err()
    });
    seed(None);
    println!("{found:?}");
    assert!(found.is_some());
}
