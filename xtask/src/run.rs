//! Running other programs, from the root of the workspace.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::{Done, Stop};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), ToOwned::to_owned)
}

/// A program to run.
pub(crate) struct Run(Command);

/// Cargo, the one that runs this.
pub(crate) fn cargo(arguments: &[&str]) -> Run {
    Run::new(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())).args(arguments)
}

/// Cargo of another toolchain.
pub(crate) fn cargo_of(toolchain: &str, arguments: &[&str]) -> Run {
    Run::new("rustup").args(["run", toolchain, "cargo"]).args(arguments).without("CARGO").without("RUSTUP_TOOLCHAIN")
}

impl Run {
    pub(crate) fn new(program: &str) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root());
        Self(command)
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.0.env_remove(name);
        self
    }

    /// Runs it; `what` is what has failed if it does not succeed.
    pub(crate) fn done(mut self, what: &str) -> Done {
        match self.0.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Stop::Failed(format!("{what} failed ({status})"))),
            Err(error) => Err(Stop::Missing(format!("{what}: cannot run {:?}: {error}", self.0.get_program()))),
        }
    }

    /// What it prints, if it succeeds.
    pub(crate) fn output(mut self) -> Option<String> {
        let output = self.0.stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it, showing and answering what it prints on standard output.
    pub(crate) fn shown(mut self, what: &str) -> Result<String, Stop> {
        let output = self.0.stdout(Stdio::piped()).stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| Stop::Missing(format!("{what}: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        print!("{text}");
        if output.status.success() { Ok(text) } else { Err(Stop::Failed(format!("{what} failed ({})", output.status))) }
    }
}

/// Whether a toolchain whose name begins like this is installed; answers its name.
pub(crate) fn toolchain(prefix: &str) -> Option<String> {
    let list = Run::new("rustup").args(["toolchain", "list"]).output()?;
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}
