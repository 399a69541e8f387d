//! Anti-entropy: replicas are compared all the time, and made equal where they differ (paper, section 4.7).
//!
//! Two nodes that are homes of the same partitions compare the roots of all of them, in one message, every few seconds. Where
//! those differ, one of the two descends ([`dynkv_merkle`]) and learns which keys differ; it asks again about those,
//! a moment later ([`mod@states`]), pulls what it lacks, merges, and pushes what the other lacks. States are canonical, so both are
//! equal then, and nothing but roots moves.
//!
//! # Invariants
//!
//! *A comparison changes nothing, a state is merged like any other.* What differs is decided by digests, what becomes of it by
//! [`Replica::united`](crate::replica::Replica). So a comparison that was wrong, of trees that changed meanwhile, costs a message.
//!
//! *No state is sent or taken that was not verified.* A record that is damaged is neither there nor absent: it is left out, and
//! [healed](heal) by the node that holds it.
//!
//! *A difference is seen twice before states move.* Writes that are on their way make replicas differ for milliseconds, and at
//! thousands of writes a second there always are some. So what a comparison has found is looked at again after
//! [`SETTLE`], with the digests of that time; only a batch that is full is not waited for, since so many are not on their way.
//!
//! *Only nodes of one view compare.* Else they would not agree what they share. Views are equal within seconds.
//!
//! *One of two asks.* Whoever was asked lately does not ask, so the pair is compared once in a period, and a difference is not
//! mended from both ends.

mod answer;
mod diff;
pub(crate) mod heal;
mod pass;
pub(crate) mod repairs;
mod states;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dynkv_proto::Digest;
use dynkv_ring::NodeId;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::Notify, time::Instant};

pub use self::pass::KeyDifference;
pub(crate) use self::{
    answer::{compare, roots, states},
    diff::diff,
    pass::find,
};
use crate::{cluster::View, env::Env, peers::PeerError, shared::Shared, storage::StorageError};

/// A pair of nodes is compared about this often, give or take a fifth.
const PERIOD: Duration = Duration::from_secs(5);
const JITTER_MS: u64 = 2000;

/// How much later a difference is looked at again before anything is done about it.
const SETTLE: Duration = Duration::from_millis(500);

/// Comparisons under way at once.
const PASSES_MAX: usize = 8;

/// Time that another node has to answer a message.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// When whom.
#[derive(Default)]
pub(crate) struct Entropy {
    due: Mutex<BTreeMap<NodeId, Instant>>,
    shares: Mutex<Option<(Digest, Shares)>>,
    /// Told when everybody is to be compared with at once.
    now: Notify,
    diffs: diff::Diffs,
    repairs: repairs::Repairs,
}

/// Whom this node shares partitions with, and which.
type Shares = Arc<BTreeMap<NodeId, Vec<u32>>>;

/// Why two nodes were not compared to the end. What was found before that is right.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// The other node did not answer, or refused: it may be down, of another view, or building its trees.
    #[error("node {peer}: {reason}")]
    Peer {
        /// The other node.
        peer: NodeId,
        /// What it said, or why it could not be asked.
        reason: String,
    },
    /// The other node's answer cannot be understood.
    #[error("the answer of node {peer} cannot be used: {reason}; look whether both run the same version")]
    Answer {
        /// The other node.
        peer: NodeId,
        /// What is wrong with it.
        reason: String,
    },
    /// The digest index of this node cannot be read.
    #[error("the digest index: {0}")]
    Storage(#[from] StorageError),
    /// Too much background work is waiting.
    #[error("other background work comes first: try again later")]
    Busy,
}

impl CompareError {
    /// What went wrong, where the other node is named already.
    fn reason(&self) -> String {
        match self {
            CompareError::Peer { reason, .. } => reason.clone(),
            other => other.to_string(),
        }
    }

    fn of_peer(peer: NodeId, error: PeerError) -> CompareError {
        match error {
            PeerError::Answer(error) => CompareError::answer(peer, error),
            error => CompareError::Peer { peer, reason: error.to_string() },
        }
    }

