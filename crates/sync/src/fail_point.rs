//! Fail points: places where a test can inject a bug into the shipped code, to prove that a harness
//! finds it.
//!
//! Without `--cfg stratawal_faults` a fail point is the constant `false`, and the compiler removes
//! the wrong code. The switch is a cfg rather than a feature, so that no dependency can turn it on.
//!
//! A crate lists its fail points in a module `fail_points`, with [`fail_points!`], and checks one
//! with [`fail_point!`].

/// Defines the fail points of a crate, in its module `fail_points`.
///
/// The enum has these functions under `--cfg stratawal_faults`:
///
/// - `activate(self)` makes the calling thread run the wrong code from now on.
/// - `deactivate()` ends this.
/// - `is_found_by(self, test)` runs `test` with the fail point active, and returns whether the test
///   panicked, which it should.
#[macro_export]
macro_rules! fail_points {
    ($(#[$enum_attribute:meta])* enum FailPoint { $($(#[$attribute:meta])* $name:ident,)+ }) => {
        $(#[$enum_attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(unreachable_pub, reason = "tests of other crates activate some, under the cfg")]
        pub enum FailPoint {
            $($(#[$attribute])* $name,)+
        }

        #[cfg(not(stratawal_faults))]
        impl FailPoint {
            #[inline(always)]
            pub(crate) const fn is_active(self) -> bool {
                let _ = self;
                false
            }
        }

        // Each thread has its own switch: tests run at the same time, and the model checker runs
        // all threads of a model on the thread that started it.
        #[cfg(stratawal_faults)]
        ::std::thread_local! {
            static ACTIVE: ::std::cell::Cell<Option<FailPoint>> = const { ::std::cell::Cell::new(None) };
        }

        #[cfg(stratawal_faults)]
        #[allow(dead_code, unreachable_pub, reason = "each crate's tests use some of them")]
        impl FailPoint {
            pub(crate) fn is_active(self) -> bool {
                ACTIVE.get() == Some(self)
            }

            /// Activates only this fail point, for the calling thread.
            pub fn activate(self) {
                ACTIVE.set(Some(self));
            }

            /// Deactivates the fail point that is active in the calling thread.
            pub fn deactivate() {
                ACTIVE.set(None);
            }

            /// Runs `test` with this fail point active, and returns whether `test` panicked.
            pub fn is_found_by(self, test: impl FnOnce() + ::std::panic::UnwindSafe) -> bool {
                self.activate();
                let outcome = ::std::panic::catch_unwind(test);
                Self::deactivate();
                outcome.is_err()
            }
        }
    };
}

/// Whether a test has activated the fail point of this name in the calling crate.
///
/// A second argument, if given, is evaluated while the fail point is active. It is for a wrong
/// action in addition to the right ones: `fail_point!(WatermarkFirst, watermark.store(end_seq))`.
#[macro_export]
#[allow(clippy::crate_in_macro_def, reason = "it means the calling crate")]
macro_rules! fail_point {
    ($name:ident) => {
        crate::fail_points::FailPoint::$name.is_active()
    };
    ($name:ident, $wrong:expr) => {
        if $crate::fail_point!($name) {
            $wrong;
        }
    };
}

/// Defines one test per line: a scenario of the module above, itself a test, finds the fail point.
///
/// A line is `name_of_the_test: FailPoint by scenario;`.
#[macro_export]
#[allow(clippy::crate_in_macro_def, reason = "it means the calling crate")]
macro_rules! found_by_scenarios {
    ($($test:ident: $fail_point:ident by $scenario:ident;)+) => {
        $(
            #[test]
            fn $test() {
                assert!(crate::fail_points::FailPoint::$fail_point.is_found_by(super::$scenario));
            }
        )+
    };
}
