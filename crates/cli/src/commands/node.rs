//! `dyn node`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use dynkv_client::net::Identity;
use dynkv_client::ring::NodeId;
use dynkv_node::{Node as RunningNode, NodeConfig, NotServing};
use serde_json::json;
use tokio::time::timeout;

use crate::config::{NodeFile, TEMPLATE};
use crate::connection::block_on;
use crate::error::CliError;
use crate::exit::Exit;
use crate::member::{address_arg, check_address};
use crate::signals::Stop;
use crate::{files, output};

/// A node that has not served by then tells what it waits for. One of a founded cluster hears of the founding sooner: nodes
/// gossip every second.
const QUIET: Duration = Duration::from_secs(2);

/// Run one node of a cluster
#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    Start(Box<Start>),
    Config(Config),
}

/// Print a commented configuration file with the defaults
#[derive(Debug, Args)]
struct Config {}

/// Run a node until SIGTERM or Ctrl-C, which stop it in good order
///
/// Settings come from flags, then from the file of --config. Logs go to stderr; DYN_LOG says which.
#[derive(Debug, Args)]
struct Start {
    /// The configuration file; `dyn node config` prints one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the node keeps its data
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The address to listen on (UDP); port 0 takes any free one
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Where others reach this node [default: where it listens]
    #[arg(long, value_name = "HOST:PORT", value_parser = address_arg)]
    advertise: Option<String>,
    /// Where another node is; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = address_arg)]
    seed: Vec<String>,
    /// The cluster's CA certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The node's certificate, which says which node of which cluster this is
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The certificate's private key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Bytes of hints kept for other nodes at most [default: 4 GiB]
    #[arg(long, value_name = "BYTES")]
    hint_bytes_max: Option<u64>,

    /// Memory for cached blocks of the store, in bytes [default: 64 MiB]
    #[arg(long, value_name = "BYTES")]
    cache_bytes: Option<u64>,
    /// Print what happens as JSON, a line for each event
    #[arg(long)]
    json: bool,
}

impl Node {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        match self.command {
            NodeCommand::Start(start) => start.run(),
            NodeCommand::Config(Config {}) => output::data(TEMPLATE.as_bytes()).map(|()| Exit::Ok),
        }
    }
}

impl Start {
    fn run(self) -> Result<Exit, CliError> {
        let file = self.config.as_deref().map(NodeFile::load).transpose()?.unwrap_or_default();
        let json = self.json;
        let config = self.resolve(file)?;
        block_on(async {
            // First of all: a signal while the store opens must not tear it down.
            let mut stop = Stop::listen()?;
            let cluster = config.identity.name().cluster().to_owned();
            loop {
                // A start after the first sets the disk aside that the one before has found to be old.
                if let Some(exit) = run_once(config.clone(), json, &cluster, &mut stop).await? {
                    return Ok(exit);
                }
            }
        })
    }

    /// Flags first, then the file.
    fn resolve(self, file: NodeFile) -> Result<NodeConfig, CliError> {
        let need = |what: &str, flag: &str| {
            CliError::Usage(format!(
                "the node needs {what}: give --{flag}, or a file with --config (`dyn node config` prints one)"
            ))
        };
        let data_dir =
            self.data_dir.or(file.data_dir).ok_or_else(|| need("a folder for its data", "data-dir"))?;
        let listen = self.listen.or(file.listen).ok_or_else(|| need("an address to listen on", "listen"))?;
        let ca = self.ca.or(file.ca).ok_or_else(|| need("the cluster's CA certificate", "ca"))?;
        let certificate =
            self.certificate.or(file.certificate).ok_or_else(|| need("its certificate", "certificate"))?;
        let key = self.key.or(file.key).ok_or_else(|| need("its private key", "key"))?;

        let texts = [&ca, &certificate, &key].map(|path| files::read_text(path));
        let [ca_pem, cert_pem, key_pem] = texts;
        let identity = Identity::from_pem(&ca_pem?, &cert_pem?, &key_pem?)
            .map_err(|source| CliError::NodeCertificate { path: certificate, source })?;
        let mut config = NodeConfig::new(data_dir, listen, identity);
        config.advertise = self.advertise.or(file.advertise);
        config.seeds = if self.seed.is_empty() { file.seeds } else { self.seed };
        for address in config.seeds.iter().chain(&config.advertise) {
            check_address(address)?;
        }
        if let Some(hint_bytes_max) = self.hint_bytes_max.or(file.hint_bytes_max) {
            config.hint_bytes_max = hint_bytes_max;
        }
        if let Some(cache_bytes) = self.cache_bytes.or(file.cache_bytes) {
            config.cache_bytes = cache_bytes;
        }
        Ok(config)
    }
}