    fn answer(peer: NodeId, reason: impl ToString) -> CompareError {
        CompareError::Answer { peer, reason: reason.to_string() }
    }
}

impl Entropy {
    fn due(&self) -> MutexGuard<'_, BTreeMap<NodeId, Instant>> {
        // Single insertions and removals: nothing is ever half done.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this node compare itself with everybody it shares partitions with, now.
    pub(crate) fn compare_now(&self) {
        self.due().clear();
        self.now.notify_one();
    }

    /// Two nodes are being compared, whoever asks: the next time is a period later.
    fn compared(&self, peer: NodeId, env: &Env) {
        self.due_after(peer, PERIOD, env);
    }

    /// The next one who asks is to be `peer`.
    fn compared_at_length(&self, peer: NodeId, env: &Env) {
        self.due_after(peer, 2 * PERIOD, env);
    }

    fn due_after(&self, peer: NodeId, period: Duration, env: &Env) {
        let jitter = Duration::from_millis(env.random() % JITTER_MS);
        self.due().insert(peer, Instant::now() + period - Duration::from_millis(JITTER_MS / 2) + jitter);
    }

    /// Whom `me` shares partitions with.
    pub(crate) fn shares(&self, view: &View, me: &NodeId) -> Shares {
        let mut cached = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((digest, shares)) if *digest == view.digest => shares.clone(),
            _ => {
                let shares = Arc::new(compute_shares(view, me));
                *cached = Some((view.digest, shares.clone()));
                shares
            }
        }
    }
}

fn compute_shares(view: &View, me: &NodeId) -> BTreeMap<NodeId, Vec<u32>> {
    let mut shares = BTreeMap::<NodeId, Vec<u32>>::new();
    if view.membership.founded() {
        for partition in view.membership.partitions().ids() {
            let homes = view.membership.ring().homes(partition);
            if homes.contains(me) {
                for home in homes.iter().filter(|home| *home != me) {
                    shares.entry(*home).or_default().push(partition.0);
                }
            }
        }
    }
    shares
}

/// Compares this node with the others until it stops, if that is `wanted`. Others are answered in any case.
pub(crate) async fn run(node: Arc<Shared>, wanted: bool) {
    if !wanted {
        return;
    }
    let entropy = &node.entropy;
    let mut passes = FuturesUnordered::new();
    let mut under_way = BTreeSet::new();
    let mut came_up = node.peers.watch_up();
    let mut news = node.cluster.subscribe();
    loop {
        let next = begin_due(&node, &mut under_way, |peer| {
            let node = &node;
            passes.push(async move {
                if let Err(error) = pass::mend(node, peer).await {
                    node.metrics.comparisons_failed.inc();
                    tracing::debug!(%peer, %error, "a comparison was broken off");
                }
                peer
            });
        });
        tokio::select! {
            biased;
            Some(peer) = passes.next() => {
                under_way.remove(&peer);
            }
            () = entropy.now.notified() => {}
            () = came_up.changed() => {}
            () = news.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Begins the comparisons that are due; returns when to look again.
fn begin_due(node: &Shared, under_way: &mut BTreeSet<NodeId>, mut begin: impl FnMut(NodeId)) -> Instant {
    let now = Instant::now();
    let mut next = now + PERIOD;
    let view = node.cluster.view();
    if node.cluster.serving(&view).is_err() {
        return next;
    }
    for &peer in node.entropy.shares(&view, &node.cluster.me.id).keys() {
        let due = node.entropy.due().get(&peer).copied().unwrap_or(now);
        if due > now {
            next = next.min(due);
        } else if !under_way.contains(&peer)
            && under_way.len() < PASSES_MAX
            && node.peers.is_reachable(peer)
            && !node.entropy.repairs.is_at(&peer)
        {
            // One that comes up wakes the loop, one that ends, too.
            under_way.insert(peer);
            begin(peer);
        }
    }
    next
}
