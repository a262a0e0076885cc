//! Memory errors: runs the tests of the codecs, the index, the segments and the one unsafe module
//! under valgrind, which sees every memory access of the compiled code, including mapped files.

use crate::run::{Run, cargo, on_all_cores, root};
use crate::{Done, Stop};

/// Crates whose code parses bytes or maps files.
const PACKAGES: [&str; 4] = ["frame", "storage", "segment", "index"];

/// The exit status of a program under valgrind if valgrind found an error.
const FOUND: i32 = 99;

/// The time limit of one program: many times as long as the slowest takes.
const SECONDS_MAX: u64 = 600;

pub(crate) fn memcheck() -> Done {
    valgrind()?;
    let mut programs = Vec::new();
    for package in PACKAGES {
        let name = format!("stratawal-{package}");
        let built = cargo(&["test", "--release", "--no-run", "--message-format=json", "--package", &name])
            .args(["--lib", "--tests"])
            .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
            .env("CARGO_TARGET_DIR", &root().join("target/sim").to_string_lossy())
            .output()
            .ok_or_else(|| Stop::Failed(format!("the tests of {name} do not build")))?;
        programs.extend(built.lines().filter_map(executable).map(|program| (package, program)));
    }
    // Valgrind runs one thread of a program at a time.
    on_all_cores(&programs, |(package, program)| check(package, program))
}

/// Succeeds if valgrind is installed.
pub(crate) fn valgrind() -> Done {
    match Run::new("valgrind").args(["--version"]).output() {
        Some(_) => Ok(()),
        None => {
            Err(Stop::Missing("valgrind is not installed: apt-get install valgrind, or as your system has it".into()))
        }
    }
}

fn check(package: &str, program: &str) -> Done {
    let status = Run::new("valgrind")
        .args(["--quiet", "--leak-check=full", "--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"])
        .args([&format!("--error-exitcode={FOUND}"), program, "--quiet", "--test-threads=1", "--skip", "stress::"])
        // Threads that spin on one another may starve under valgrind, which runs one thread at a
        // time.
        .within(&root().join("crates").join(package))
        // Under valgrind tests are about fifty times as slow; the usual number of cases runs
        // elsewhere.
        .env("PROPTEST_CASES", "4")
        .limit(SECONDS_MAX)
        .ended(&format!("{program} under valgrind"))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(FOUND) => Err(Stop::Failed(format!("valgrind found memory errors in {program}; they are above"))),
        _ => Err(Stop::Failed(format!("{program} failed under valgrind ({status})"))),
    }
}

/// Returns the path of the program that a line of cargo's JSON reports as built.
fn executable(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("\"executable\":\"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::executable;

    #[test]
    fn programs_are_found_in_the_output_of_cargo() {
        let line = r#"{"reason":"compiler-artifact","filenames":["/t/a"],"executable":"/t/deps/a-1","fresh":true}"#;
        assert_eq!(executable(line).as_deref(), Some("/t/deps/a-1"));
        assert_eq!(executable(r#"{"reason":"compiler-artifact","executable":null}"#), None);
    }
}
