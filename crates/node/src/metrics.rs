//! What a node counts. One registry per node: several nodes share a process in `dyn dev` and in tests.

use std::sync::{Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::background::{AskedLabel, WorkLabel};

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Operation {
    Get,
    Put,
    Delete,
    List,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Ending {
    Done,
    NotDone,
    Unknown,
    Forwarded,
}

/// Labels of [`Metrics::requests`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    operation: Operation,
    ending: Ending,
}

/// Why a settlement round was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Abandoned {
    /// A member gave no answer.
    Unreachable,
    /// A member had promised as much or more, or has another history.
    Refused,
    /// Every key is something else somewhere.
    Differs,
}

/// Labels of [`Metrics::settle_abandoned`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AbandonedLabel {
    pub(crate) reason: Abandoned,
}

macro_rules! metrics {
    ($($field:ident : $ty:ty = $new:expr, $help:literal;)+) => {
        /// The node's metrics; fields are cheap handles.
        pub(crate) struct Metrics {
            registry: Mutex<Registry>,
            $(pub(crate) $field: $ty,)+
        }

        impl Metrics {
            pub(crate) fn new() -> Metrics {
                let mut registry = Registry::with_prefix("dynkv");
                $(
                    let $field: $ty = $new;
                    registry.register(stringify!($field), $help, $field.clone());
                )+
                Metrics { registry: Mutex::new(registry), $($field),+ }
            }
        }
    };
}

