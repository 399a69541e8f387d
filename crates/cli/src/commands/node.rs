//! `dyn node`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use dynkv_client::net::Identity;
use dynkv_client::ring::{Departure, Member, NodeId};
use dynkv_node::{JoinError, Node as RunningNode, NodeConfig, NotServing};
use serde_json::json;
use tokio::time::sleep;

use crate::config::{NodeFile, TEMPLATE};
use crate::connection::block_on;
use crate::error::CliError;
use crate::exit::Exit;
use crate::member::{MemberError, address_arg, check_address};
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
/// Settings come from flags, then from the file of --config. Logs go to stderr; DYN_LOG says which. A node that is no member of its cluster says how it joins, and waits. One that has left ends
/// with exit code 0; one that was removed, or whose id is gone already when it starts, with 3.
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
    /// Join the cluster, once a member is reached, if the node is none: what `dyn cluster plan --join` and `apply` do for several at once
    #[arg(long)]
    join: bool,
    /// The zone it joins in [default: the common one]
    #[arg(long, value_name = "ZONE", requires = "join")]
    zone: Option<String>,
    /// The host it joins on: nodes on one host fail together [default: one of its own]
    #[arg(long, value_name = "HOST", requires = "join")]
    host: Option<String>,
    /// The weight it joins with, 1 to 100: its share of the keys beside the others' [default: 1]
    #[arg(long, value_name = "WEIGHT", requires = "join")]
    weight: Option<u32>,
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
        let (join, config) = self.resolve(file)?;
        block_on(async {
            // First of all: a signal while the store opens must not tear it down.
            let mut stop = Stop::listen()?;
            let cluster = config.identity.name().cluster().to_owned();
            loop {
                // A start after the first sets the disk aside that the one before has found to be old.
                if let Some(exit) = run_once(config.clone(), join.as_ref(), json, &cluster, &mut stop).await?
                {
                    return Ok(exit);
                }
            }
        })
    }

    /// Flags first, then the file. As whom the node joins, if it is to, and how it runs.
    fn resolve(self, file: NodeFile) -> Result<(Option<Member>, NodeConfig), CliError> {
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
        let join = match identity.name().node_id() {
            Some(&node) if self.join => {
                let member = Member::new(node)
                    .with_zone(self.zone.or(file.zone).unwrap_or_default())
                    .with_host(self.host.or(file.host).unwrap_or_default())
                    .with_weight(self.weight.or(file.weight).unwrap_or(1));
                let valid = member.validate();
                valid.map_err(|source| CliError::Member(MemberError::Invalid { id: node, source }))?;
                Some(member)
            }
            _ => None,
        };
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
        Ok((join, config))
    }
}

/// How a run came to its end.
enum Ended {
    /// By a signal.
    Told(&'static str),
    /// Its id is gone from the cluster, for ever.
    Gone(NotServing),
    /// It serves nothing.
    Refused(NotServing),
    /// It was to join, and may not.
    NotJoined(String),
}

/// Runs the node until it is told to stop; `None` when it is to be started again.
async fn run_once(
    config: NodeConfig,
    join: Option<&Member>,
    json: bool,
    cluster: &str,
    stop: &mut Stop,
) -> Result<Option<Exit>, CliError> {
    let node = RunningNode::start(config).await?;
    let told = Told::new(json, &node);
    let id = node.id();
    told.event("listening", &format!("node {id} of cluster {cluster} listens on {}", told.listen));
    // An id that was gone before is a mistake of whoever starts it again.
    let was_gone = matches!(node.not_serving(), Some(NotServing::Gone { .. }));
    let ended = tokio::select! {
        signal = stop.recv() => Ended::Told(signal),
        gone = node.gone() => Ended::Gone(gone),
        ended = serve(&node, join, &told) => match ended {
            // It stays, and says why to whoever asks: restarted again and again it would dispute the other's place, and no restart gives it another version.
            Ended::Refused(refused @ (NotServing::Duplicate { .. } | NotServing::Feature { .. })) => {
                told.event("refusing", &format!("node {id} serves nothing: {refused}"));
                stop.recv().await;
                Ended::Refused(refused)
            }
            ended => ended,
        },
    };
    let has_left = !was_gone && matches!(node.membership().departure(&id), Some(Departure::Left));
    match &ended {
        Ended::Told(signal) => told.event("stopping", &format!("node {id} stops on {signal}")),
        Ended::Refused(refused @ NotServing::OldDisk { .. }) => {
            told.event("restarting", &format!("node {id} starts again: {refused}"));
        }
        Ended::Gone(_) if has_left => told.event(
            "left",
            &format!("node {id} has left cluster {cluster}: what it had is on the others, its data is not needed any more"),
        ),
        _ => {}
    }
    tokio::select! {
        () = node.shutdown() => told.event("stopped", &format!("node {id} has stopped")),
        signal = stop.recv() => {
            output::note(format_args!("{signal} again: stopped at once, what was under way is unknown"));
            return Ok(Some(Exit::Interrupted));
        }
    }
    match ended {
        Ended::Told(_) => Ok(Some(Exit::Ok)),
        Ended::Gone(_) if has_left => Ok(Some(Exit::Ok)),
        Ended::Refused(NotServing::OldDisk { .. }) => Ok(None),
        Ended::Gone(refused) | Ended::Refused(refused) => Err(CliError::Refused(refused.to_string())),
        Ended::NotJoined(reason) => Err(CliError::Refused(reason)),
    }
}

/// Tells when the node serves. Returns when it does not, or no longer.
async fn serve(node: &RunningNode, join: Option<&Member>, told: &Told) -> Ended {
    let joined = async {
        let Some(member) = join else { return Ok(()) };
        if node.join(member.clone()).await? {
            let text = format!("node {} has joined: see what moves to it with `dyn transfers`", node.id());
            told.event("joined", &text);
        }
        Ok::<(), JoinError>(())
    };
    // While it waits to be heard, it says what it waits for.
    let served = async {
        tokio::select! {
            biased;
            joined = joined => joined?,
            () = tell_waiting(node, join, told) => {}
        }
        tokio::select! {
            biased;
            served = node.serving() => served.map_err(JoinError::NotServing),
            () = tell_waiting(node, join, told) => Ok(()),
        }
    };
    match served.await {
        Ok(()) => {
            told.event("serving", &format!("node {} serves at {}", node.id(), told.address));
            Ended::Refused(node.refused().await)
        }
        // `Node::gone` sees to it that the others know.
        Err(JoinError::NotServing(NotServing::Gone { .. })) => std::future::pending().await,
        Err(JoinError::NotServing(refused)) => Ended::Refused(refused),
        Err(refused) => Ended::NotJoined(refused.to_string()),
    }
}

/// Says what the node waits for, whenever that is something else, if it takes longer. Never ends.
async fn tell_waiting(node: &RunningNode, join: Option<&Member>, told: &Told) {
    let id = node.id();
    let mut last = None;
    loop {
        sleep(QUIET).await;
        let waits = node.not_serving();
        if waits != last {
            match &waits {
                Some(NotServing::NotFounded { .. }) => told.event(
                    "waiting",
                    &format!("node {id} is waiting to be founded: run `dyn cluster create`"),
                ),
                Some(NotServing::NotMember { .. }) if join.is_some() => {
                    told.event("waiting", &format!("node {id} is waiting for a member to let it join"));
                }
                Some(waits) => told.event("waiting", &format!("node {id} serves nothing yet: {waits}")),
                None => {}
            }
        }
        last = waits;
    }
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
