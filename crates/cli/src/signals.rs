//! Interrupts. The first one ends the command, whatever it is waiting for, after closing the log if
//! one is open. The second one ends it without waiting for the close.

use std::ffi::c_int;
use std::fs;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// The maximum time to wait for a text to be printed before the process ends, because standard
/// output or standard error may be a full pipe.
pub(crate) const PRINT_TIME_MAX: Duration = Duration::from_secs(1);

/// On the first interrupt, exits with 128 + the signal's number: 130 for an interrupt from the
/// terminal.
pub(crate) fn exit_on_interrupt() -> Result<(), Failure> {
    on_interrupt(false, || Ok(()))
}

/// Runs `finish` on the first interrupt, and exits with 128 + the signal's number. It does not wait
/// for the thread that runs the command, so `finish` must not need a lock that this thread holds
/// while it reads or prints.
///
/// A signal that was ignored when the process started stays ignored, because a shell starts
/// background jobs that way on purpose.
pub(crate) fn on_interrupt(
    json: bool,
    finish: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    let taken = [SIGINT, SIGTERM].into_iter().filter(|&signal| !is_ignored(signal));
    let failed = |error| Failure::io("cannot watch for interrupts", &error);
    let mut signals = Signals::new(taken).map_err(failed)?;
    let mut finish = Some(finish);
    let watch = move || {
        for signal in signals.forever() {
            let exit = move || std::process::exit(128 + signal);
            match finish.take() {
                Some(finish) => {
                    thread::spawn(move || {
                        if let Err(failure) = finish() {
                            print_in_time(move || failure.print(json));
                        }
                        exit();
                    });
                }
                None => exit(),
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(failed)?;
    Ok(())
}

/// Calls `print`, which prints to standard error, and waits for it, but not for long.
pub(crate) fn print_in_time(print: impl FnOnce() + Send + 'static) {
    let (printed, wait) = mpsc::channel();
    thread::spawn(move || {
        print();
        let _ = printed.send(());
    });
    // If this takes too long, the process ends anyway.
    let _ = wait.recv_timeout(PRINT_TIME_MAX);
}

/// Returns whether the process ignores this signal. Only Linux offers a safe way to find out.
/// Elsewhere this returns false, so every signal is handled.
fn is_ignored(signal: c_int) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("SigIgn:")).is_some_and(|mask| is_in_mask(signal, mask))
}

/// Returns whether a hexadecimal mask of signals contains this one. The lowest bit is signal 1.
fn is_in_mask(signal: c_int, mask: &str) -> bool {
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Makes a write beyond the user's limit of file sizes return an error instead of killing the
/// process.
pub(crate) fn refuse_long_files() {
    // If this fails, such a write still kills the process.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_of_signals_has_a_bit_for_each() {
        assert!(is_in_mask(SIGINT, "\t0000000000000002"));
        assert!(is_in_mask(SIGTERM, "4002") && is_in_mask(SIGINT, "4002"));
        assert!(!is_in_mask(SIGTERM, "0000000000001002") && !is_in_mask(SIGINT, ""));
    }
}
