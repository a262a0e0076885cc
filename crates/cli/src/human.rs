//! Sizes, durations and times as people write them, in both directions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first second of the year 10000, which RFC 3339 cannot represent.
const SECONDS_END: u64 = 253_402_300_800;

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Returns a number of bytes with its unit, rounded to a tenth of it: `512 B`, `1.5 KiB`, `64 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    let mut unit = 0;
    let mut unit_bytes = 1_u128;
    let tenths = |unit_bytes: u128| (u128::from(n) * 10 + unit_bytes / 2) / unit_bytes;
    // Rounded first: one byte less than 1 MiB is 1 MiB, and not 1024 KiB.
    while tenths(unit_bytes) >= 10_240 {
        unit_bytes *= 1024;
        unit += 1;
    }
    let value = tenths(unit_bytes);
    let tenth = if value % 10 == 0 { String::new() } else { format!(".{}", value % 10) };
    format!("{}{tenth} {}", value / 10, UNITS[unit])
}

/// Parses a number of bytes: `4096`, `64 MiB`, `1.5GiB`. `K`, `M`, `G` and `T` alone are powers of
/// 1024, `kB`, `MB`, `GB` and `TB` powers of 1000. Upper and lower case are the same.
///
/// # Errors
/// A sentence that names the forms, if it has none of them, or is 2⁶⁴ or more.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let refused = || format!("{text:?} is not a number of bytes such as `4096`, `64 MiB` or `1.5GB`");
    let trimmed = text.trim();
    let number_len = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(number_len);
    let unit_bytes = unit_of(unit.trim_start()).ok_or_else(refused)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 {
        return Err(refused());
    }
    let scale = 10_u128.pow(fraction.len() as u32);
    let digits: u64 = format!("{whole}{fraction}").parse().map_err(|_| refused())?;
    u64::try_from(u128::from(digits) * unit_bytes / scale).map_err(|_| refused())
}

fn unit_of(unit: &str) -> Option<u128> {
    let unit = unit.to_ascii_lowercase();
    let (letter, base) = match unit.strip_suffix("ib") {
        Some(letter) if !letter.is_empty() => (letter, 1024),
        _ => match unit.strip_suffix('b') {
            Some("") => ("", 1),
            Some(letter) => (letter, 1000),
            None => (&*unit, 1024),
        },
    };
    let power = match letter {
        "" => 0,
        _ => 1 + ["k", "m", "g", "t"].iter().position(|&known| known == letter)?,
    };
    Some(u128::pow(base, power as u32))
}

/// Returns a duration in its one or two largest units, rounded down: `350 ms`, `2.5 s`,
/// `4 min 5 s`, `2 h`, `3 d 4 h`. [`parse_duration`] takes the same forms.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() == 0 => format!("{} us", duration.as_micros()),
        0 => format!("{} ms", duration.as_millis()),
        1..10 => match duration.subsec_millis() / 100 {
            0 => format!("{seconds} s"),
            tenths => format!("{seconds}.{tenths} s"),
        },
        10..60 => format!("{seconds} s"),
        60..3600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn pair(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

/// Parses a duration: `2h`, `350 ms`, `1h 30min`, `2.5 s`.
///
/// # Errors
/// A sentence that names the forms.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || format!("{text:?} is not a duration such as `2h`, `350 ms` or `1h 30min`");
    let trimmed = text.trim();
    // humantime has no fractions.
    if let Some(number) = trimmed.strip_suffix('s')
        && let Ok(seconds) = number.trim_end().parse::<f64>()
    {
        return Duration::try_from_secs_f64(seconds).map_err(|_| refused());
    }
    humantime::parse_duration(trimmed).map_err(|_| refused())
}

/// Returns how long ago a time was, in its largest unit: `3 min ago`; or `in 3 min`, if a clock was
/// set back.
pub(crate) fn age(time: SystemTime, now: SystemTime) -> String {
    match now.duration_since(time) {
        Ok(passed) if passed < Duration::from_secs(1) => "just now".to_owned(),
        Ok(passed) => format!("{} ago", largest_unit(passed)),
        Err(error) if error.duration() < Duration::from_secs(1) => "just now".to_owned(),
        Err(error) => format!("in {}", largest_unit(error.duration())),
    }
}

fn largest_unit(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Returns a time in UTC, to the microsecond: `2025-01-01T00:00:00.000000Z`. A time after the year
/// 9999 is `@` and the seconds since 1970. [`parse_time`] takes both.
pub(crate) fn time(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since.as_secs() < SECONDS_END {
        humantime::format_rfc3339_micros(UNIX_EPOCH + since).to_string()
    } else {
        format!("@{}.{:06}", since.as_secs(), since.subsec_micros())
    }
}

/// Returns a time in microseconds since 1970.
pub(crate) fn micros(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()
}

/// Parses a time: `2025-01-31`, `2025-01-31 12:00`, `2025-01-31T12:00:00.5Z`,
/// `2025-01-31T12:00:00+02:00`, or `@` and the seconds since 1970. Without an offset it is in UTC.
///
/// # Errors
/// A sentence that names the forms.
pub(crate) fn parse_time(text: &str) -> Result<SystemTime, String> {
    parsed_time(text.trim())
        .ok_or_else(|| format!("{text:?} is not a time such as `2025-01-31`, `2025-01-31T12:00:00Z` or `@1738324800`"))
}

fn parsed_time(text: &str) -> Option<SystemTime> {
    if let Some(seconds) = text.strip_prefix('@') {
        return parsed_seconds(seconds);
    }
    let day = text.get(..10)?;
    let clock = text.get(10..)?.trim_start_matches(['T', 't', ' ']);
    let (clock, offset) = match clock.find(['Z', 'z', '+', '-']) {
        Some(at) => clock.split_at(at),
        None => (clock, ""),
    };
    let clock = match clock.len() {
        0 => "00:00:00".to_owned(),
        5 => format!("{clock}:00"),
        _ => clock.to_owned(),
    };
    let time = humantime::parse_rfc3339(&format!("{day}T{clock}Z")).ok()?;
    let Some(sign @ ('+' | '-')) = offset.chars().next() else {
        return matches!(offset, "" | "Z" | "z").then_some(time);
    };
    let (hours, minutes) = offset[1..].split_once(':').unwrap_or((&offset[1..], "0"));
    let is_number = |part: &str| part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !is_number(hours) || !is_number(minutes) {
        return None;
    }
    let hours = hours.parse::<u64>().ok().filter(|&hours| hours < 24)?;
    let minutes = minutes.parse::<u64>().ok().filter(|&minutes| minutes < 60)?;
    let ahead = Duration::from_secs(3600 * hours + 60 * minutes);
    if sign == '+' { time.checked_sub(ahead) } else { time.checked_add(ahead) }
}

/// Parses seconds since 1970, with at most six digits after the point.
fn parsed_seconds(text: &str) -> Option<SystemTime> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 6 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros = format!("{fraction:0<6}").parse().ok()?;
    let since = Duration::from_secs(seconds.parse().ok()?).checked_add(Duration::from_micros(micros))?;
    UNIX_EPOCH.checked_add(since)
}

/// Parses a time, or a duration before `now`: `2h` is two hours ago.
///
/// # Errors
/// A sentence that names the forms.
pub(crate) fn parse_time_or_age(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    if let Ok(age) = parse_duration(text) {
        return now.checked_sub(age).ok_or_else(|| format!("{text:?} is too long ago"));
    }
    parse_time(text).map_err(|_| {
        format!(
            "{text:?} is neither a duration such as `2h`, nor a time such as `2025-01-31T12:00:00Z` or `2025-01-31`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(micros)
    }

    #[test]
    fn size_is_in_the_largest_unit_that_fits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            ((1 << 20) - 1, "1 MiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn size_is_parsed_with_and_without_a_unit() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("64 MiB", 64 << 20),
            ("64mib", 64 << 20),
            ("1.5 KiB", 1536),
            ("1K", 1024),
            ("2MB", 2_000_000),
            ("7 b", 7),
            ("3TiB", 3 << 40),
        ];
        for (text, n) in cases {
            assert_eq!(parse_bytes(text), Ok(n), "{text}");
        }
        for n in [0, 5, 1536, 10 << 10, 3 << 20, 7 << 30, 5 << 40] {
            assert_eq!(parse_bytes(&bytes(n)), Ok(n));
        }
        for text in ["", "MiB", "-1", "1 XiB", "1.2.3", ".", "18446744073709551616", "99999999999 TiB", "1 iB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn duration_is_in_its_two_largest_units() {
        let cases = [
            (0, "0 us"),
            (350_000, "350 ms"),
            (2_000_000, "2 s"),
            (2_590_000, "2.5 s"),
            (59_900_000, "59 s"),
            (245_000_000, "4 min 5 s"),
            (7_200_000_000, "2 h"),
            (273_600_000_000, "3 d 4 h"),
        ];
        for (micros, text) in cases {
            assert_eq!(duration(Duration::from_micros(micros)), text);
            let parsed = parse_duration(text).unwrap();
            assert_eq!(duration(parsed), text);
        }
        assert_eq!(parse_duration("1h 30min"), Ok(Duration::from_secs(5400)));
        for text in ["", "2", "h", "-2h", "2 weeks ago", "NaN s", "-1 s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn age_may_be_in_the_future() {
        let now = at(100_000_000);
        assert_eq!(age(at(39_000_000), now), "1 min ago");
        assert_eq!(age(at(98_500_000), now), "1 s ago");
        assert_eq!(age(at(0), at(90_000_000_000)), "1 d ago");
        assert_eq!(age(now, now), "just now");
        assert_eq!(age(at(105_000_000), now), "in 5 s");
    }

    #[test]
    fn time_is_parsed_as_it_is_printed() {
        for micros in [0, 1_738_324_800_000_001, 253_402_300_799_999_999, 253_402_300_800_000_000] {
            assert_eq!(parse_time(&time(at(micros))), Ok(at(micros)), "{}", time(at(micros)));
        }
        assert_eq!(time(at(0)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time(at(253_402_300_800_000_001)), "@253402300800.000001");
    }

    #[test]
    fn time_may_have_fewer_parts_and_an_offset() {
        let noon = parse_time("2025-01-31T12:00:00Z").unwrap();
        let forms = [
            "2025-01-31 12:00",
            "2025-01-31T12:00",
            "2025-01-31 12:00:00",
            "2025-01-31T14:00:00+02:00",
            "2025-01-31T06:30:00.000-05:30",
            "2025-01-31T14:00+02",
            "@1738324800",
        ];
        for form in forms {
            assert_eq!(parse_time(form), Ok(noon), "{form}");
        }
        assert_eq!(parse_time("2025-01-31"), Ok(noon - Duration::from_secs(43_200)));
        let refused = [
            "",
            "12:00",
            "2025-01",
            "2025-13-01",
            "2025-01-31T25:00",
            "2025-01-31T12:00+",
            "2025-01-31T12:00+99:00",
            "2025-01-31T12:00Zx",
            "@",
            "@-1",
            "@1.",
            "日本2025-01-31",
            "2025-01-31T12:00+0x:00",
        ];
        for form in refused {
            assert!(parse_time(form).is_err(), "{form}");
        }
    }

    #[test]
    fn a_duration_is_a_time_before_now() {
        let now = at(10_000_000_000);
        assert_eq!(parse_time_or_age("2h", now), Ok(at(2_800_000_000)));
        assert_eq!(parse_time_or_age("@5", now), Ok(at(5_000_000)));
        assert!(parse_time_or_age("yesterday", now).is_err());
        assert!(parse_time_or_age("600 years", now).is_ok_and(|time| time < UNIX_EPOCH));
    }
}
