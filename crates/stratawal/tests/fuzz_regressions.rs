//! Runs the fuzz targets on their seeds and regressions as part of `cargo test`.

#[allow(unreachable_pub, reason = "a crate of its own for the fuzzer")]
#[path = "../../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz");

#[test]
fn every_seed_and_every_regression_passes() {
    for (target, _) in targets::TARGETS {
        assert!(Path::new(FUZZ).join(format!("fuzz_targets/{target}.rs")).is_file(), "{target} is not a target");
        let mut passed = 0;
        for kind in ["seeds", "regressions"] {
            let Ok(subdir) = fs::read_dir(Path::new(FUZZ).join(kind).join(target)) else { continue };
            for file in subdir {
                let path = file.unwrap().path();
                let bytes = fs::read(&path).unwrap();
                let outcome = std::panic::catch_unwind(|| targets::run(target, &bytes));
                assert!(outcome.is_ok(), "{}", path.display());
                passed += 1;
            }
        }
        assert!(passed > 0, "{target} has no seed");
    }
}
