//! The one file a user needs to reach a cluster.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{env, fmt, process};

use dynkv_net::{Identity, IdentityError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What it takes to reach a cluster: its name, some nodes' addresses, and a certificate it accepts.
///
/// One TOML file holds it all, so that it can be handed over, mounted or copied as a whole:
///
/// ```toml
/// cluster = "dev"
/// seeds = ["127.0.0.1:7401", "127.0.0.1:7402"]
/// ca = '''
/// -----BEGIN CERTIFICATE-----
/// ...
/// '''
/// certificate = '''...'''
/// key = '''...'''
/// ```
///
/// `dyn dev` and `dyn cert client` write such files. Whoever reads one acts as its certificate's holder, so
/// [`save`](ClusterFile::save) makes it readable for its owner only. Neither `Debug` nor `Display` shows the key.
///
/// ```
/// use dynkv_client::ClusterFile;
///
/// let file: ClusterFile = r#"
///     cluster = "dev"
///     seeds = ["127.0.0.1:7401"]
///     ca = "..."
///     certificate = "..."
///     key = "secret"
/// "#.parse()?;
/// assert_eq!(file.to_string(), "cluster dev at 127.0.0.1:7401");
/// assert!(!format!("{file:?}").contains("secret"));
/// # Ok::<(), dynkv_client::ClusterFileError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// The cluster's name, as in its certificates.
    pub cluster: String,
    /// Nodes to ask first, `host:port` each. Any one that answers is enough: it knows the others.
    pub seeds: Vec<String>,
    /// The cluster's CA certificate, PEM.
    pub ca: String,
    /// The client's certificate, PEM.
    pub certificate: String,
    /// The private key of that certificate, PEM.
    pub key: String,
}

impl ClusterFile {
    /// The file that `dyn dev` writes and everybody looks for when told nothing else:
    /// `$XDG_DATA_HOME/dynkv/dev/cluster.toml`, or `$HOME/.local/share/dynkv/dev/cluster.toml` where that variable is
    /// unset or not absolute. Relative to the working directory for a user without a home.
    pub fn default_path() -> PathBuf {
        default_path_from(env::var_os("XDG_DATA_HOME"), env::home_dir())
    }

    /// Reads the file at `path`.
    ///
    /// The certificates are not looked at yet; [`identity`](ClusterFile::identity) and
    /// [`Client::connect`](crate::Client::connect) do that.
    ///
    /// # Errors
    /// [`ClusterFileError::Missing`], [`ClusterFileError::Unreadable`] or [`ClusterFileError::Invalid`].
    pub fn load(path: impl AsRef<Path>) -> Result<ClusterFile, ClusterFileError> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ClusterFileError::Missing { path: path.to_owned() },
            _ => ClusterFileError::Unreadable { path: path.to_owned(), source },
        })?;
        parse(&text).map_err(|reason| ClusterFileError::Invalid { path: Some(path.to_owned()), reason })
    }

    /// Writes the file, all of it or nothing: a reader never meets half a file, and a crash leaves the old one. Missing
    /// folders are made. On Unix only its owner may read it.
    ///
    /// # Errors
    /// [`ClusterFileError::Write`]; what was at `path` before is unchanged then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ClusterFileError> {
        let path = path.as_ref();
        self.write(path).map_err(|source| ClusterFileError::Write { path: path.to_owned(), source })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string_pretty(self).map_err(io::Error::other)?;
        let name = path.file_name().ok_or_else(|| io::Error::other("this path names no file"))?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder)?;
        // In the same folder, because only there is a rename atomic.
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", process::id()));
        let temporary = folder.join(temporary);
        let written = write_private(&temporary, text.as_bytes()).and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // The first error is the one to report; a left-over temporary file does no harm.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Checks the certificates and puts them together for a connection.
    ///
    /// # Errors
    /// [`ClusterFileError::Certificate`] for a certificate that is expired, foreign or unreadable;
    /// [`ClusterFileError::OtherCluster`] when it is of another cluster than the file says.
    pub fn identity(&self) -> Result<Identity, ClusterFileError> {
        let identity = Identity::from_pem(&self.ca, &self.certificate, &self.key)?;
        let certified = identity.name().cluster();
        if certified == self.cluster {
            Ok(identity)
        } else {
            Err(ClusterFileError::OtherCluster {
                file: self.cluster.clone(),
                certificate: certified.to_owned(),
            })
        }
    }
}

fn default_path_from(data_home: Option<OsString>, home: Option<PathBuf>) -> PathBuf {
    let data_home = data_home.map(PathBuf::from).filter(|path| path.is_absolute());
    let data_home = data_home.unwrap_or_else(|| home.unwrap_or_default().join(".local").join("share"));
    data_home.join("dynkv").join("dev").join("cluster.toml")
}

