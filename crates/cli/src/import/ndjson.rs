//! Entries as lines of JSON.

use std::io::{self, BufRead, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Entry, Item, ItemError, Target};

/// A line as it is written; what is not known here is refused rather than lost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    value: Option<String>,
    value_base64: Option<String>,
}

/// Reads `{"key", "value" or "value_base64"}`.
pub(crate) fn parse_line(line: &[u8], target: &Target) -> Result<Entry, ItemError> {
    let syntax = |reason: String| ItemError::Syntax { reason };
    let Line { key, value, value_base64 } =
        serde_json::from_slice(line).map_err(|e| syntax(e.to_string()))?;
    let value = match (value, value_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => STANDARD.decode(base64).map_err(|e| syntax(format!("value_base64: {e}")))?,
        (None, None) => return Err(syntax("it has no value".into())),
        (Some(_), Some(_)) => return Err(syntax("it has two values".into())),
    };
    target.check(key.as_bytes(), value.len() as u64)?;
    Ok(Entry { key: key.into_bytes(), value })
}

/// The lines of a file, one item each. No more than one line of the greatest useful length is in memory.
pub(crate) struct Lines<R> {
    reader: R,
    target: Target,
    line_bytes_max: u64,
    number: u64,
    read_bytes: u64,
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R, target: Target) -> Lines<R> {
        // Six bytes are the longest way to write one in JSON: \u0000.
        let line_bytes_max =
            (target.key_bytes_max + target.value_bytes_max).saturating_mul(6).saturating_add(256);
        Lines { reader, target, line_bytes_max, number: 0, read_bytes: 0, ended: false }
    }

    /// The next line; `None` at the end. Skips what is too long without keeping it.
    fn next_line(&mut self) -> io::Result<Option<Result<Vec<u8>, ItemError>>> {
        let mut line = Vec::new();
        let limit = self.line_bytes_max;
        let read = (&mut self.reader).take(limit + 1).read_until(b'\n', &mut line)? as u64;
        self.read_bytes += read;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if read > limit && line.last() != Some(&b'\n') {
            self.read_bytes += skip_line(&mut self.reader)?;
            return Ok(Some(Err(ItemError::Line { limit })));
        }
        Ok(Some(Ok(line)))
    }
}

/// Reads up to and with the end of the line; the number of bytes.
fn skip_line(reader: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(skipped);
        }
        let (used, ended) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), false),
        };
        reader.consume(used);
        skipped += used as u64;
        if ended {
            return Ok(skipped);
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        while !self.ended {
            let entry = match self.next_line() {
                Ok(None) => break,
                Ok(Some(Ok(line))) if line.trim_ascii().is_empty() => continue,
                Ok(Some(Ok(line))) => parse_line(&line, &self.target),
                Ok(Some(Err(error))) => Err(error),
                Err(error) => {
                    // What is behind cannot be reached.
                    self.ended = true;
                    Err(ItemError::Read { reason: error.to_string() })
                }
            };
            return Some(Item { place: format!("line {}", self.number), read_bytes: self.read_bytes, entry });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn target() -> Target {
        Target { bucket: "b".into(), key_bytes_max: 8, value_bytes_max: 16 }
    }

    fn parse(line: &str) -> Result<(Vec<u8>, Vec<u8>), ItemError> {
        parse_line(line.as_bytes(), &target()).map(|entry| (entry.key, entry.value))
    }

    #[test]
    fn lines_with_text_and_with_bytes() {
        assert_eq!(parse(r#"{"key": "a/b", "value": "2 äpfel"}"#), Ok((b"a/b".into(), "2 äpfel".into())));
        assert_eq!(parse(r#" {"value_base64": "/wAB", "key": "k"} "#), Ok((b"k".into(), vec![0xff, 0, 1])));
        assert_eq!(parse(r#"{"key": "k", "value": ""}"#), Ok((b"k".into(), vec![])));
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for line in [
            "x",
            "{}",
            "[]",
            r#"{"key": "k"}"#,
            r#"{"value": "v"}"#,
            r#"{"key": "k", "value": 3}"#,
            r#"{"key": "k", "value": "v", "value_base64": ""}"#,
            r#"{"key": "k", "value_base64": "?"}"#,
            r#"{"key": "k", "value": "v", "ttl": 3}"#,
            r#"{"key": "k", "value": "v"} {"#,
        ] {
            assert!(matches!(parse(line), Err(ItemError::Syntax { .. })), "{line}");
        }
        assert_eq!(parse(r#"{"key": "", "value": "v"}"#), Err(ItemError::EmptyKey));
        let long = r#"{"key": "123456789", "value": "v"}"#;
        assert_eq!(parse(long), Err(ItemError::Key { bytes: 9, limit: 8 }));
        let long = r#"{"key": "k", "value": "12345678901234567"}"#;
        assert_eq!(parse(long), Err(ItemError::Value { bytes: 17, limit: 16 }));
    }

    #[test]
    fn bad_lines_do_not_stop_the_rest() {
        let endless = "x".repeat(10_000);
        let text = format!(
            "{{\"key\":\"a\",\"value\":\"1\"}}\n\n{endless}\noops\r\n{{\"key\":\"b\",\"value\":\"2\"}}"
        );
        // A small buffer, so that the long line is skipped in several steps.
        let reader = io::BufReader::with_capacity(64, text.as_bytes());
        let items: Vec<Item> = Lines::new(reader, target()).collect();
        let places: Vec<&str> = items.iter().map(|item| item.place.as_str()).collect();
        assert_eq!(places, ["line 1", "line 3", "line 4", "line 5"]);
        assert!(items[0].entry.is_ok() && items[3].entry.is_ok());
        assert!(matches!(items[1].entry, Err(ItemError::Line { .. })), "{:?}", items[1]);
        assert!(matches!(items[2].entry, Err(ItemError::Syntax { .. })));
        assert_eq!(items[3].read_bytes, text.len() as u64);
    }

    #[test]
    fn the_longest_entry_still_fits_a_line() {
        let line =
            format!("{{\"key\":\"{}\",\"value\":\"{}\"}}\n", "\\u0001".repeat(8), "\\u0000".repeat(16));
        let items: Vec<Item> = Lines::new(line.as_bytes(), target()).collect();
        assert_eq!(items[0].entry, Ok(Entry { key: vec![1; 8], value: vec![0; 16] }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let lines = Lines::new(io::BufReader::with_capacity(7, &bytes[..]), target());
            let last = lines.last().map_or(0, |item| item.read_bytes);
            prop_assert!(last <= bytes.len() as u64);
        }

        #[test]
        fn entries_lead_back(key in "\\PC{1,2}", value in proptest::collection::vec(any::<u8>(), 0..=16)) {
            let line = json!({"key": key, "value_base64": STANDARD.encode(&value)}).to_string();
            prop_assert_eq!(parse(&line), Ok((key.into_bytes(), value)));
        }
    }
}
