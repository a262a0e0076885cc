//! `stratawal completions` and `stratawal man`: the completions of the shells, and the manual.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man as Page;

use crate::Arguments;
use crate::failure::{DONE, Failure, output};

/// The part of the help text about the shells.
pub(crate) const SHELLS: &str =
    "For bash: stratawal completions bash > ~/.local/share/bash-completion/completions/stratawal
For zsh, into a directory of $fpath: stratawal completions zsh > _stratawal
For fish: stratawal completions fish > ~/.config/fish/completions/stratawal.fish";

/// The arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "stratawal", &mut script);
        print(&script)
    }
}

/// The arguments of `man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Write a page for each command into this directory, which exists, such as
    /// `~/.local/share/man/man1`. Without it, the page of `stratawal` itself is printed.
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self) -> Result<u8, Failure> {
        let Some(dir) = &self.dir else {
            let mut page = Vec::new();
            let rendered = Page::new(Arguments::command()).render(&mut page);
            rendered.map_err(|e| Failure::io("cannot write the page", &e))?;
            return print(&page);
        };
        let written = clap_mangen::generate_to(Arguments::command(), dir);
        written.map_err(|e| Failure::io(&format!("cannot write pages into {}", dir.display()), &e))?;
        Ok(DONE)
    }
}

fn print(text: &[u8]) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).or_else(output)?;
    Ok(DONE)
}
