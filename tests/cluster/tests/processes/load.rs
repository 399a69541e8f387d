//! Sessions that write while nodes fail, and what must hold of their writes afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use dynkv_client::{Client, ClusterFile, Context};
use dynkv_proto::Outcome;
use dynkv_ring::NodeId;
use dynkv_tests::wait::{LONG, TICK, eventually};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep},
};

use crate::survival::runtime;

const BUCKET: &str = "load";
const KEYS: usize = 24;
const SESSIONS: usize = 6;

/// Each session begins this often at most: nodes are to fail, not to be measured.
const PACE: Duration = Duration::from_millis(8);

/// A request that takes longer counts as failed.
const TIMEOUT: Duration = Duration::from_secs(3);

/// One put.
#[derive(Debug)]
struct Write {
    key: usize,
    /// No other put has the same.
    value: String,
    /// Values that its context covered.
    covers: BTreeSet<String>,
    /// What the client was told; `None`: done.
    failed: Option<Outcome>,
}

/// Sessions under way, on a thread and a runtime of their own.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<Write>>,
}

/// What sessions have written.
#[derive(Debug)]
pub(crate) struct Written(Vec<Write>);

pub(crate) async fn connect(file: &Path) -> Client {
    let file = ClusterFile::load(file).unwrap_or_else(|error| panic!("{error}"));
    Client::connect(&file).await.unwrap_or_else(|error| panic!("{error}"))
}

impl Load {
    /// Begins, with the certificate of this cluster file.
    pub(crate) fn start(file: PathBuf) -> Load {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let shared = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let client = connect(&file).await;
                let mut sessions = JoinSet::new();
                for number in 0..SESSIONS {
                    let (client, (stop, acknowledged)) = (client.clone(), shared.clone());
                    sessions.spawn(async move { session(&client, number, &stop, &acknowledged).await });
                }
                sessions.join_all().await.into_iter().flatten().collect()
            })
        });
        Load { stop, acknowledged, thread }
    }

    /// Waits until so many more puts are acknowledged.
    pub(crate) async fn goes_on(&self, puts: usize) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + puts;
        eventually("puts are acknowledged", async || {
            assert!(!self.thread.is_finished(), "the load has ended early");
            (self.acknowledged.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        Written(self.thread.join().expect("the load does not panic"))
    }
}

async fn session(
    client: &Client,
    number: usize,
    stop: &AtomicBool,
    acknowledged: &AtomicUsize,
) -> Vec<Write> {
    let mut written = Vec::new();
    let mut seen: BTreeMap<usize, (Context, BTreeSet<String>)> = BTreeMap::new();
    let mut pace = interval(PACE);
    for step in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        pace.tick().await;
        let key = (number * 5 + step * 7) % KEYS;
        // Every third time it goes on from its own last put, without looking what others have written.
        if step % 3 != 0 || !seen.contains_key(&key) {
            match client.get(BUCKET, name(key)).timeout(TIMEOUT).await {
                Ok(fetched) => {
                    let values = fetched.siblings.iter().map(|sibling| text(&sibling.value)).collect();
                    seen.insert(key, (fetched.context, values));
                }
                Err(_) => continue,
            }
        }
        let Some((context, covers)) = seen.remove(&key) else { continue };
        let value = format!("{number}.{step}");
        let put = client.put(BUCKET, name(key), value.clone()).context(&context).timeout(TIMEOUT).await;
        let failed = match put {
            Ok(stored) => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                let own = covers.iter().cloned().chain([value.clone()]).collect();
                seen.insert(key, (stored.context, own));
                None
            }
            Err(error) => Some(error.outcome()),
        };
        written.push(Write { key, value, covers, failed });
    }
    written
}

