//! One connection per node: made when first needed, shared by all callers, made again after it was lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dynkv_net::{Connection, Endpoint, Expect, PeerName};
use dynkv_ring::NodeId;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::health::Reach;

/// The pause after the first failed attempt to connect; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

type Made = Result<Connection, String>;

#[derive(Debug)]
enum Link {
    Up(Connection),
    /// An attempt is under way; everybody who needs the node waits for this one.
    Making {
        failures: u32,
        done: watch::Receiver<Option<Made>>,
    },
    /// Not tried again before `retry_at`, unless the node has moved to another address.
    Down {
        failures: u32,
        retry_at: Instant,
        address: String,
        reason: String,
    },
}

/// The connections of a client.
#[derive(Debug)]
pub(crate) struct Pool {
    endpoint: Endpoint,
    /// Connections outlive the request that made them, so they are made by tasks of the client's own runtime.
    runtime: Handle,
    links: Mutex<BTreeMap<NodeId, Link>>,
    /// Which node answered at an address given by name, such as a seed.
    known: Mutex<BTreeMap<String, NodeId>>,
    /// Told when a connection turns out to be lost, or none could be made.
    lost: Arc<Notify>,
}

impl Pool {
    pub(crate) fn new(endpoint: Endpoint, runtime: Handle) -> Arc<Pool> {
        Arc::new(Pool {
            endpoint,
            runtime,
            links: Mutex::default(),
            known: Mutex::default(),
            lost: Arc::default(),
        })
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<NodeId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Told when a node is not where it was.
    pub(crate) fn lost(&self) -> Arc<Notify> {
        self.lost.clone()
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The nodes that connections were made to.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.links().keys().copied().collect()
    }

    pub(crate) fn reach(&self, node: NodeId) -> Reach {
        match self.links().get(&node) {
            Some(Link::Up(connection)) if !connection.is_closed() => Reach::Up,
            Some(Link::Down { .. } | Link::Making { failures: 1.., .. }) => Reach::Down,
            _ => Reach::Unknown,
        }
    }

    /// Begins to connect to `node` unless that is done, under way, or failed just now.
    pub(crate) fn prepare(self: &Arc<Self>, node: NodeId, address: &str) {
        // What comes of it shows in `reach`.
        let _ = self.begin(node, Some(address));
    }

    /// A connection to `node`, which is at `address`; waits for it at most `limit`.
    ///
    /// An error says why there is none; nothing was sent to the node.
    pub(crate) async fn connection(
        self: &Arc<Self>,
        node: NodeId,
        address: Option<&str>,
        limit: Duration,
    ) -> Result<Connection, String> {
        let mut done = match self.begin(node, address)? {
            Begun::Up(connection) => return Ok(connection),
            Begun::Making(done) => done,
        };
        match timeout(limit, done.wait_for(Option::is_some)).await {
            Ok(Ok(made)) => made.clone().expect("waited for it"),
            Ok(Err(_)) => Err("the client's runtime has shut down".to_owned()),
            Err(_) => Err(format!("no connection within {} ms", limit.as_millis())),
        }
    }

    fn begin(self: &Arc<Self>, node: NodeId, address: Option<&str>) -> Result<Begun, String> {
        let mut links = self.links();
        let mut failures = 0;
        match links.get(&node) {
            Some(Link::Up(connection)) if !connection.is_closed() => {
                return Ok(Begun::Up(connection.clone()));
            }
            Some(Link::Making { done, .. }) => return Ok(Begun::Making(done.clone())),
            Some(Link::Down { failures: before, retry_at, address: tried, reason }) => {
                if Instant::now() < *retry_at && address.is_none_or(|address| address == tried) {
                    return Err(reason.clone());
                }
                failures = *before;
            }
            Some(Link::Up(_)) => self.lost.notify_one(),
            None => {}
        }
        let Some(address) = address.map(str::to_owned) else {
            return Err(format!("the address of node {node} is not known"));
        };
        let (sender, done) = watch::channel(None);
        links.insert(node, Link::Making { failures, done: done.clone() });
        let pool = self.clone();
        self.runtime.spawn(async move {
            let made = pool.make(&address, Expect::Node(node)).await;
            let link = match &made {
                Ok(connection) => Link::Up(connection.clone()),
                Err(reason) => {
                    tracing::debug!(%node, address, reason, "no connection");
                    pool.lost.notify_one();
                    let pause = (BACKOFF_FIRST * 2u32.saturating_pow(failures)).min(BACKOFF_MAX);
                    let retry_at = Instant::now() + pause;
                    let failures = failures.saturating_add(1).min(16);
                    Link::Down { failures, retry_at, address, reason: reason.clone() }
                }
            };
            pool.links().insert(node, link);
            sender.send_replace(Some(made));
        });
        Ok(Begun::Making(done))
    }

    /// A connection to whichever node of the cluster is at `address`.
    pub(crate) async fn at(self: &Arc<Self>, address: &str) -> Result<(NodeId, Connection), String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(address).copied();
        if let Some(node) = known
            && let Some(Link::Up(connection)) = self.links().get(&node)
            && !connection.is_closed()
        {
            return Ok((node, connection.clone()));
        }
        let (pool, to) = (self.clone(), address.to_owned());
        let making = self.runtime.spawn(async move { pool.make(&to, Expect::AnyNode).await });
        let connection =
            making.await.unwrap_or_else(|_| Err("the client's runtime has shut down".to_owned()))?;
        let PeerName::Node { id, .. } = **connection.peer() else {
            return Err(format!("{address} is no node but {}: correct the address", connection.peer()));
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(address.to_owned(), id);
        let mut links = self.links();
        match links.get(&id) {
            // Somebody else was faster: one connection per node is enough.
            Some(Link::Up(other)) if !other.is_closed() => return Ok((id, other.clone())),
            // Whoever makes one now will replace this one.
            Some(Link::Making { .. }) => {}
            _ => {
                links.insert(id, Link::Up(connection.clone()));
            }
        }
        Ok((id, connection))
    }

    async fn make(&self, address: &str, expect: Expect) -> Made {
        let mut reason = format!("the name in '{address}' has no address: correct it");
        for address in resolve(address).await? {
            match self.endpoint.connect(address, expect).await {
                Ok(connection) => return Ok(connection),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }
}

enum Begun {
    Up(Connection),
    Making(watch::Receiver<Option<Made>>),
}

/// The socket addresses of `host:port`; a literal address is taken without asking anybody.
async fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    match tokio::net::lookup_host(address).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(format!("'{address}' cannot be resolved ({error}): write host:port")),
    }
}
