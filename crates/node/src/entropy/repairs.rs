//! Repairs that operators order: this node compares itself with the other homes of its partitions now, mends what differs,
//! and says how it goes. The comparisons that nodes make all the time go on beside it, except with the nodes that the repair is
//! at: two passes would move every state twice.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dynkv_proto::{
    Failure, FailureCode, RepairReply, RepairRun, RepairStatusReply, RunState, StopRepairReply,
};
use dynkv_ring::NodeId;
use futures_util::{StreamExt, stream};
use tokio::{sync::Notify, time::Instant};

use super::{
    PASSES_MAX,
    pass::{self, News},
    states::{Look, Moved},
};
use crate::shared::Shared;

/// Looks at partitions that differ, until they are found equal: on those that are written to all the time it would never end.
const LOOKS_MAX: u32 = 3;

/// Attempts with a node that does not answer or has no trees yet, and the pause between them.
const ATTEMPTS_MAX: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Errors told.
const ERRORS_TOLD: usize = 10;

/// The repair under way, or the latest.
#[derive(Default)]
pub(crate) struct Repairs {
    latest: Mutex<Option<Run>>,
    /// Told when one is ordered, and when one is stopped.
    ordered: Notify,
    stopped: Notify,
}

struct Run {
    number: u64,
    partition: Option<u32>,
    state: RunState,
    begun: Instant,
    ended: Option<Instant>,
    compared: u64,
    comparisons: u64,
    differences: u64,
    moved: Moved,
    errors: u64,
    last_errors: VecDeque<String>,
    /// The nodes that are being compared with.
    peers: BTreeSet<NodeId>,
}

impl Run {
    fn new(number: u64, partition: Option<u32>) -> Run {
        Run {
            number,
            partition,
            state: RunState::Running,
            begun: Instant::now(),
            ended: None,
            compared: 0,
            comparisons: 0,
            differences: 0,
            moved: Moved::default(),
            errors: 0,
            last_errors: VecDeque::new(),
            peers: BTreeSet::new(),
        }
    }

    fn end(&mut self, state: RunState) {
        self.state = state;
        self.ended = Some(Instant::now());
        self.peers.clear();
    }

    fn error(&mut self, error: String) {
        self.errors += 1;
        if self.last_errors.len() == ERRORS_TOLD {
            self.last_errors.pop_front();
        }
        self.last_errors.push_back(error);
    }

    fn told(&self) -> RepairRun {
        let ms = |since: Instant, until: Instant| until.duration_since(since).as_millis() as u64;
        let now = Instant::now();
        RepairRun {
            number: self.number,
            partition: self.partition,
            state: self.state,
            age_ms: ms(self.begun, now),
            took_ms: ms(self.begun, self.ended.unwrap_or(now)),
            compared: self.compared,
            comparisons: self.comparisons,
            differences: self.differences,
            pulled: self.moved.pulled,
            pushed: self.moved.pushed,
            bytes: self.moved.bytes,
            errors: self.errors,
            last_errors: self.last_errors.iter().cloned().collect(),
        }
    }
}

impl Repairs {
    fn latest(&self) -> MutexGuard<'_, Option<Run>> {
        // Counting is plain arithmetic: a panic elsewhere leaves nothing half done.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the one under way.
    fn running(&self) -> Option<u64> {
        self.latest().as_ref().filter(|run| run.state == RunState::Running).map(|run| run.number)
    }

    /// Changes what is told of a run, unless it has ended.
    fn change(&self, number: u64, change: impl FnOnce(&mut Run)) {
        let mut latest = self.latest();
        if let Some(run) = latest.as_mut()
            && run.number == number
            && run.state == RunState::Running
        {
            change(run);
        }
    }

    /// Whether a repair is comparing this node with `peer`.
    pub(super) fn is_at(&self, peer: &NodeId) -> bool {
        self.latest().as_ref().is_some_and(|run| run.peers.contains(peer))
    }

    async fn until_stopped(&self, number: u64) {
        while self.running() == Some(number) {
            self.stopped.notified().await;
        }
    }
}

/// Begins a repair, unless one is under way.
pub(crate) fn start(node: &Shared, partition: Option<u32>) -> Result<RepairReply, Failure> {
    let view = node.cluster.view();
    if let Err(reason) = node.cluster.serving(&view) {
        return Err(Failure::not_done(FailureCode::NotServing, reason.to_string()));
    }
    let me = node.cluster.me.id;
    if let Some(partition) = partition
        && !node.replica.trees.holds(partition)
    {
        let message = format!("node {me} is no home of partition {partition}: see `dyn ring locate`");
        return Err(Failure::not_done(FailureCode::Invalid, message));
    }
    let repairs = &node.entropy.repairs;
    let mut latest = repairs.latest();
    let started = latest.as_ref().is_none_or(|run| run.state != RunState::Running);
    if started {
        let number = latest.as_ref().map_or(0, |run| run.number) + 1;
        *latest = Some(Run::new(number, partition));
        repairs.ordered.notify_one();
    }
    let run = latest.as_ref().map(Run::told).expect("one was begun, if there was none");
    Ok(RepairReply { started, run })
}

