//! The machine on which the figures were measured.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::run::{Run, root};

/// The machine, and the versions of the logs that are compared.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    memory: String,
    kernel: String,
    file_system: String,
    rustc: String,
    date: String,
    versions: Vec<(String, String)>,
}

impl Machine {
    /// Describes this machine, with the data in the directory `data`.
    pub(super) fn of(data: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let data = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
        let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
        Self {
            cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory: memory(after(&read("/proc/meminfo"), "MemTotal").unwrap_or_default()),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            file_system: file_system(&read("/proc/mounts"), &data.to_string_lossy()),
            rustc: Run::new("rustc").args(["--version"]).output().unwrap_or_default().trim().to_owned(),
            date: date(days),
            versions: versions(&fs::read_to_string(root().join("benches/peers/Cargo.lock")).unwrap_or_default()),
        }
    }

    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("cpu", self.cpu.clone()),
            ("cores", self.cores.to_string()),
            ("memory", self.memory.clone()),
            ("kernel", self.kernel.clone()),
            ("file system", self.file_system.clone()),
            ("rustc", self.rustc.clone()),
            ("date", self.date.clone()),
        ]
    }

    pub(super) fn in_a_line(&self) -> String {
        let Self { cpu, cores, memory, kernel, file_system, rustc, date, .. } = self;
        format!("{cpu}, {cores} cores, {memory}, {kernel}, {file_system}, {rustc}, {date}")
    }

    /// Returns a subject with its version, if it has one.
    pub(super) fn versioned(&self, subject: &str) -> String {
        match self.versions.iter().find(|(name, _)| name == subject) {
            Some((_, version)) => format!("{subject} {version}"),
            None => subject.to_owned(),
        }
    }
}

/// Returns the value of the first line that begins with `name`.
fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn memory(kib: &str) -> String {
    let kib: f64 = kib.trim_end_matches("kB").trim().parse().unwrap_or(0.0);
    format!("{:.0} GiB", kib / f64::from(1 << 20))
}

/// Returns the type of a directory's file system: that of the longest mount point above it.
fn file_system(mounts: &str, dir: &str) -> String {
    let above = |point: &str| point == "/" || dir == point || dir.starts_with(&format!("{point}/"));
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    });
    // Of equal mount points, the last one hides the others.
    let found = mounts.filter(|(point, _)| above(point)).max_by_key(|(point, _)| point.len());
    found.map_or("unknown", |(_, kind)| kind).to_owned()
}

/// Returns the packages of a lock file.
fn versions(lock: &str) -> Vec<(String, String)> {
    let value = |line: &str, name: &str| Some(line.strip_prefix(name)?.trim_matches('"').to_owned());
    let mut lines = lock.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let version = lines.peek().and_then(|line| value(line, "version = "));
        found.extend(value(line, "name = ").zip(version));
    }
    found
}

/// Returns the date that is `days` after 1970-01-01. Years begin in March here, so that a leap day
/// is the last day of its year.
fn date(days: u64) -> String {
    let days = days + 719_468;
    let era = days / 146_097;
    let day = days % 146_097;
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    format!("{}-{month:02}-{day:02}", era * 400 + year + u64::from(month <= 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        let dates = [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_454, "2026-01-01")];
        dates.iter().for_each(|&(days, text)| assert_eq!(date(days), text));
    }

    #[test]
    fn a_directory_is_on_the_nearest_mount_above() {
        let mounts =
            "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/x xfs rw 0 0\n/dev/c /tmp/x btrfs rw 0 0\n";
        assert_eq!(file_system(mounts, "/tmp/y"), "tmpfs");
        assert_eq!(file_system(mounts, "/tmpfile"), "ext4");
        assert_eq!(file_system(mounts, "/tmp/x/z"), "btrfs");
        assert_eq!(file_system("", "/"), "unknown");
    }

    #[test]
    fn versions_are_found() {
        let lock = "[[package]]\nname = \"ironwal\"\nversion = \"0.6.9\"\nsource = \"x\"\n";
        let machine = Machine { versions: versions(lock), ..Machine::default() };
        assert_eq!(machine.versioned("ironwal"), "ironwal 0.6.9");
        assert_eq!(machine.versioned("raw"), "raw");
    }

    #[test]
    fn memory_is_shown_in_gib() {
        assert_eq!(memory(after("a: 1\nMemTotal:       24689432 kB\n", "MemTotal").unwrap()), "24 GiB");
    }
}