fn name(key: usize) -> String {
    format!("key{key}")
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

impl Written {
    /// Waits until hints have gone to their targets by themselves, holds that nothing acknowledged is lost and nothing
    /// refused is there, and that replicas agree.
    pub(crate) async fn check(&self, client: &Client, nodes: &[NodeId]) {
        let give_up = Instant::now() + LONG;
        while let Some(kept) = hints_left(client, nodes).await {
            assert!(Instant::now() < give_up, "not delivered within {LONG:?}: {kept}");
            sleep(TICK).await;
        }
        let count = |failed| self.0.iter().filter(|write| write.failed == failed).count();
        let outcomes = [None, Some(Outcome::Unknown), Some(Outcome::NotDone)].map(count);
        let handed = metrics(client, nodes, "hints_delivered_total").await;
        eprintln!("puts done, unknown, not done: {outcomes:?}; hints delivered: {handed}");
        assert!(handed > 0, "no hint was ever needed");
        for key in 0..KEYS {
            let fetched = client.get(BUCKET, name(key)).r(3).await.unwrap_or_else(|error| panic!("{error}"));
            let values = fetched.siblings.iter().map(|sibling| text(&sibling.value)).collect();
            self.check_key(key, values);
        }
        eventually("replicas agree", async || {
            for key in 0..KEYS {
                client.get(BUCKET, name(key)).r(3).await.ok()?;
                let mut held = BTreeSet::new();
                for &node in nodes {
                    let reply = client.held(node, BUCKET, name(key)).await.ok()?;
                    let records = reply.states.iter().filter(|state| state.hint_for.is_none());
                    held.insert(records.map(|record| record.digest).collect::<Vec<_>>());
                }
                (held.len() == 1).then_some(())?;
            }
            Some(())
        })
        .await;
    }

    /// `left`: the values that the key has in the end.
    fn check_key(&self, key: usize, left: BTreeSet<String>) {
        let writes: BTreeMap<&str, &Write> =
            self.0.iter().filter(|write| write.key == key).map(|write| (&write.value[..], write)).collect();
        for value in &left {
            let write = writes.get(&value[..]).unwrap_or_else(|| panic!("nobody wrote {value}"));
            assert_ne!(write.failed, Some(Outcome::NotDone), "{value} was certainly not written");
        }
        // A value may be gone only because of another one that covered it, which is there or is gone for such a cause itself.
        let mut accounted = BTreeSet::new();
        let mut open: Vec<&str> = left.iter().map(String::as_str).collect();
        while let Some(value) = open.pop() {
            if accounted.insert(value)
                && let Some(write) = writes.get(value)
            {
                open.extend(write.covers.iter().map(String::as_str));
            }
        }
        for write in writes.values().filter(|write| write.failed.is_none()) {
            assert!(accounted.contains(&write.value[..]), "{write:?} is lost; there are {left:?}");
        }
    }
}

/// What is not delivered yet, for people.
async fn hints_left(client: &Client, nodes: &[NodeId]) -> Option<String> {
    let mut left = Vec::new();
    for &node in nodes {
        match client.hints(node).timeout(TIMEOUT).await {
            Ok(kept) => left.extend(kept.totals.iter().map(|totals| format!("{node} keeps {totals:?}"))),
            Err(error) => left.push(error.to_string()),
        }
    }
    (!left.is_empty()).then(|| left.join("; "))
}

/// The sum of a metric over all nodes, by its name without the prefix.
async fn metrics(client: &Client, nodes: &[NodeId], name: &str) -> u64 {
    let mut sum = 0;
    for &node in nodes {
        let text = client.metrics(node).await.unwrap_or_else(|error| panic!("{node}: {error}"));
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("dynkv_{name} ")));
        sum += line
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("no {name} in {text}"));
    }
    sum
}

/// Waits until both sides see each other: `node` every other one, and every other one `node`.
pub(crate) async fn back(client: &Client, nodes: &[NodeId], node: NodeId) {
    eventually("a node is back", async || {
        client.refresh().await.ok()?;
        for &asked in nodes {
            let status = client.status(asked).timeout(TIMEOUT).await.ok()?;
            let up = status.peers.iter().filter(|peer| peer.connected && !peer.suspected);
            let sees: BTreeSet<NodeId> = up.map(|peer| peer.id).collect();
            let wanted = nodes.iter().filter(|other| **other != asked);
            let fine = match asked == node {
                true => wanted.copied().all(|other| sees.contains(&other)),
                false => sees.contains(&node),
            };
            if !status.serving || !fine {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Waits until every other node misses `node`.
pub(crate) async fn missed(client: &Client, nodes: &[NodeId], node: NodeId) {
    for &asked in nodes.iter().filter(|other| **other != node) {
        until_seen(client, asked, node, false).await;
    }
}

/// Waits until `asked` sees `node` as up, or does not any more.
pub(crate) async fn until_seen(client: &Client, asked: NodeId, node: NodeId, up: bool) {
    eventually("a node is noticed", async || {
        let status = client.status(asked).timeout(TIMEOUT).await.ok()?;
        let peer = status.peers.iter().find(|peer| peer.id == node)?;
        if (peer.connected && !peer.suspected) == up {
            return Some(());
        }
        sleep(TICK).await;
        None
    })
    .await;
}
