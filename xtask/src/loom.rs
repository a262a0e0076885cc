//! The models of concurrency, under the model checker.

use crate::run::cargo;
use crate::{Done, Stop};

pub(crate) fn loom(arguments: &[String]) -> Done {
    let filter = match arguments {
        [] => "scenarios",
        [filter] => filter,
        _ => return Err(Stop::Usage("loom takes one filter, or nothing".to_owned())),
    };
    // Uses a separate target directory, because the flags change every crate, and builds with and
    // without them would replace each other.
    let printed = cargo(&["test", "--release", "--lib"])
        .args(["--package", "stratawal-index", "--package", "stratawal-journal", "--package", "stratawal-stream"])
        .args([filter])
        .env("RUSTFLAGS", "--cfg stratawal_loom --cfg stratawal_faults")
        .env("CARGO_TARGET_DIR", &crate::run::root().join("target/loom").to_string_lossy())
        .env("LOOM_MAX_PREEMPTIONS", "3")
        .limit(3600)
        .shown("the models")?;
    match passed(&printed) {
        0 => Err(Stop::Failed(format!("no model is named like {filter:?}"))),
        n => {
            println!("{n} models and seeded faults");
            Ok(())
        }
    }
}

/// Returns the number of tests that passed, summed over all summaries that cargo printed.
fn passed(printed: &str) -> u64 {
    let summaries = printed.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
    summaries.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::passed;

    #[test]
    fn passed_tests_add_up() {
        let printed = "running 2 tests\ntest result: ok. 2 passed; 0 failed\n\ntest result: ok. 14 passed; 0 failed\n";
        assert_eq!(passed(printed), 16);
        assert_eq!(passed("test result: FAILED. 2 passed; 1 failed\n"), 0);
    }
}
