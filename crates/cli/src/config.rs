//! A node's configuration file.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// The commented file that `dyn node config` prints.
pub(crate) const TEMPLATE: &str = include_str!("node.toml");

/// What a node's configuration file says. Everything may also be given by a flag, which comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeFile {
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) advertise: Option<String>,
    #[serde(default)]
    pub(crate) seeds: Vec<String>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) zone: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) weight: Option<u32>,
    pub(crate) hint_bytes_max: Option<u64>,
    pub(crate) cache_bytes: Option<u64>,
}

/// Why a configuration file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    #[error("the configuration file {} cannot be read ({source}): check the path, or print one with `dyn node config`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration file {}, line {line}: {reason}: compare it with `dyn node config`", path.display())]
    Invalid { path: PathBuf, line: usize, reason: String },
}

impl NodeFile {
    /// Reads the file at `path`. Paths in it are relative to its folder.
    pub(crate) fn load(path: &Path) -> Result<NodeFile, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let mut file = NodeFile::parse(&text).map_err(|(line, reason)| ConfigError::Invalid {
            path: path.into(),
            line,
            reason,
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for path in
            [&mut file.data_dir, &mut file.ca, &mut file.certificate, &mut file.key].into_iter().flatten()
        {
            *path = folder.join(&*path);
        }
        Ok(file)
    }

    fn parse(text: &str) -> Result<NodeFile, (usize, String)> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let begin = error.span().map_or(0, |span| span.start.min(text.len()));
            (1 + text[..begin].matches('\n').count(), error.message().to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_valid_file_that_names_every_setting() {
        let file = NodeFile::parse(TEMPLATE).unwrap();
        assert!(file.data_dir.is_some() && file.listen.is_some() && file.certificate.is_some());
        // The settings that are commented out are valid, too.
        let all = TEMPLATE.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        });
        let all = NodeFile::parse(&all.collect::<Vec<_>>().join("\n")).unwrap();
        let NodeFile {
            data_dir,
            listen,
            advertise,
            seeds,
            ca,
            certificate,
            key,
            zone,
            host,
            weight,
            hint_bytes_max,
            cache_bytes,
        } = all;
        assert!(data_dir.is_some() && listen.is_some() && advertise.is_some() && !seeds.is_empty());
        assert!(ca.is_some() && certificate.is_some() && key.is_some() && cache_bytes == Some(64 << 20));
        assert!(zone.is_some() && host.is_some() && weight == Some(1));
        assert_eq!(hint_bytes_max, Some(dynkv_node::HINT_BYTES_MAX));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        fs::write(&path, "data_dir = \"data\"\nkey = \"/etc/n1.key\"").unwrap();
        let file = NodeFile::load(&path).unwrap();
        assert_eq!(file.data_dir, Some(folder.path().join("data")));
        assert_eq!(file.key, Some("/etc/n1.key".into()));
    }

    #[test]
    fn errors_name_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        assert!(matches!(NodeFile::load(&path), Err(ConfigError::Read { .. })));
        for (text, wrong_line) in
            [("\nport = 1", 2), ("listen = \"here\"", 1), ("\n\nseeds = 3", 3), ("x", 1)]
        {
            fs::write(&path, text).unwrap();
            match NodeFile::load(&path) {
                Err(ConfigError::Invalid { line, .. }) => assert_eq!(line, wrong_line, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }
}
