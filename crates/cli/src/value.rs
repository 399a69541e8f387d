//! Values on the command line: literal, from a file, from stdin.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use thiserror::Error;

use crate::output::bytes;

/// Where `put` takes its value from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ValueSource {
    /// The argument itself; `@@x` stands for `@x`.
    Text(String),
    /// `@FILE`.
    File(PathBuf),
    /// `-`.
    Stdin,
}

/// Why there is no value. Nothing was written.
#[derive(Debug, Error)]
pub(crate) enum ValueError {
    #[error("'@' names no file: write @FILE for a file's content, or @@ for a value that begins with @")]
    NoFile,
    #[error(
        "cannot read {what} ({source}): check the path and its permissions, or write @@ for a value that begins with @"
    )]
    Read { what: String, source: io::Error },
    #[error(
        "{what} is over the limit of {} ({limit} bytes) of bucket '{bucket}': store less, or raise it with `dyn bucket set {bucket} value_bytes_max=BYTES`",
        bytes(*.limit)
    )]
    TooLarge { what: String, bucket: String, limit: u64 },
}

impl ValueSource {
    pub(crate) fn parse(text: &str) -> Result<ValueSource, ValueError> {
        match text.strip_prefix('@') {
            _ if text == "-" => Ok(ValueSource::Stdin),
            None => Ok(ValueSource::Text(text.to_owned())),
            Some("") => Err(ValueError::NoFile),
            Some(literal) if literal.starts_with('@') => Ok(ValueSource::Text(literal.to_owned())),
            Some(path) => Ok(ValueSource::File(path.into())),
        }
    }

    /// Opens the source, so that a wrong path is found before anything else is done.
    pub(crate) fn open(self) -> Result<OpenValue, ValueError> {
        Ok(match self {
            ValueSource::Text(text) => {
                OpenValue { what: "the value".into(), reader: Box::new(io::Cursor::new(text.into_bytes())) }
            }
            ValueSource::Stdin => OpenValue { what: "stdin".into(), reader: Box::new(io::stdin()) },
            ValueSource::File(path) => {
                let what = path.display().to_string();
                match File::open(&path) {
                    Ok(file) => OpenValue { what, reader: Box::new(file) },
                    Err(source) => return Err(ValueError::Read { what, source }),
                }
            }
        })
    }
}

/// A source that can be read.
pub(crate) struct OpenValue {
    what: String,
    reader: Box<dyn Read>,
}

impl OpenValue {
    /// All of it, unless it has more than `limit` bytes; no more than that is ever in memory.
    pub(crate) fn read(self, bucket: &str, limit: u64) -> Result<Vec<u8>, ValueError> {
        let OpenValue { what, reader } = self;
        let mut value = Vec::new();
        match reader.take(limit.saturating_add(1)).read_to_end(&mut value) {
            Err(source) => Err(ValueError::Read { what, source }),
            Ok(read) if read as u64 > limit => {
                Err(ValueError::TooLarge { what, bucket: bucket.to_owned(), limit })
            }
            Ok(_) => Ok(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_character_tells_the_source() {
        let text = |text: &str| ValueSource::Text(text.into());
        for (argument, expected) in [
            ("2 apples", text("2 apples")),
            ("", text("")),
            ("a@b", text("a@b")),
            ("@@handle", text("@handle")),
            ("@@", text("@")),
            ("-", ValueSource::Stdin),
            ("--", text("--")),
            ("@cart.json", ValueSource::File("cart.json".into())),
            ("@-", ValueSource::File("-".into())),
        ] {
            assert_eq!(ValueSource::parse(argument).unwrap(), expected, "{argument}");
        }
        assert!(matches!(ValueSource::parse("@"), Err(ValueError::NoFile)));
    }

    #[test]
    fn the_limit_holds_to_the_byte() {
        let read = |text: &str, limit| ValueSource::Text(text.into()).open().unwrap().read("b", limit);
        assert_eq!(read("abc", 3).unwrap(), b"abc");
        assert_eq!(read("", 0).unwrap(), b"");
        let error = read("abcd", 3).unwrap_err();
        assert!(
            matches!(error, ValueError::TooLarge { limit: 3, .. })
                && error.to_string().contains("bucket set b")
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cart.json");
        let open = || ValueSource::File(path.clone()).open();
        let Err(error) = open() else { panic!("opened a file that is not there") };
        assert!(error.to_string().contains("cart.json"), "{error}");
        std::fs::write(&path, [0xff, 0]).unwrap();
        assert_eq!(open().unwrap().read("b", 2).unwrap(), [0xff, 0]);
    }
}
