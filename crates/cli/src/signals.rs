//! Interrupts. The first one lets what is being done be finished; the second one does not wait.

use std::io;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Runs `finish` on the first interrupt and exits with 128 + the signal's number, 130 for an interrupt from the
/// terminal.
pub(crate) fn on_interrupt(finish: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let mut finish = Some(finish);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let exit = move || std::process::exit(128 + signal);
            match finish.take() {
                Some(finish) => {
                    thread::spawn(move || {
                        finish();
                        exit();
                    });
                }
                None => exit(),
            }
        }
    })?;
    Ok(())
}

/// Lets a file over the user's limit be an error of the write; without this it ends the process.
pub(crate) fn refuse_long_files() {
    // Where that fails, it ends the process as it would have.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}
