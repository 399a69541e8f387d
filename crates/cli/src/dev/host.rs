//! A node on a thread of its own.

use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use dynkv_client::proto::NodeInfo;
use dynkv_client::ring::Founding;
use dynkv_node::{Node, NodeConfig, NotServing, StartError};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};

use crate::error::CliError;
use crate::output;

/// A running node. Each has its own thread with its own runtime, as separate processes would: a node's hot path is cheapest on
/// one thread.
pub(crate) struct Host {
    /// What the node tells others about itself.
    pub(crate) info: NodeInfo,
    pub(crate) founded: bool,
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

enum Order {
    Found(Founding, Vec<NodeInfo>, Answer),
    Serve(Answer),
}

type Answer = oneshot::Sender<Result<(), String>>;

impl Host {
    /// Starts a node at `listen`. With `any_port` it takes another port if that one is in use.
    pub(crate) async fn start(config: NodeConfig, any_port: bool) -> Result<Host, CliError> {
        let id = config.identity.name().to_string();
        let (ready, started) = oneshot::channel();
        let (orders, received) = mpsc::channel(1);
        let failed = |error: std::io::Error| {
            CliError::Refused(format!(
                "cannot start a thread for {id} ({error}): raise the limit on processes"
            ))
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let thread = thread::Builder::new()
            .spawn(move || runtime.block_on(run(config, any_port, ready, received)))
            .map_err(failed)?;
        match started.await {
            Ok(Ok((info, founded))) => Ok(Host { info, founded, orders, thread }),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(stopped(&id)),
        }
    }

    /// Founds the cluster at this node.
    pub(crate) async fn found(&self, founding: Founding, nodes: Vec<NodeInfo>) -> Result<(), CliError> {
        self.order(|answer| Order::Found(founding, nodes, answer)).await
    }

    /// Waits until the node serves.
    pub(crate) async fn serving(&self) -> Result<(), CliError> {
        self.order(Order::Serve).await
    }

    async fn order(&self, order: impl FnOnce(Answer) -> Order) -> Result<(), CliError> {
        let id = self.info.id.to_string();
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| stopped(&id))?;
        let result = answered.await.map_err(|_| stopped(&id))?;
        result.map_err(|reason| CliError::Refused(format!("node {id}: {reason}")))
    }

    /// Resolves when the node has stopped without having been told to. Drop it before [`stop`](Host::stop): it holds a way to
    /// give orders, and the node goes on while there is one.
    pub(crate) fn gone(&self) -> impl Future<Output = CliError> + Send + 'static {
        let (orders, id) = (self.orders.clone(), self.info.id.to_string());
        async move {
            orders.closed().await;
            stopped(&id)
        }
    }

    /// Stops the node in good order; returns when its data is on disk.
    pub(crate) fn stop(self) {
        drop(self.orders);
        if self.thread.join().is_err() {
            tracing::error!(node = %self.info.id, "the node panicked");
        }
    }
}

fn stopped(id: &str) -> CliError {
    CliError::Refused(format!(
        "node {id} has stopped unexpectedly: see the log above, or set DYN_LOG=debug and start again"
    ))
}

async fn run(
    config: NodeConfig,
    any_port: bool,
    ready: oneshot::Sender<Result<(NodeInfo, bool), StartError>>,
    mut orders: mpsc::Receiver<Order>,
) {
    let elsewhere = NodeConfig { listen: SocketAddr::new(config.listen.ip(), 0), ..config.clone() };
    let mut started = Node::start(config.clone()).await;
    if any_port && matches!(started, Err(StartError::Bind(_))) {
        started = Node::start(elsewhere).await;
    }
    let mut node = match started {
        Ok(node) => node,
        // Nobody waits any more: then nobody is interested in why, either.
        Err(error) => return drop(ready.send(Err(error))),
    };
    let _ = ready.send(Ok((node.info().clone(), node.is_founded())));
    let mut waiting = None;
    if let Some(refused) = obey(&node, &mut orders, &mut waiting, true).await {
        output::note(format_args!("node {} starts again: {refused}", node.id()));
        // Where the others and the cluster file have it.
        let config = NodeConfig { listen: node.local_addr(), ..config };
        node.shutdown().await;
        node = match Node::start(config).await {
            Ok(node) => node,
            Err(error) => return output::note(format_args!("it cannot: {error}")),
        };
        // Once: an empty disk cannot be an old one.
        obey(&node, &mut orders, &mut waiting, false).await;
    }
    node.shutdown().await;
}

/// Carries out orders until there will be no more. Returns why the node is to be started again, if it is and may be: its disk has
/// turned out to be an old copy, which the next start sets aside. Whoever is `waiting` then waits for the next start.
async fn obey(
    node: &Node,
    orders: &mut mpsc::Receiver<Order>,
    waiting: &mut Option<Answer>,
    may_start_again: bool,
) -> Option<NotServing> {
    let is_old = |refused: &NotServing| may_start_again && matches!(refused, NotServing::OldDisk { .. });
    let old = async {
        match node.refused().await {
            refused if is_old(&refused) => refused,
            // It goes on saying so to whoever asks.
            _ => std::future::pending().await,
        }
    };
    let mut old = std::pin::pin!(old);
    loop {
        if let Some(answer) = waiting.take() {
            match node.serving().await {
                Err(refused) if is_old(&refused) => {
                    *waiting = Some(answer);
                    return Some(refused);
                }
                // Whoever asked may have gone.
                served => drop(answer.send(served.map_err(|error| error.to_string()))),
            }
        }
        let order = tokio::select! {
            order = orders.recv() => order?,
            refused = &mut old => return Some(refused),
        };
        match order {
            Order::Found(founding, nodes, answer) => {
                let founded = node.found(founding, nodes).await;
                drop(answer.send(founded.map_err(|error| error.to_string())));
            }
            Order::Serve(answer) => *waiting = Some(answer),
        }
    }
}
