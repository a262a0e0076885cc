//! JSON in the order in which the contract gives its fields.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A string.
pub(crate) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A string, or null.
pub(crate) fn text_or_null(value: Option<&str>) -> String {
    value.map_or_else(|| "null".to_owned(), text)
}

/// A number, or null.
pub(crate) fn number_or_null(value: Option<u64>) -> String {
    value.map_or_else(|| "null".to_owned(), |n| n.to_string())
}

/// The field for the bytes of an entry: its text, or base64 where it is not UTF-8.
pub(crate) fn data(data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(utf8) => format!(r#""text":{}"#, text(utf8)),
        Err(_) => format!(r#""base64":"{}""#, STANDARD.encode(data)),
    }
}
