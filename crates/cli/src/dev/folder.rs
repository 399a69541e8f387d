//! What `dyn dev` keeps between runs.
//!
//! ```text
//! DIR/dev.toml       for how many nodes it was made
//! DIR/dev.lock       locked while a cluster runs here
//! DIR/cluster.toml   for clients: addresses, and an admin's certificate
//! DIR/ca/            the certificate authority
//! DIR/n1/            certificate, key and data of node n1; and so on
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dynkv_client::ClusterFile;
use dynkv_client::net::certs::{CertificateAuthority, Validity};
use dynkv_client::net::{Identity, PeerName, Role};
use dynkv_client::ring::NodeId;
use serde::{Deserialize, Serialize};

use super::CLUSTER;
use crate::commands::cert::{load_ca, save_ca};
use crate::error::CliError;
use crate::files::{self, Access};

/// Certificates that expire sooner than this are renewed at a start.
const RENEW_BEFORE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The folder of a cluster in one process, locked for us.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    nodes: u8,
    /// Unlocked when dropped, or when the process ends in whatever way.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    nodes: u8,
}

impl Folder {
    /// Opens the folder at `path`, or makes it for `nodes` nodes, which is what it must have been made for otherwise.
    pub(crate) fn open(path: &Path, nodes: Option<u8>) -> Result<Folder, CliError> {
        const NODES: u8 = 3;
        let shown = path.display();
        let made_path = path.join("dev.toml");
        fs::create_dir_all(path).map_err(CliError::file("make the folder", path))?;
        let made = match fs::read_to_string(&made_path) {
            Ok(text) => Some(toml::from_str::<Made>(&text).map_err(|_| {
                CliError::Usage(format!(
                    "{} was damaged or not made by this version of `dyn dev`: use another --dir",
                    made_path.display()
                ))
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refuse_foreign(path)?;
                None
            }
            Err(error) => return Err(CliError::file("read", made_path)(error)),
        };
        if let (Some(Made { nodes: made }), Some(wanted)) = (&made, nodes)
            && *made != wanted
        {
            return Err(CliError::Usage(format!(
                "the cluster in {shown} was made with {made} nodes, not {wanted}: use --nodes {made}, or make another one with --dir"
            )));
        }

        let lock_path = path.join("dev.lock");
        let lock = File::create(&lock_path).map_err(CliError::file("make", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(CliError::Refused(format!(
                    "a `dyn dev` already runs in {shown}: use that one, stop it, or make another cluster with --dir"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(CliError::file("lock", lock_path)(error)),
        }
        let nodes = match made {
            Some(Made { nodes }) => nodes,
            None => {
                let nodes = nodes.unwrap_or(NODES);
                files::write(&made_path, format!("nodes = {nodes}\n").as_bytes(), Access::Public)?;
                nodes
            }
        };
        Ok(Folder { path: path.to_owned(), nodes, _lock: lock })
    }

    /// The nodes' ids, in order.
    pub(crate) fn ids(&self) -> Vec<NodeId> {
        (1..=self.nodes)
            .map(|n| NodeId::try_from(format!("n{n}").as_str()).expect("a letter and digits"))
            .collect()
    }

    pub(crate) fn data_dir(&self, id: NodeId) -> PathBuf {
        self.path.join(id.as_str()).join("data")
    }

    pub(crate) fn cluster_file_path(&self) -> PathBuf {
        self.path.join("cluster.toml")
    }

    /// Where the nodes were the last time, in order; fewer where that is not known.
    pub(crate) fn last_addresses(&self) -> Vec<SocketAddr> {
        let file = ClusterFile::load(self.cluster_file_path());
        file.map_or_else(
            |_| Vec::new(),
            |file| file.seeds.iter().map_while(|seed| seed.parse().ok()).collect(),
        )
    }

    /// The authority: the one that is here, or a new one. It does not expire in effect: a peer's chain ends at it, and how long
    /// the end itself is in force is not looked at.
    pub(crate) fn authority(&self) -> Result<CertificateAuthority, CliError> {
        let dir = self.path.join("ca");
        if dir.join("ca.pem").exists() {
            return load_ca(&dir);
        }
        let ca = CertificateAuthority::create(CLUSTER)?;
        save_ca(&ca, &dir)?;
        Ok(ca)
    }

    /// A node's identity: the one that is here, or a new one if there is none or it is about to expire.
    pub(crate) fn identity(&self, ca: &CertificateAuthority, id: NodeId) -> Result<Identity, CliError> {
        let dir = self.path.join(id.as_str());
        let (cert_path, key_path) = (dir.join("cert.pem"), dir.join("key.pem"));
        let kept = fs::read_to_string(&cert_path).and_then(|cert| Ok((cert, fs::read_to_string(&key_path)?)));
        if let Ok((cert, key)) = kept
            && let Ok(identity) = Identity::from_pem(ca.cert_pem(), &cert, &key)
            && lasts(&identity)
        {
            return Ok(identity);
        }
        let issued = ca.issue(&PeerName::node(CLUSTER, id)?, Validity::default())?;
        files::write(&key_path, issued.key_pem.as_bytes(), Access::Private)?;
        files::write(&cert_path, issued.cert_pem.as_bytes(), Access::Public)?;
        Identity::from_pem(ca.cert_pem(), &issued.cert_pem, &issued.key_pem)
            .map_err(|source| CliError::NodeCertificate { path: cert_path, source })
    }

    /// Writes the clients' file, with the certificate that is in it if that is still good.
    pub(crate) fn save_cluster_file(
        &self,
        ca: &CertificateAuthority,
        seeds: Vec<String>,
    ) -> Result<ClusterFile, CliError> {
        let path = self.cluster_file_path();
        let kept = ClusterFile::load(&path).ok().filter(|kept| {
            kept.cluster == CLUSTER
                && kept.ca == ca.cert_pem()
                && kept.identity().is_ok_and(|identity| lasts(&identity) && identity.name().can_administer())
        });
        let file = match kept {
            Some(kept) => ClusterFile { seeds, ..kept },
            None => {
                let issued =
                    ca.issue(&PeerName::client(CLUSTER, "dev", Role::Admin)?, Validity::default())?;
                let (cluster, ca) = (CLUSTER.to_owned(), ca.cert_pem().to_owned());
                ClusterFile { cluster, seeds, ca, certificate: issued.cert_pem, key: issued.key_pem }
            }
        };
        file.save(&path).map_err(CliError::ClusterFile)?;
        Ok(file)
    }
}

fn lasts(identity: &Identity) -> bool {
    identity.not_after() > SystemTime::now() + RENEW_BEFORE
}

/// Refuses a folder with something else in it: nobody wants a cluster among their files.
fn refuse_foreign(path: &Path) -> Result<(), CliError> {
    let entries = fs::read_dir(path).map_err(CliError::file("read the folder", path))?;
    for entry in entries {
        let name = entry.map_err(CliError::file("read the folder", path))?.file_name();
        if name != "dev.lock" {
            return Err(CliError::Usage(format!(
                "{} is not empty and not of `dyn dev` (there is {}): name an empty or a new folder with --dir",
                path.display(),
                name.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, nodes: Option<u8>) -> Result<Folder, CliError> {
        Folder::open(path, nodes)
    }

    #[test]
    fn a_folder_keeps_its_number_of_nodes_and_its_certificates() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("dev");
        let folder = open(&path, Some(2)).unwrap();
        let ids: Vec<String> = folder.ids().iter().map(ToString::to_string).collect();
        assert_eq!(ids, ["n1", "n2"]);
        assert_eq!(folder.last_addresses(), []);

        let ca = folder.authority().unwrap();
        let id = folder.ids()[0];
        let key = |name: &str| fs::read_to_string(path.join("n1").join(name)).unwrap();
        folder.identity(&ca, id).unwrap();
        let first = (key("cert.pem"), key("key.pem"));
        let file = folder.save_cluster_file(&ca, vec!["127.0.0.1:9".into(), "x".into()]).unwrap();
        assert_eq!(folder.last_addresses(), ["127.0.0.1:9".parse().unwrap()]);
        drop(folder);

        let folder = open(&path, None).unwrap();
        assert_eq!(folder.ids().len(), 2);
        let ca = folder.authority().unwrap();
        folder.identity(&ca, id).unwrap();
        assert_eq!((key("cert.pem"), key("key.pem")), first);
        let again = folder.save_cluster_file(&ca, vec!["127.0.0.1:10".into()]).unwrap();
        assert_eq!((again.key, again.seeds), (file.key, vec!["127.0.0.1:10".to_owned()]));
        drop(folder);

        let error = open(&path, Some(3)).unwrap_err();
        assert!(error.to_string().contains("--nodes 2"), "{error}");
    }

    #[test]
    fn expired_certificates_are_renewed() {
        let root = tempfile::tempdir().unwrap();
        let folder = open(root.path(), None).unwrap();
        let ca = folder.authority().unwrap();
        let id = folder.ids()[0];
        let soon = ca.issue(&PeerName::node(CLUSTER, id).unwrap(), Validity::days(6)).unwrap();
        fs::create_dir_all(root.path().join("n1")).unwrap();
        fs::write(root.path().join("n1/cert.pem"), &soon.cert_pem).unwrap();
        fs::write(root.path().join("n1/key.pem"), &soon.key_pem).unwrap();
        assert!(lasts(&folder.identity(&ca, id).unwrap()));

        // What another authority issued is of no use.
        fs::remove_dir_all(root.path().join("ca")).unwrap();
        let other = folder.authority().unwrap();
        assert_ne!(other.cert_pem(), ca.cert_pem());
        assert!(folder.identity(&other, id).is_ok());
    }

    #[test]
    fn one_at_a_time_and_nobody_elses_folder() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("dev");
        let first = open(&path, None).unwrap();
        let error = open(&path, None).unwrap_err();
        assert!(error.to_string().contains("already runs"), "{error}");
        drop(first);
        assert!(open(&path, None).is_ok());

        let error = open(root.path(), None).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert!(!root.path().join("dev.toml").exists());
        fs::write(path.join("dev.toml"), "nodes = many").unwrap();
        assert!(open(&path, None).unwrap_err().to_string().contains("damaged"));
    }
}