/// Runs the node until it is told to stop; `None` when it is to be started again.
async fn run_once(
    config: NodeConfig,
    json: bool,
    cluster: &str,
    stop: &mut Stop,
) -> Result<Option<Exit>, CliError> {
    let node = RunningNode::start(config).await?;
    let told = Told::new(json, &node);
    let id = node.id();
    told.event("listening", &format!("node {id} of cluster {cluster} listens on {}", told.listen));
    let served = tokio::select! {
        signal = stop.recv() => Ok(signal),
        served = serve(&node, &told) => match served {
            // It stays, and says why to whoever asks: restarted again and again it would dispute the other's place.
            refused @ NotServing::Duplicate { .. } => {
                told.event("refusing", &format!("node {id} serves nothing: {refused}"));
                stop.recv().await;
                Err(refused)
            }
            refused => Err(refused),
        },
    };
    match &served {
        Ok(signal) => told.event("stopping", &format!("node {id} stops on {signal}")),
        Err(refused @ NotServing::OldDisk { .. }) => {
            told.event("restarting", &format!("node {id} starts again: {refused}"));
        }
        Err(_) => {}
    }
    tokio::select! {
        () = node.shutdown() => told.event("stopped", &format!("node {id} has stopped")),
        signal = stop.recv() => {
            output::note(format_args!("{signal} again: stopped at once, what was under way is unknown"));
            return Ok(Some(Exit::Interrupted));
        }
    }
    match served {
        Ok(_) => Ok(Some(Exit::Ok)),
        Err(NotServing::OldDisk { .. }) => Ok(None),
        Err(refused) => Err(CliError::Refused(refused.to_string())),
    }
}

/// Tells when the node serves. Returns when it does not, or no longer.
async fn serve(node: &RunningNode, told: &Told) -> NotServing {
    match wait_serving(node, told).await {
        Ok(()) => {
            told.event("serving", &format!("node {} serves at {}", node.id(), told.address));
            node.refused().await
        }
        Err(refused) => refused,
    }
}

/// Waits until the node serves; says what it waits for if that takes longer.
async fn wait_serving(node: &RunningNode, told: &Told) -> Result<(), NotServing> {
    if let Ok(served) = timeout(QUIET, node.serving()).await {
        return served;
    }
    if !node.is_founded() {
        told.event(
            "waiting",
            &format!("node {} is waiting to be founded: run `dyn cluster create`", node.id()),
        );
    }
    node.serving().await
}

/// Tells on stdout what happens to a node: programs that start nodes read it.
struct Told {
    json: bool,
    node: NodeId,
    listen: SocketAddr,
    address: String,
}

impl Told {
    fn new(json: bool, node: &RunningNode) -> Told {
        Told { json, node: node.id(), listen: node.local_addr(), address: node.info().address.clone() }
    }

    fn event(&self, event: &str, text: &str) {
        let Told { json, node, listen, address } = self;
        // A node goes on when nobody listens to it any more.
        let _ = if *json {
            let (node, listen) = (node.to_string(), listen.to_string());
            output::json(&json!({"event": event, "node": node, "listen": listen, "address": address}))
        } else {
            output::line(text)
        };
    }
}
