//! `stratawal streams`: lists the streams.

use std::io::{self, Write};

use stratawal::{ErrorKind, Options, Wal, inspect};

use crate::failure::{DAMAGE, DONE, FAILED, Failure, output};
use crate::name::pasteable;
use crate::{Common, json, signals};

/// The part of the help text about JSON.
pub(crate) const JSON: &str = r#"A name is printed as every command takes it, and quoted as a shell needs it: orders, 'a b', $'tab\t', -- '-x'. With
--escaped, it is printed in the form of its directory, which a command takes after --escaped.
With --json, a line for each stream, with its name as it is:
{"stream":"s","state":"ok","first":0,"next":100,"segments":1,"disk_bytes":65536}
`next` is one past the last entry. `state` is `damaged` if the stream cannot be opened, with `first` and `next` null;
only `verify` reads every entry."#;

/// The arguments of `streams`.
#[derive(Debug, clap::Args)]
pub(crate) struct Streams {
    #[command(flatten)]
    common: Common,
    /// Print each name in the form that its directory has, like `a%20b`.
    #[arg(long)]
    escaped: bool,
    /// Print each stream's state, range and size as JSON.
    #[arg(long)]
    json: bool,
}

impl Streams {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        signals::exit_on_interrupt()?;
        let wal = self.common.result(Options::new().open_read_only(&self.common.dir))?;
        let mut out = io::stdout().lock();
        let mut code = DONE;
        for name in self.common.result(wal.streams())? {
            let line = if self.json {
                match self.describe(&wal, &name) {
                    Ok(None) => continue,
                    Ok(Some((line, sound))) => {
                        code = if sound { code } else { DAMAGE };
                        line
                    }
                    Err(failure) => {
                        failure.print(self.json);
                        // Damage takes precedence over streams that could not be read.
                        code = if code == DAMAGE { code } else { FAILED };
                        continue;
                    }
                }
            } else if self.escaped {
                self.common.result(inspect::escape_name(&name))?
            } else {
                pasteable(&name)
            };
            if let Err(e) = writeln!(out, "{line}") {
                return output(e).map(|()| code);
            }
        }
        out.flush().or_else(output)?;
        Ok(code)
    }

    /// Returns the line of a stream and whether the stream is sound, or `None` if it was deleted
    /// after it was listed.
    fn describe(&self, wal: &Wal, name: &str) -> Result<Option<(String, bool)>, Failure> {
        let (state, first, next) = match wal.stream(name) {
            Ok(stream) if !stream.exists() => return Ok(None),
            Ok(stream) => ("ok", Some(stream.first_seq()), Some(stream.next_seq())),
            Err(error) if error.kind() == ErrorKind::Damaged => ("damaged", None, None),
            Err(error) => return self.common.result(Err(error)),
        };
        let files = self.common.result(inspect::segment_files(&self.common.dir, name))?;
        let line = format!(
            r#"{{"stream":{},"state":"{state}","first":{},"next":{},"segments":{},"disk_bytes":{}}}"#,
            json::text(name),
            json::number_or_null(first),
            json::number_or_null(next),
            files.len(),
            files.iter().map(|file| file.bytes).sum::<u64>(),
        );
        Ok(Some((line, state == "ok")))
    }
}
