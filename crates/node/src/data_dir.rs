//! A node's data directory: whose it is, of which format, and that only one process uses it.
//!
//! ```text
//!  DIR/node.json   format, cluster, node id, disk id, boot counter; replaced atomically at every start
//!  DIR/lock        locked while a process uses the directory
//!  DIR/store/      fjall
//!  DIR/store.aside-<disk>-<boot>/   a store that turned out to be an old copy, for the operator
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use dynkv_ring::NodeId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The format this version writes. It reads no other.
const FORMAT: u32 = 1;

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// It, or a file in it, cannot be read or written.
    #[error("the data directory {path} cannot be used: {error}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process has it open.
    #[error(
        "the data directory {path} is in use by another process: stop that one, or give this node a directory of its own"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another node.
    #[error(
        "the data directory {path} belongs to node {found}, this is node {expected}: give every node a directory of its own"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wanted it.
        expected: NodeId,
    },
    /// It belongs to a node of another cluster.
    #[error(
        "the data directory {path} belongs to cluster {found}, this node's certificate is of cluster {expected}: give it another directory"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wanted it.
        expected: String,
    },
    /// It was written by a newer version.
    #[error(
        "the data directory {path} is of format {found}, this version knows format {FORMAT}: start it with the version that wrote it, or a newer one"
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// What it says of itself makes no sense, or is missing beside a store.
    #[error(
        "{path} cannot be read: {reason}: restore it from a backup, or start the node with an empty directory"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The format comes first and alone: a newer version may change everything behind it.
#[derive(Deserialize)]
struct Stamp {
    format: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    format: u32,
    cluster: String,
    node: String,
    disk: u64,
    boot: u64,
}

/// A locked data directory. The lock goes with the value.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Random, drawn when the directory was made.
    pub(crate) disk: u64,
    /// Counts the starts, this one included.
    pub(crate) boot: u64,
    identity: Identity,
    _lock: File,
}

impl DataDir {
    /// Opens `path` for `node` of `cluster`, or makes it with `new_disk` as its disk id.
    pub(crate) fn open(
        path: &Path,
        cluster: &str,
        node: NodeId,
        new_disk: u64,
    ) -> Result<DataDir, DataDirError> {
        fs::create_dir_all(path).map_err(|error| io(path, error))?;
        let lock_path = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| io(&lock_path, error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => DataDirError::InUse { path: path.into() },
            TryLockError::Error(error) => io(&lock_path, error),
        })?;
        let identity_path = path.join("node.json");
        let identity = match fs::read(&identity_path) {
            Ok(bytes) => {
                let mut identity = read_identity(path, &identity_path, &bytes, cluster, node)?;
                identity.boot += 1;
                if !path.join("store").exists() {
                    // Whatever the disk of this id held is gone: it must not be taken for that one.
                    identity.disk = new_disk;
                }
                identity
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.join("store").exists() {
                    let reason = "it is missing, but there is a store beside it".into();
                    return Err(DataDirError::Damaged { path: identity_path, reason });
                }
                Identity {
                    format: FORMAT,
                    cluster: cluster.into(),
                    node: node.to_string(),
                    disk: new_disk,
                    boot: 1,
                }
            }
            Err(error) => return Err(io(&identity_path, error)),
        };
        write_atomically(path, &identity_path, &identity).map_err(|error| io(&identity_path, error))?;
        Ok(DataDir { path: path.into(), disk: identity.disk, boot: identity.boot, identity, _lock: lock })
    }

    /// Sets the store aside, which must be closed: an empty one under the id `new_disk` takes its place. Returns where it is.
    pub(crate) fn set_aside(&mut self, new_disk: u64) -> Result<PathBuf, DataDirError> {
        let aside = self.path.join(format!("store.aside-{:016x}-{}", self.disk, self.boot));
        self.identity.disk = new_disk;
        let identity_path = self.path.join("node.json");
        // First, so that a crash in between leaves the old store under the new id, to be set aside once more, and not an empty
        // one under the old id.
        write_atomically(&self.path, &identity_path, &self.identity)
            .map_err(|error| io(&identity_path, error))?;
        fs::rename(self.store(), &aside).map_err(|error| io(&aside, error))?;
        self.disk = new_disk;
        Ok(aside)
    }

    /// Where the store is.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }
}

