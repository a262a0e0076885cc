//! JSON with its fields in the documented order.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;

/// Returns `text` as a JSON string.
pub(crate) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns `value` as a JSON string, or null.
pub(crate) fn text_or_null(value: Option<&str>) -> String {
    value.map_or_else(|| "null".to_owned(), text)
}

/// Returns `value` as a JSON number, or null.
pub(crate) fn number_or_null(value: Option<u64>) -> String {
    value.map_or_else(|| "null".to_owned(), |n| n.to_string())
}

/// Writes the field for the bytes of an entry: text, or base64 if it is not UTF-8. An entry may be
/// large, so it is not copied as a whole.
pub(crate) fn write_data(out: &mut impl Write, data: &[u8]) -> io::Result<()> {
    match std::str::from_utf8(data) {
        Ok(utf8) => {
            out.write_all(br#""text":"#)?;
            serde_json::to_writer(out, utf8).map_err(io::Error::from)
        }
        Err(_) => write!(out, r#""base64":"{}""#, Base64Display::new(data, &STANDARD)),
    }
}

/// Returns the field for a time, in the form of RFC 3339. That form ends with the year 9999; for a
/// later time the field is null, and a second field has the microseconds since 1970.
pub(crate) fn time(time: SystemTime) -> String {
    // The first second of the year 10000.
    const SECONDS_END: u64 = 253_402_300_800;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since.as_secs() < SECONDS_END {
        format!(r#""time":"{}""#, humantime::format_rfc3339_micros(time))
    } else {
        format!(r#""time":null,"unix_micros":{}"#, since.as_micros())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_after_the_year_9999_is_null_and_a_number() {
        let at = |micros| time(UNIX_EPOCH + Duration::from_micros(micros));
        assert_eq!(at(253_402_300_799_999_999), r#""time":"9999-12-31T23:59:59.999999Z""#);
        assert_eq!(at(253_402_300_800_000_000), r#""time":null,"unix_micros":253402300800000000"#);
        assert_eq!(at(u64::MAX), r#""time":null,"unix_micros":18446744073709551615"#);
        assert_eq!(at(0), r#""time":"1970-01-01T00:00:00.000000Z""#);
    }
}