metrics! {
    requests: Family<RequestLabels, Counter> = Family::default(), "Requests coordinated or forwarded, by operation and ending";
    requests_in_flight: Gauge = Gauge::default(), "Requests being coordinated or forwarded now";
    requests_refused_overload: Counter = Counter::default(), "Requests refused because too many were in flight";
    request_seconds: Histogram = latency(), "Time from a request's arrival to its answer";
    replica_reads: Counter = Counter::default(), "States read for other nodes";
    replica_writes: Counter = Counter::default(), "States united for other nodes";
    replica_writes_idle: Counter = Counter::default(), "States united that brought nothing new";
    versions_minted: Counter = Counter::default(), "Versions written by this node as coordinator";
    incarnations_renewed: Counter = Counter::default(), "Incarnations drawn after failed local writes";
    lww_discarded: Counter = Counter::default(), "Versions discarded by a later timestamp in lww buckets";
    puts_refused_siblings: Counter = Counter::default(), "Puts refused at a bucket's sibling limit";
    puts_refused_clock: Counter = Counter::default(), "Puts refused because a timestamp was too far ahead";
    puts_refused_context_entries: Counter = Counter::default(), "Puts refused at the limit of context entries";
    puts_repeated: Counter = Counter::default(), "Retries of puts that had been applied already";
    puts_possible_duplicate: Counter = Counter::default(), "Retries answered as possible duplicates";
    siblings_read: Histogram = Histogram::new([0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0]), "Visible versions per key read";
    hedged_reads: Counter = Counter::default(), "Reads that asked further replicas because an answer was late or failed";
    read_repairs: Counter = Counter::default(), "States written back to replicas that were behind";
    records_damaged: Counter = Counter::default(), "Records that failed a checksum and were not served";
    records_unhealed: Gauge = Gauge::default(), "Records that are known to be damaged and wait to be healed";
    records_healed: Counter = Counter::default(), "Damaged records that were replaced by what other replicas hold";
    trees_ready: Gauge = Gauge::default(), "Partitions with a Merkle tree";
    trees_building: Gauge = Gauge::default(), "Partitions that have no Merkle tree yet and are not compared";
    trees_built: Counter = Counter::default(), "Merkle trees built from the digest index, to have one, to have one of another size, or for a check";
    tree_drifts: Counter = Counter::default(), "Trees or entries of the digest index that did not say what was stored, and were set right";
    tree_messages: Counter = Counter::default(), "Messages of the anti-entropy sent, states among them";
    tree_bytes: Counter = Counter::default(), "Bytes of those messages, as frames";
    comparisons: Counter = Counter::default(), "Comparisons with another node begun by this one";
    comparisons_equal: Counter = Counter::default(), "Of those, the ones that found all roots equal";
    comparisons_failed: Counter = Counter::default(), "Of those, the ones that were broken off";
    entries_differing: Counter = Counter::default(), "Entries that comparisons found to differ";
    states_pulled: Counter = Counter::default(), "States taken over from other replicas by anti-entropy";
    states_pushed: Counter = Counter::default(), "States given to other replicas by anti-entropy";
    configurations_adopted: Counter = Counter::default(), "Configurations of partitions taken over";
    configuration_attempts: Counter = Counter::default(), "Changes of a partition's members that this node has proposed";
    partitions_given_up: Counter = Counter::default(), "Partitions handed over to their members and dropped";
    partitions_to_receive: Gauge = Gauge::default(), "Partitions that this node is to serve, and does not yet";
    partitions_to_give_up: Gauge = Gauge::default(), "Partitions that this node holds, and is not to";
    transfer_bytes_received: Counter = Counter::default(), "Bytes of states taken over from members of partitions that this node is to serve";
    transfers_stalled: Gauge = Gauge::default(), "Nodes from or to which partitions are to move, and nothing has for a minute";
    requests_started_over: Counter = Counter::default(), "Requests that went on under the next members of their partition, or waited for them";
    puts_sloppy: Counter = Counter::default(), "Puts answered with the help of nodes that are no homes";
    puts_fallback: Counter = Counter::default(), "Puts coordinated by this node although it is no home, because none could be reached";
    hints: Gauge = Gauge::default(), "Hints kept for other nodes";
    hint_bytes: Gauge = Gauge::default(), "Bytes of the states in those hints";
    hints_kept: Counter = Counter::default(), "States taken into hints";
    hints_delivered: Counter = Counter::default(), "Hints that their targets have on disk, and that were removed";
    hints_changed: Counter = Counter::default(), "Hints that changed while they were delivered, and were kept";
    hints_refused_full: Counter = Counter::default(), "States that were not taken because the store of hints was full";
    hints_damaged: Counter = Counter::default(), "Hints that could not be read and were given up";
    hints_not_placed: Counter = Counter::default(), "States for homes out of reach that no node took as a hint";
    puts_left_early: Counter = Counter::default(), "Answered puts that did not wait for their last homes because too many did";
    background_share: Gauge<f64, AtomicU64> = Gauge::default(), "Pieces of background work that may be under way at once; below four: that may on average";
    background_target_seconds: Family<AskedLabel, Gauge<f64, AtomicU64>> = Family::default(), "The 99th percentile of clients' requests above which background work gives way, by what is asked for";
    foreground_p99_seconds: Family<AskedLabel, Gauge<f64, AtomicU64>> = Family::default(), "The 99th percentile of clients' requests in the last seconds, as background work sees it";
    background_begun: Family<WorkLabel, Counter> = Family::default(), "Pieces of background work begun";
    background_left_out: Family<WorkLabel, Counter> = Family::default(), "Pieces of background work left out because too many were waiting";
    settle_rounds: Counter = Counter::default(), "Settlement rounds begun by this node";
    settle_decided: Counter = Counter::default(), "Of those, the ones in which all members agreed on some keys";
    settle_abandoned: Family<AbandonedLabel, Counter> = Family::default(), "Of those, the ones that were given up, by reason";
    settle_paused: Gauge = Gauge::default(), "Partitions in which nothing settles because a member is out of reach";
    tombstones_dropped: Counter = Counter::default(), "Deleted keys whose last record or hint was dropped here";
    contexts_compacted: Counter = Counter::default(), "Records and hints whose old context entries were dropped here";
    messages_behind: Counter = Counter::default(), "States that were refused because they were read before a settlement round was promised";
    disks_set_aside: Counter = Counter::default(), "Times that this node's disk turned out to be an old one";
    disks_admitted: Counter = Counter::default(), "Times that this node's disk was admitted as a new one";
    put_ids: Gauge = Gauge::default(), "Put ids remembered for retries";
    history_entries: Gauge = Gauge::default(), "Entries of the membership history";
    store_failed: Gauge = Gauge::default(), "1: the store takes no writes until the node is restarted";
    gossip_messages: Counter = Counter::default(), "Messages of gossip sent";
    gossip_bytes: Counter = Counter::default(), "Bytes of gossip sent, as frames";
    peers_up: Gauge = Gauge::default(), "Other members that are up in this node's opinion";
    peers_suspected: Gauge = Gauge::default(), "Other members that the failure detector suspects to be down";
    identity_conflicts: Counter = Counter::default(), "Times that two processes were found to run under one node id";
}

/// 50 us to 10 s, a factor of two apart.
fn latency() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.000_05, 2.0, 18))
}

impl Metrics {
    pub(crate) fn request_ended(&self, operation: Operation, ending: Ending) {
        self.requests.get_or_create(&RequestLabels { operation, ending }).inc();
    }

    pub(crate) fn gossip_sent(&self, bytes: usize) {
        self.gossip_messages.inc();
        self.gossip_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn tree_message_sent(&self, bytes: usize) {
        self.tree_messages.inc();
        self.tree_bytes.inc_by(bytes as u64);
    }

    /// All of them as OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("writing to a String cannot fail");
        text
    }
}
