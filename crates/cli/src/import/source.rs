//! Where an import reads from: a file with lines of JSON, or a tree of files.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::ndjson::Lines;
use super::{Entry, Item, ItemError, Target};

/// What the path of an import is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file with one entry a line.
    Ndjson(PathBuf),
    /// A folder: each file below it is an entry, its relative path the key.
    Tree(PathBuf),
}

impl Source {
    pub(crate) fn of(path: &Path) -> io::Result<Source> {
        let path_buf = path.to_owned();
        Ok(if fs::metadata(path)?.is_dir() { Source::Tree(path_buf) } else { Source::Ndjson(path_buf) })
    }

    /// How many bytes there are to read, for the progress; what cannot be read does not count.
    pub(crate) fn total_bytes(&self) -> u64 {
        match self {
            Source::Ndjson(path) => fs::metadata(path).map_or(0, |metadata| metadata.len()),
            Source::Tree(root) => walk(root)
                .filter_map(Result::ok)
                .filter(|found| found.file_type().is_file())
                .filter_map(|found| found.metadata().ok())
                .map(|metadata| metadata.len())
                .sum(),
        }
    }

    /// What is in it, in the same order each time.
    pub(crate) fn items(&self, target: &Target) -> io::Result<Box<dyn Iterator<Item = Item> + Send>> {
        Ok(match self {
            Source::Ndjson(path) => {
                Box::new(Lines::new(BufReader::with_capacity(256 * 1024, File::open(path)?), target.clone()))
            }
            Source::Tree(root) => {
                let (root, target) = (root.clone(), target.clone());
                let mut read_bytes = 0;
                Box::new(
                    walk(&root).filter_map(move |found| tree_item(&root, &target, &mut read_bytes, found)),
                )
            }
        })
    }
}

fn walk(root: &Path) -> impl Iterator<Item = walkdir::Result<DirEntry>> + Send + use<> {
    // A path to a folder may itself be a link; links below could lead out of the tree or around in circles.
    WalkDir::new(root).min_depth(1).follow_root_links(true).sort_by_file_name().into_iter()
}

/// The item of one thing found in a tree; folders are none.
fn tree_item(
    root: &Path,
    target: &Target,
    read_bytes: &mut u64,
    found: walkdir::Result<DirEntry>,
) -> Option<Item> {
    let unreadable = |error: &dyn std::fmt::Display| ItemError::Read { reason: error.to_string() };
    let (place, entry) = match found {
        Err(error) => {
            let place = error.path().unwrap_or(root).display().to_string();
            // Without the path, which walkdir's own message repeats.
            let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
            (place, Err(ItemError::Read { reason }))
        }
        Ok(found) if found.file_type().is_dir() => return None,
        Ok(found) => {
            let place = found.path().display().to_string();
            let entry = if found.file_type().is_file() {
                found.metadata().map_err(|error| unreadable(&error)).and_then(|metadata| {
                    *read_bytes += metadata.len();
                    let key = key_of(found.path().strip_prefix(root).unwrap_or(found.path()));
                    target.check(&key, metadata.len())?;
                    let value = read_limited(found.path(), target)?;
                    Ok(Entry { key, value })
                })
            } else {
                let kind = if found.file_type().is_symlink() { "link" } else { "special file" };
                Err(ItemError::NoFile { kind })
            };
            (place, entry)
        }
    };
    Some(Item { place, read_bytes: *read_bytes, entry })
}

/// A file may have grown since its length was asked for.
fn read_limited(path: &Path, target: &Target) -> Result<Vec<u8>, ItemError> {
    let limit = target.value_bytes_max;
    let mut value = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut value));
    match read {
        Err(error) => Err(ItemError::Read { reason: error.to_string() }),
        Ok(read) if read as u64 > limit => Err(ItemError::Value { bytes: read as u64, limit }),
        Ok(_) => Ok(value),
    }
}

/// A relative path as a key, with `/` between its parts on every system.
fn key_of(path: &Path) -> Vec<u8> {
    let parts: Vec<&[u8]> = path.components().map(|part| part.as_os_str().as_encoded_bytes()).collect();
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target { bucket: "b".into(), key_bytes_max: 16, value_bytes_max: 8 }
    }

    #[test]
    fn a_tree_gives_one_entry_a_file_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/two"), "2").unwrap();
        fs::write(root.join("a/one"), [0xff]).unwrap();
        fs::write(root.join("big"), "123456789").unwrap();
        fs::write(root.join("a-key-that-is-too-long"), "").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(root.join("big"), root.join("link")).unwrap();

        let source = Source::of(root).unwrap();
        assert_eq!(source, Source::Tree(root.into()));
        let items: Vec<Item> = source.items(&target()).unwrap().collect();
        let shown: Vec<String> = items
            .iter()
            .map(|item| match &item.entry {
                Ok(Entry { key, value }) => format!("{}={value:?}", String::from_utf8_lossy(key)),
                Err(error) => error.to_string(),
            })
            .collect();
        let mut expected = vec![
            "a/b/two=[50]",
            "a/one=[255]",
            "the key has 22 bytes, the limit is 16",
            "the value has 9 bytes, the limit is 8",
        ];
        if cfg!(unix) {
            expected.push("is no file but a link");
        }
        assert_eq!(shown, expected);
        assert_eq!(source.total_bytes(), 11);
        assert_eq!(items.last().unwrap().read_bytes, 11);
    }

    #[test]
    fn a_file_is_read_by_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entries.ndjson");
        fs::write(&path, "{\"key\": \"k\", \"value\": \"v\"}\n").unwrap();
        let source = Source::of(&path).unwrap();
        assert_eq!(source, Source::Ndjson(path.clone()));
        let items: Vec<Item> = source.items(&target()).unwrap().collect();
        assert_eq!(items[0].entry, Ok(Entry { key: b"k".into(), value: b"v".into() }));
        assert_eq!((items.len(), items[0].read_bytes), (1, source.total_bytes()));
        fs::remove_file(&path).unwrap();
        assert!(source.items(&target()).is_err() && Source::of(&path).is_err());
    }
}
