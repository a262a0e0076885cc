//! Timestamps that this machine's clock never returns.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use common::{Log, copy};
use serde_json::Value;
use stratawal::Options;
use stratawal_testkit::SimStorage;

/// 10000-01-01T00:00:00Z, in microseconds since 1970.
const YEAR_10000: u64 = 253_402_300_800_000_000;

#[test]
fn time_after_the_year_9999_is_a_number() {
    let log = Log::new();
    let disk = SimStorage::new(1);
    let wal = Options::new().open_on(Arc::new(disk.clone()), Path::new("/log"), false).unwrap();
    let stream = wal.stream("s").unwrap();
    stream.append("now").unwrap();
    disk.let_pass(YEAR_10000);
    stream.append("later").unwrap();
    disk.let_pass(u64::MAX / 2 - 2 * YEAR_10000);
    stream.append("much later").unwrap();
    let times: Vec<Duration> =
        stream.iter(..).map(|entry| entry.unwrap().timestamp().duration_since(UNIX_EPOCH).unwrap()).collect();
    wal.close().unwrap();
    copy(&disk.disk(), "/log", &log.path());

    for options in [&[][..], &["--reverse"]] {
        let ran = log.run("cat", [&["s", "--json"], options].concat(), b"");
        assert_eq!((ran.code, &ran.err[..]), (0, ""));
        let mut lines: Vec<Value> = ran.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.sort_by_key(|line| line["seq"].as_u64());
        assert!(lines[0]["time"].is_string() && lines[0].get("unix_micros").is_none(), "{}", lines[0]);
        for (line, time) in lines.iter().zip(&times).skip(1) {
            assert!(line["time"].is_null() && time.as_micros() >= u128::from(YEAR_10000), "{line}");
            assert_eq!(line["unix_micros"].as_u64().map(u128::from), Some(time.as_micros()));
        }
        assert_eq!((lines.len(), &lines[2]["text"]), (3, &"much later".into()));
    }
    assert_eq!(log.cat("s"), b"now\nlater\nmuch later\n");
    assert_eq!(log.run("verify", ["--json"], b"").code, 0);
}
