//! A throw-away cluster: nodes as separate processes, so that their CPU time can be told from the client's.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use dynkv_client::ClusterFile;
use dynkv_client::net::certs::{CertificateAuthority, Validity};
use dynkv_client::net::{PeerName, Role};
use dynkv_client::proto::{Feature, NodeInfo};
use dynkv_client::ring::{Founding, Member, NodeId, PartitionCount};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::run::LocalNodes;
use crate::connection::Connection;
use crate::error::CliError;
use crate::files::{self, Access};

const CLUSTER: &str = "bench";
const REPLICAS: u8 = 3;
/// A node that takes longer to start or to serve has failed.
const START_MAX: Duration = Duration::from_secs(30);

/// A cluster that ends with this value: its processes are killed, its files deleted.
#[derive(Debug)]
pub(crate) struct ThrowAway {
    nodes: Vec<NodeProcess>,
    file: ClusterFile,
    /// Deleted after the processes have ended: fields are dropped in order.
    dir: TempDir,
}

#[derive(Debug)]
struct NodeProcess {
    id: NodeId,
    address: String,
    child: Child,
    events: mpsc::UnboundedReceiver<Value>,
    log: PathBuf,
}

impl ThrowAway {
    /// Starts and founds a cluster with its data below `parent`, the system's folder for temporary files when absent.
    pub(crate) async fn start(
        count: u8,
        parent: Option<&Path>,
        connection: &Connection,
    ) -> Result<ThrowAway, CliError> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let dir = tempfile::Builder::new().prefix("dyn-bench-").tempdir_in(&parent);
        let dir = dir.map_err(CliError::file("make a folder in", parent))?;
        let ca = CertificateAuthority::create(CLUSTER)?;
        let issued = ca.issue(&PeerName::client(CLUSTER, "bench", Role::Admin)?, Validity::default())?;
        let file = ClusterFile {
            cluster: CLUSTER.to_owned(),
            seeds: Vec::new(),
            ca: ca.cert_pem().to_owned(),
            certificate: issued.cert_pem,
            key: issued.key_pem,
        };
        // From here on whatever goes wrong, being dropped ends what was started.
        let mut cluster = ThrowAway { nodes: Vec::new(), file, dir };
        for number in 1..=count {
            let id = NodeId::try_from(format!("n{number}").as_str()).expect("a letter and digits");
            let mut node = NodeProcess::spawn(id, &ca, cluster.dir.path(), &cluster.file.seeds)?;
            let listening = node.event("listening").await?;
            node.address = listening.parse::<SocketAddr>().map_err(|_| node.failed())?.to_string();
            cluster.file.seeds.push(node.address.clone());
            cluster.nodes.push(node);
        }
        cluster.found(connection).await?;
        for node in &mut cluster.nodes {
            node.event("serving").await?;
        }
        Ok(cluster)
    }

    async fn found(&self, connection: &Connection) -> Result<(), CliError> {
        let client = connection.client_of(&self.file).await?;
        let founding = Founding {
            cluster: CLUSTER.to_owned(),
            partitions: PartitionCount::default(),
            replicas: REPLICAS,
            members: self.nodes.iter().map(|node| Member::new(node.id)).collect(),
        };
        // Each node knows better: boot counter 0 gives way to whatever it says itself.
        let info = |node: &NodeProcess| NodeInfo {
            id: node.id,
            address: node.address.clone(),
            boot: 0,
            disk: 0,
            version: String::new(),
        };
        let nodes = self.nodes.iter().map(info).collect();
        let founded = client.found(founding, Feature::ALL, nodes).await;
        founded.map(drop).map_err(CliError::of("founding a cluster"))?;
        client.close().await;
        Ok(())
    }

    /// For clients.
    pub(crate) fn file(&self) -> &ClusterFile {
        &self.file
    }

    pub(crate) fn local_nodes(&self) -> LocalNodes {
        let pids = self.nodes.iter().map(|node| node.child.id()).collect();
        LocalNodes { pids, data: Some(self.dir.path().to_owned()) }
    }

    /// Whether all nodes still run: figures of a cluster with a dead node are not what was asked for.
    pub(crate) fn check(&mut self) -> Result<(), CliError> {
        match self
            .nodes
            .iter_mut()
            .find_map(|node| matches!(node.child.try_wait(), Ok(Some(_))).then_some(node))
        {
            Some(node) => Err(node.failed()),
            None => Ok(()),
        }
    }
}

impl NodeProcess {
    fn spawn(
        id: NodeId,
        ca: &CertificateAuthority,
        dir: &Path,
        seeds: &[String],
    ) -> Result<NodeProcess, CliError> {
        let dir = dir.join(id.as_str());
        let issued = ca.issue(&PeerName::node(CLUSTER, id)?, Validity::default())?;
        let path = |name: &str| dir.join(name);
        files::write(&path("ca.pem"), ca.cert_pem().as_bytes(), Access::Public)?;
        files::write(&path("cert.pem"), issued.cert_pem.as_bytes(), Access::Public)?;
        files::write(&path("key.pem"), issued.key_pem.as_bytes(), Access::Private)?;
        let log = path("log");
        let stderr = File::create(&log).map_err(CliError::file("make", &log))?;

        let program = std::env::current_exe().map_err(|error| {
            CliError::Refused(format!(
                "cannot find this program to start nodes with ({error}): start it by its full path"
            ))
        })?;
        let mut command = Command::new(&program);
        command.args(["node", "start", "--json", "--listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(path("data"));
        command.arg("--ca").arg(path("ca.pem"));
        command.arg("--certificate").arg(path("cert.pem")).arg("--key").arg(path("key.pem"));
        for seed in seeds {
            command.args(["--seed", seed]);
        }
        if std::env::var_os("DYN_LOG").is_none() {
            command.env("DYN_LOG", "warn");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(CliError::file("run", program))?;
        let (sender, events) = mpsc::unbounded_channel();
        if let Some(stdout) = child.stdout.take() {
            // To the end: a node must not find its output closed.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = sender.send(serde_json::from_str(&line).unwrap_or(Value::Null));
                }
            });
        }
        Ok(NodeProcess { id, address: String::new(), child, events, log })
    }

    /// Waits until the node tells of `event`; the address it listens on.
    async fn event(&mut self, event: &str) -> Result<String, CliError> {
        let waited = timeout(START_MAX, async {
            while let Some(told) = self.events.recv().await {
                if told["event"] == event {
                    return told["listen"].as_str().map(str::to_owned);
                }
            }
            None
        });
        match waited.await {
            Ok(Some(listen)) => Ok(listen),
            Ok(None) | Err(_) => Err(self.failed()),
        }
    }

    /// With how it ended, and the last line of its log, which is about to be deleted.
    fn failed(&mut self) -> CliError {
        let mut reasons = Vec::new();
        if let Ok(Some(status)) = self.child.try_wait() {
            reasons.push(status.to_string());
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        reasons.extend(log.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned));
        if reasons.is_empty() {
            reasons.push("it says nothing".to_owned());
        }
        CliError::Refused(format!(
            "node {} of the throw-away cluster does not run ({}): free memory and disk, or name another folder with --dir",
            self.id,
            reasons.join("; ")
        ))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Both fail only for a process that has ended. Nothing of its data is wanted, so there is nothing to end in order.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