/// The parser's own text shows the offending line; near a key that would be the key. So: only what and where.
fn parse(text: &str) -> Result<ClusterFile, String> {
    toml::from_str(text).map_err(|error: toml::de::Error| match error.span() {
        Some(span) => {
            let line = 1 + text[..span.start.min(text.len())].matches('\n').count();
            format!("line {line}: {}", error.message())
        }
        None => error.message().to_owned(),
    })
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What a crashed writer left behind under our process id; it may have other permissions.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file: File = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

impl std::str::FromStr for ClusterFile {
    type Err = ClusterFileError;

    fn from_str(text: &str) -> Result<ClusterFile, ClusterFileError> {
        parse(text).map_err(|reason| ClusterFileError::Invalid { path: None, reason })
    }
}

/// The cluster and its seeds.
impl fmt::Display for ClusterFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {} at {}", self.cluster, self.seeds.join(", "))
    }
}

impl fmt::Debug for ClusterFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterFile")
            .field("cluster", &self.cluster)
            .field("seeds", &self.seeds)
            .finish_non_exhaustive()
    }
}

/// Why a cluster file cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClusterFileError {
    /// There is no such file.
    #[error(
        "there is no cluster file at {}: start a cluster with `dyn dev`, or name its file with --cluster or DYN_CLUSTER",
        path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is there but cannot be read.
    #[error("the cluster file {} cannot be read ({source}): check its permissions and your path", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text is not a cluster file.
    #[error(
        "{} is not a cluster file ({reason}): write a new one with `dyn cert client`, or start `dyn dev`",
        path.as_ref().map_or("this text".into(), |path| path.display().to_string())
    )]
    Invalid {
        /// The file, unless the text came from elsewhere.
        path: Option<PathBuf>,
        /// What is wrong and in which line.
        reason: String,
    },
    /// The file cannot be written; what was there before is unchanged.
    #[error("the cluster file {} cannot be written ({source}): check the folder's permissions and free space", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The certificates in the file are of no use.
    #[error(transparent)]
    Certificate(#[from] IdentityError),
    /// The file was put together from two clusters.
    #[error(
        "the cluster file is of cluster '{file}' but its certificate is of cluster '{certificate}': write a new one with `dyn cert client`"
    )]
    OtherCluster {
        /// What the file says.
        file: String,
        /// What its certificate says.
        certificate: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ClusterFile {
        ClusterFile {
            cluster: "dev".into(),
            seeds: vec!["127.0.0.1:7401".into(), "[::1]:7402".into()],
            ca: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            certificate: "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n".into(),
            key: "-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n".into(),
        }
    }

    #[test]
    fn saved_files_load_again_and_replace_older_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/cluster.toml");
        let mut file = sample();
        file.save(&path).unwrap();
        assert_eq!(ClusterFile::load(&path).unwrap(), file);
        file.seeds.pop();
        file.save(&path).unwrap();
        assert_eq!(ClusterFile::load(&path).unwrap(), file);
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "a temporary file was left behind");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\nSECRET\n"), "PEM is not written as it is:\n{text}");
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_reads_a_saved_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.toml");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        sample().save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn errors_say_what_to_do_and_never_show_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let missing = ClusterFile::load(folder.path().join("none.toml")).unwrap_err();
        assert!(matches!(missing, ClusterFileError::Missing { .. }));
        assert!(missing.to_string().contains("dyn dev") && missing.to_string().contains("DYN_CLUSTER"));

        let unreadable = ClusterFile::load(folder.path()).unwrap_err();
        assert!(matches!(unreadable, ClusterFileError::Unreadable { .. }), "{unreadable}");

        let good = toml::to_string(&sample()).unwrap();
        for broken in [
            good.replace("seeds", "seed"),
            good.replace("key = ", "key = SECRET"),
            good.replace("cluster = ", "cluster = 3 #"),
            format!("{good}\nport = 3"),
            String::new(),
        ] {
            let path = folder.path().join("broken.toml");
            fs::write(&path, broken).unwrap();
            let error = ClusterFile::load(&path).unwrap_err();
            assert!(matches!(error, ClusterFileError::Invalid { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("broken.toml") && !text.contains("SECRET") && !text.contains('\n'),
                "{text}"
            );
        }
        assert!(!format!("{0:?} {0}", sample()).contains("SECRET"));
    }

    #[test]
    fn the_default_path_follows_the_environment() {
        let path = |data: Option<&str>, home: Option<&str>| {
            default_path_from(data.map(OsString::from), home.map(PathBuf::from)).display().to_string()
        };
        assert_eq!(path(Some("/data"), Some("/home/ada")), "/data/dynkv/dev/cluster.toml");
        assert_eq!(path(None, Some("/home/ada")), "/home/ada/.local/share/dynkv/dev/cluster.toml");
        assert_eq!(path(Some("data"), Some("/home/ada")), "/home/ada/.local/share/dynkv/dev/cluster.toml");
        assert_eq!(path(None, None), ".local/share/dynkv/dev/cluster.toml");
    }
}
