//! `dyn dev`

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use dynkv_client::ClusterFile;
use dynkv_client::proto::NodeInfo;
use dynkv_client::ring::{Founding, Member, PartitionCount};
use dynkv_node::NodeConfig;
use serde_json::json;
use tokio::task::JoinSet;

use crate::connection::block_on;
use crate::dev::CLUSTER;
use crate::dev::folder::Folder;
use crate::dev::host::Host;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;
use crate::signals::Stop;

/// Run a cluster on this machine, to try things out
///
/// Several nodes in one process, with certificates made on the spot. The data stays between runs. While it runs, `dyn put`,
/// `dyn get` and the other commands find it without flags.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// How many nodes [default: 3, or as many as the cluster was made with]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: Option<u8>,
    /// Where to keep certificates and data [default: $XDG_DATA_HOME/dynkv/dev]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Listen on this port and those behind it [default: the ports of the last run, or free ones]
    #[arg(long, value_name = "BASE", value_parser = clap::value_parser!(u16).range(1..=65_520))]
    port: Option<u16>,
    /// Print one line of JSON when the cluster is ready
    #[arg(long)]
    json: bool,
}

impl Dev {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        let begun = Instant::now();
        let dir = match &self.dir {
            // Absolute, because the path is printed for other shells.
            Some(dir) => std::path::absolute(dir).map_err(CliError::file("use the folder", dir))?,
            None => default_dir(),
        };
        let folder = Folder::open(&dir, self.nodes)?;
        block_on(async {
            let mut stop = Stop::listen()?;
            let mut hosts = Vec::new();
            let ended = tokio::select! {
                signal = stop.recv() => Ok(signal),
                ready = self.start(&folder, &mut hosts) => match ready {
                    Err(error) => Err(error),
                    Ok(()) => {
                        self.tell_ready(&folder, &hosts, begun);
                        let mut gone = JoinSet::new();
                        for host in &hosts {
                            gone.spawn(host.gone());
                        }
                        tokio::select! {
                            signal = stop.recv() => Ok(signal),
                            Some(Ok(error)) = gone.join_next() => Err(error),
                        }
                    }
                },
            };
            if let Ok(signal) = ended {
                output::note(format_args!("stopping on {signal}..."));
            }
            // Waiting for threads would hold up this one, and with it a second signal.
            let stopped = tokio::task::spawn_blocking(move || stop_all(hosts));
            tokio::select! {
                _ = stopped => {}
                _ = stop.recv() => {
                    output::note("stopped at once: what was under way is unknown");
                    // A normal end would wait for the nodes' threads.
                    std::process::exit(Exit::Interrupted as i32);
                }
            }
            ended.map(|_| {
                output::note(format_args!("stopped; the data stays in {}", dir.display()));
                Exit::Ok
            })
        })
    }

    /// Starts the nodes, and founds the cluster if that was not done in an earlier run.
    async fn start(&self, folder: &Folder, hosts: &mut Vec<Host>) -> Result<(), CliError> {
        let ca = folder.authority()?;
        let last = folder.last_addresses();
        for (index, id) in folder.ids().into_iter().enumerate() {
            let port = match self.port {
                Some(base) => base + index as u16,
                None => last.get(index).map_or(0, SocketAddr::port),
            };
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut config = NodeConfig::new(folder.data_dir(id), listen, folder.identity(&ca, id)?);
            config.seeds = addresses(hosts);
            hosts.push(Host::start(config, self.port.is_none()).await?);
        }
        if hosts.iter().all(|host| !host.founded) {
            let founding = Founding {
                cluster: CLUSTER.to_owned(),
                partitions: PartitionCount::default(),
                replicas: 3,
                members: hosts.iter().map(|host| Member::new(host.info.id)).collect(),
            };
            let nodes: Vec<NodeInfo> = hosts.iter().map(|host| host.info.clone()).collect();
            // The last one has all others as seeds.
            if let Some(host) = hosts.last() {
                host.found(founding, nodes).await?;
            }
        }
        for host in &*hosts {
            host.serving().await?;
        }
        folder.save_cluster_file(&ca, addresses(hosts))?;
        Ok(())
    }

    fn tell_ready(&self, folder: &Folder, hosts: &[Host], begun: Instant) {
        let path = folder.cluster_file_path();
        let ready_ms = begun.elapsed().as_millis() as u64;
        // The cluster goes on when nobody reads this.
        let _ = if self.json {
            let node = |host: &Host| json!({"node": host.info.id.to_string(), "address": host.info.address});
            output::json(&json!({
                "event": "ready",
                "cluster_file": path.display().to_string(),
                "nodes": hosts.iter().map(node).collect::<Vec<_>>(),
                "ready_ms": ready_ms,
            }))
        } else {
            let count = output::count(hosts.len() as u64, "node");
            let list: String =
                hosts.iter().map(|host| format!("  {}  {}\n", host.info.id, host.info.address)).collect();
            // The default one is found without being named.
            let named = if path == ClusterFile::default_path() {
                String::new()
            } else {
                format!("  export DYN_CLUSTER='{}'\n", path.display())
            };
            output::line(format_args!(
                "cluster {CLUSTER} is ready with {count} after {ready_ms} ms\n{list}\nIn another shell:\n{named}  \
                 dyn put carts/alice '2 apples'\n  dyn get carts/alice\n  dyn status\n\nCtrl-C stops it; the data stays in {}",
                path.parent().unwrap_or(&path).display()
            ))
        };
    }
}

fn addresses(hosts: &[Host]) -> Vec<String> {
    hosts.iter().map(|host| host.info.address.clone()).collect()
}

/// Stops all at the same time: each waits for its own requests.
fn stop_all(hosts: Vec<Host>) {
    std::thread::scope(|scope| {
        for host in hosts {
            scope.spawn(|| host.stop());
        }
    });
}

/// The folder where everybody looks for a cluster file.
fn default_dir() -> PathBuf {
    let file = ClusterFile::default_path();
    file.parent().map_or_else(PathBuf::new, PathBuf::from)
}