fn io(path: &Path, error: io::Error) -> DataDirError {
    DataDirError::Io { path: path.into(), error }
}

fn read_identity(
    dir: &Path,
    file: &Path,
    bytes: &[u8],
    cluster: &str,
    node: NodeId,
) -> Result<Identity, DataDirError> {
    let damaged =
        |error: serde_json::Error| DataDirError::Damaged { path: file.into(), reason: error.to_string() };
    let stamp: Stamp = serde_json::from_slice(bytes).map_err(damaged)?;
    if stamp.format != FORMAT {
        return Err(DataDirError::Format { path: dir.into(), found: stamp.format });
    }
    let identity: Identity = serde_json::from_slice(bytes).map_err(damaged)?;
    if identity.cluster != cluster {
        let (found, expected) = (identity.cluster, cluster.into());
        return Err(DataDirError::OtherCluster { path: dir.into(), found, expected });
    }
    if identity.node != node.as_str() {
        return Err(DataDirError::OtherNode { path: dir.into(), found: identity.node, expected: node });
    }
    Ok(identity)
}

/// Old or new, never half: a crash at any moment leaves one of them.
fn write_atomically(dir: &Path, path: &Path, identity: &Identity) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(identity)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The rename itself is durable only with its directory.
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        text.parse().expect("a good id")
    }

    fn open(dir: &Path, cluster: &str, node: &str) -> Result<DataDir, DataDirError> {
        DataDir::open(dir, cluster, id(node), 77)
    }

    #[test]
    fn boots_are_counted_and_the_disk_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "c", "n1").unwrap();
        assert_eq!((first.disk, first.boot), (77, 1));
        fs::create_dir(first.store()).unwrap();
        drop(first);
        let second = DataDir::open(dir.path(), "c", id("n1"), 88).unwrap();
        assert_eq!((second.disk, second.boot), (77, 2));
    }

    #[test]
    fn a_store_that_is_gone_or_set_aside_takes_the_disk_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut data_dir = open(dir.path(), "c", "n1").unwrap();
        fs::create_dir(data_dir.store()).unwrap();
        fs::write(data_dir.store().join("f"), "old").unwrap();
        let aside = data_dir.set_aside(88).unwrap();
        assert_eq!(fs::read_to_string(aside.join("f")).unwrap(), "old");
        assert_eq!((data_dir.disk, data_dir.store().exists()), (88, false));
        drop(data_dir);
        assert_eq!(DataDir::open(dir.path(), "c", id("n1"), 99).unwrap().disk, 99);
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let held = open(dir.path(), "c", "n1").unwrap();
        assert!(matches!(open(dir.path(), "c", "n1"), Err(DataDirError::InUse { .. })));
        drop(held);
        assert!(matches!(open(dir.path(), "c", "n2"), Err(DataDirError::OtherNode { .. })));
        assert!(matches!(open(dir.path(), "other", "n1"), Err(DataDirError::OtherCluster { .. })));

        let file = dir.path().join("node.json");
        let newer = fs::read_to_string(&file).unwrap().replace("\"format\": 1", "\"format\": 2");
        fs::write(&file, &newer).unwrap();
        assert!(matches!(open(dir.path(), "c", "n1"), Err(DataDirError::Format { found: 2, .. })));
        fs::write(&file, "{").unwrap();
        assert!(matches!(open(dir.path(), "c", "n1"), Err(DataDirError::Damaged { .. })));
        assert_eq!(fs::read_to_string(&file).unwrap(), "{");
    }

    #[test]
    fn a_store_without_an_identity_is_not_taken_for_new() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("store")).unwrap();
        assert!(matches!(open(dir.path(), "c", "n1"), Err(DataDirError::Damaged { .. })));
    }
}
