//! Checks that the facade's public API is the one in `public_api.txt`. A deliberate change to the
//! API also changes that file and adds a line to CHANGELOG.md.
//!
//! The API is read from the sources of the facade and of `stratawal-stream`, whose types it
//! re-exports. This needs no nightly compiler. Macros are not expanded, and re-exports with `*` are
//! not followed: the facade has neither.

mod items;
mod lines;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::items::{Crate, Crates};

const BLESS: &str = "STRATAWAL_BLESS=1 cargo test -p stratawal --test public_api";

/// The facade's public API: a line for each item, field, variant, method and trait.
fn lines() -> BTreeSet<String> {
    let crates_dir = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |name: &str| Crate::read(&crates_dir.join(name).join("src"));
    let crates = Crates::from([("stratawal", read("stratawal")), ("stratawal_stream", read("stream"))]);
    lines::of_module(&crates, "stratawal", &[])
}

#[test]
fn the_public_api_is_the_recorded_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/public_api/public_api.txt");
    let found = lines();
    if std::env::var_os("STRATAWAL_BLESS").is_some_and(|value| value == "1") {
        let text: String = found.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&file, text).unwrap();
    }
    let recorded = fs::read_to_string(&file).unwrap();
    let recorded: BTreeSet<String> = recorded.lines().map(ToOwned::to_owned).collect();
    let removed = recorded.difference(&found).map(|line| format!("- {line}\n"));
    let added = found.difference(&recorded).map(|line| format!("+ {line}\n"));
    let changes: String = removed.chain(added).collect();
    assert!(
        changes.is_empty(),
        "the public API has changed:\n{changes}\
         If that is intended, add a line to crates/stratawal/CHANGELOG.md, and record the API with `{BLESS}`."
    );
}

/// The lines of a single crate with this source.
fn lines_of(source: &str) -> Vec<String> {
    let crates = Crates::from([("c", Crate::of_source(source))]);
    lines::of_module(&crates, "c", &[]).into_iter().collect()
}

#[test]
fn each_public_part_of_an_item_is_a_line() {
    let found = lines_of(
        "#[derive(Clone, Debug)] #[non_exhaustive] pub struct S { pub a: u64, b: u64 } \
         impl S { pub const N: u8 = 1; #[must_use] pub fn get(&self, n: &[u64]) -> Option<u64> { None } \
                  fn private(&self) {} #[doc(hidden)] pub fn hidden(&self) {} pub(crate) fn inner(&self) {} } \
         impl Iterator for S { type Item = u64; fn next(&mut self) -> Option<u64> { None } } \
         pub enum E { One, Two(u8), Three { x: u64 } } \
         pub unsafe fn f<T: Clone>(t: T) {} struct Private; mod m { pub struct NotReached; }",
    );
    let expected = [
        "impl Clone for c::S",
        "impl Debug for c::S",
        "impl Iterator for c::S { type Item = u64 }",
        "pub c::E::One",
        "pub c::E::Three { x: u64 }",
        "pub c::E::Two(u8)",
        "pub c::S.a: u64",
        "pub const c::S::N: u8",
        "pub enum c::E",
        "pub fn c::S::get(&self, n: &[u64]) -> Option<u64> #[must_use]",
        "pub struct c::S #[non_exhaustive]",
        "pub unsafe fn c::f<T: Clone>(t: T)",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_re_export_is_the_item_under_its_new_path() {
    let found = lines_of(
        "mod a { pub use self::b::S as T; pub mod b { pub struct S; impl S { pub fn f(self) {} } } } \
         pub use a::T; pub mod shown { pub use crate::a::b::S; }",
    );
    let expected = [
        "pub fn c::T::f(self)",
        "pub fn c::shown::S::f(self)",
        "pub mod c::shown",
        "pub struct c::T",
        "pub struct c::shown::S",
    ];
    assert_eq!(found, expected);
}