/// How the repair stands.
pub(crate) fn status(node: &Shared) -> RepairStatusReply {
    let run = node.entropy.repairs.latest().as_ref().map(Run::told);
    RepairStatusReply { node: node.cluster.me.id, run }
}

/// Ends the repair under way. What is on its way is still taken.
pub(crate) fn stop(node: &Shared) -> StopRepairReply {
    let repairs = &node.entropy.repairs;
    let stopped = repairs.running();
    if let Some(number) = stopped {
        repairs.change(number, |run| run.end(RunState::Stopped));
        repairs.stopped.notify_one();
    }
    StopRepairReply { stopped: stopped.is_some(), run: repairs.latest().as_ref().map(Run::told) }
}

/// Carries out repairs until the node stops.
pub(crate) async fn run(node: Arc<Shared>) {
    let repairs = &node.entropy.repairs;
    loop {
        let Some(number) = repairs.running() else {
            repairs.ordered.notified().await;
            continue;
        };
        let partition = repairs.latest().as_ref().and_then(|run| run.partition);
        tokio::select! {
            biased;
            () = repairs.until_stopped(number) => {}
            () = carry_out(&node, number, partition) => {
                repairs.change(number, |run| run.end(RunState::Done));
            }
        }
    }
}

async fn carry_out(node: &Arc<Shared>, number: u64, partition: Option<u32>) {
    let repairs = &node.entropy.repairs;
    let shares = node.entropy.shares(&node.cluster.view(), &node.chain, &node.cluster.me.id);
    let wanted = |shared: &Vec<u32>| -> BTreeSet<u32> {
        shared.iter().copied().filter(|shared| partition.is_none_or(|only| only == *shared)).collect()
    };
    let pairs: Vec<_> = shares
        .iter()
        .map(|(peer, shared)| (*peer, wanted(shared)))
        .filter(|(_, partitions)| !partitions.is_empty())
        .collect();
    let comparisons = pairs.iter().map(|(_, partitions)| partitions.len() as u64).sum();
    repairs.change(number, |run| run.comparisons = comparisons);
    let passes = pairs.into_iter().map(|(peer, partitions)| compare(node, number, peer, partitions));
    let mut passes = stream::iter(passes).buffer_unordered(PASSES_MAX);
    while let Some(()) = passes.next().await {}
}

/// Compares this node with `peer` until all of `pending` are equal, or were mended often enough.
async fn compare(node: &Arc<Shared>, number: u64, peer: NodeId, mut pending: BTreeSet<u32>) {
    let repairs = &node.entropy.repairs;
    repairs.change(number, |run| run.peers.extend([peer]));
    let tell = |news| {
        repairs.change(number, |run| match news {
            News::Found(entries) => run.differences += entries,
            News::Moved(moved) => {
                run.moved += moved;
                if moved.failed > 0 {
                    run.error(format!(
                        "{peer}: {} states were not taken; they are found again",
                        moved.failed
                    ));
                }
            }
        });
    };
    let (mut looks, mut failed) = (0, 0);
    let mut problem = String::new();
    while !pending.is_empty() && looks < LOOKS_MAX && failed < ATTEMPTS_MAX {
        if failed > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let before = pending.len();
        let only = |partition| pending.contains(&partition);
        match pass::mend_some(node, peer, &only, Look::Second, usize::MAX, &tell).await {
            Ok(compared) => {
                pending.retain(|partition| compared.equal.binary_search(partition).is_err());
                let differed = compared.differing.len();
                if looks + 1 == LOOKS_MAX {
                    let done: BTreeSet<u32> = compared.differing.into_iter().collect();
                    pending.retain(|partition| !done.contains(partition));
                }
                looks += u32::from(differed > 0);
                let skipped = pending.len() > differed;
                failed = if skipped { failed + 1 } else { 0 };
                problem = "it or this node has not built all its trees yet".into();
            }
            Err(error) => {
                // To one that is out of reach, others try to connect; it can be waited for longer than an operator would.
                failed = if node.peers.is_reachable(peer) { failed + 1 } else { ATTEMPTS_MAX };
                problem = error.reason();
            }
        }
        let done = (before - pending.len()) as u64;
        repairs.change(number, |run| run.compared += done);
    }
    repairs.change(number, |run| {
        run.peers.remove(&peer);
        if !pending.is_empty() {
            run.error(format!("{} partitions were not compared with {peer}: {problem}", pending.len()));
        }
    });
}
