//! Every message, with its kind.
//!
//! A reply's kind is its request's with the top bit set; [`Failure`](crate::Failure) may answer any request. Requests
//! below 100 come from clients, the others from nodes. Durations travel as what is left of them, never as points in time:
//! hosts' clocks differ.

use std::collections::BTreeMap;

use dynkv_ring::NodeId;
use serde::{Deserialize, Serialize};

use crate::{
    Actor, Blob, Digest, FeatureSet, PutId, Stamp,
    array::{array, message},
    state::VersionHeader,
};

/// Kinds as they stand on the wire. A number is never used again for something else.
#[expect(missing_docs, reason = "each is named as the message that has it")]
pub mod kinds {
    pub const GET: u16 = 1;
    pub const PUT: u16 = 2;
    pub const LIST: u16 = 3;
    pub const VIEW: u16 = 4;
    pub const STATUS: u16 = 5;
    pub const METRICS: u16 = 6;
    pub const PROPOSE: u16 = 7;
    pub const HINTS: u16 = 8;
    pub const DRAIN_HINTS: u16 = 9;
    pub const TREES: u16 = 10;
    pub const DIFF: u16 = 11;
    pub const REPAIR: u16 = 12;
    pub const REPAIR_STATUS: u16 = 13;
    pub const STOP_REPAIR: u16 = 14;
    pub const VERIFY: u16 = 15;
    pub const VERIFY_STATUS: u16 = 16;
    pub const STOP_VERIFY: u16 = 17;
    pub const HELD: u16 = 18;
    pub const TRANSFERS: u16 = 19;
    pub const LIMIT_TRANSFERS: u16 = 20;
    pub const REPLICA_GET: u16 = 100;
    pub const REPLICA_PUT: u16 = 101;
    pub const REPLICA_LIST: u16 = 102;
    pub const PUT_SEEN: u16 = 103;
    pub const GOSSIP: u16 = 104;
    pub const TREE_ROOTS: u16 = 105;
    pub const TREE_COMPARE: u16 = 106;
    pub const STATES: u16 = 107;
    pub const SETTLE_PREPARE: u16 = 120;
    pub const SETTLE_DECIDE: u16 = 121;
    pub const SETTLE_DROP: u16 = 122;
    pub const ADMIT: u16 = 123;
    pub const SETTLE_MARKS: u16 = 124;
    pub const CHAIN_PREPARE: u16 = 130;
    pub const CHAIN_ACCEPT: u16 = 131;
    pub const CHAIN_JOIN: u16 = 132;
    pub const CHAIN_TELL: u16 = 133;
    pub const CHAIN_READY: u16 = 134;

    pub const REPLY: u16 = 0x8000;
    pub const GET_REPLY: u16 = REPLY | GET;
    pub const PUT_REPLY: u16 = REPLY | PUT;
    pub const LIST_REPLY: u16 = REPLY | LIST;
    pub const VIEW_REPLY: u16 = REPLY | VIEW;
    pub const STATUS_REPLY: u16 = REPLY | STATUS;
    pub const METRICS_REPLY: u16 = REPLY | METRICS;
    pub const PROPOSE_REPLY: u16 = REPLY | PROPOSE;
    pub const HINTS_REPLY: u16 = REPLY | HINTS;
    pub const DRAIN_HINTS_REPLY: u16 = REPLY | DRAIN_HINTS;
    pub const TREES_REPLY: u16 = REPLY | TREES;
    pub const DIFF_REPLY: u16 = REPLY | DIFF;
    pub const REPAIR_REPLY: u16 = REPLY | REPAIR;
    pub const REPAIR_STATUS_REPLY: u16 = REPLY | REPAIR_STATUS;
    pub const STOP_REPAIR_REPLY: u16 = REPLY | STOP_REPAIR;
    pub const VERIFY_REPLY: u16 = REPLY | VERIFY;
    pub const VERIFY_STATUS_REPLY: u16 = REPLY | VERIFY_STATUS;
    pub const STOP_VERIFY_REPLY: u16 = REPLY | STOP_VERIFY;
    pub const HELD_REPLY: u16 = REPLY | HELD;
    pub const TRANSFERS_REPLY: u16 = REPLY | TRANSFERS;
    pub const LIMIT_TRANSFERS_REPLY: u16 = REPLY | LIMIT_TRANSFERS;
    pub const REPLICA_GET_REPLY: u16 = REPLY | REPLICA_GET;
    pub const REPLICA_PUT_REPLY: u16 = REPLY | REPLICA_PUT;
    pub const REPLICA_LIST_REPLY: u16 = REPLY | REPLICA_LIST;
    pub const PUT_SEEN_REPLY: u16 = REPLY | PUT_SEEN;
    pub const GOSSIP_REPLY: u16 = REPLY | GOSSIP;
    pub const TREE_ROOTS_REPLY: u16 = REPLY | TREE_ROOTS;
    pub const TREE_COMPARE_REPLY: u16 = REPLY | TREE_COMPARE;
    pub const STATES_REPLY: u16 = REPLY | STATES;
    pub const SETTLE_PREPARE_REPLY: u16 = REPLY | SETTLE_PREPARE;
    pub const SETTLE_DECIDE_REPLY: u16 = REPLY | SETTLE_DECIDE;
    pub const SETTLE_DROP_REPLY: u16 = REPLY | SETTLE_DROP;
    pub const ADMIT_REPLY: u16 = REPLY | ADMIT;
    pub const SETTLE_MARKS_REPLY: u16 = REPLY | SETTLE_MARKS;
    pub const CHAIN_PREPARE_REPLY: u16 = REPLY | CHAIN_PREPARE;
    pub const CHAIN_ACCEPT_REPLY: u16 = REPLY | CHAIN_ACCEPT;
    pub const CHAIN_JOIN_REPLY: u16 = REPLY | CHAIN_JOIN;
    pub const CHAIN_TELL_REPLY: u16 = REPLY | CHAIN_TELL;
    pub const CHAIN_READY_REPLY: u16 = REPLY | CHAIN_READY;
    pub const FAILURE: u16 = 0xffff;
}

/// How far a client's request has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hops(
    /// Times the request was forwarded. A forwarded request is never forwarded again: two nodes whose views
    /// differ would throw it to and fro.
    pub u8,
);

message! {
    /// Reads a key. The reply's body is the values, in order.
    GET, Get => GetReply {
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
        /// Replicas to wait for; the bucket's when absent.
        r: Option<u8>,
        /// How many of those must be home replicas; the bucket's when absent.
        pr: Option<u8>,
        /// What is left of the caller's deadline, in milliseconds.
        timeout_ms: u32,
        /// How often this was forwarded.
        hops: Hops,
    }
}

message! {
    /// What a key holds; body: the values, in order.
    GET_REPLY, GetReply {
        /// The context token of everything read, to give to the next put; tombstones are covered by it.
        context: Blob,
        /// The versions a reader sees.
        versions: Vec<VersionHeader>,
        /// How many replicas answered.
        replicas: u8,
        /// How many of them are home replicas.
        homes: u8,
        /// Digest of the responder's membership history.
        view: Digest,
        /// Who coordinated, where the request was forwarded to it. Whoever asked had better ask it first for a while.
        coordinator: Option<NodeId> = None,
    }
}

message! {
    /// Writes a value or, as a tombstone, deletes one. Body: the value.
    PUT, Put => PutReply {
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
        /// A context token of this key, or nothing for a blind put.
        context: Blob,
        /// Random; the same in every retry of this put.
        put_id: PutId,
        /// Whether an earlier attempt may have been carried out.
        retry: bool,
        /// Whether this deletes.
        tombstone: bool,
        /// MIME type, or empty.
        content_type: String,
        /// The writer's metadata.
        meta: BTreeMap<String, String>,
        /// xxh3-64 of the value.
        hash: u64,
        /// Acknowledgements to wait for; the bucket's when absent.
        w: Option<u8>,
        /// How many of those must be from disk; the bucket's when absent.
        dw: Option<u8>,
        /// How many must be from home replicas; the bucket's when absent.
        pw: Option<u8>,
        /// What is left of the caller's deadline, in milliseconds.
        timeout_ms: u32,
        /// How often this was forwarded.
        hops: Hops,
        /// In a retry: the nodes that earlier attempts were sent to. `None`: not known, any node may have carried one out.
        tried: Option<Vec<NodeId>> = None,
        /// Counts the attempts, from 0 on. A node that has told a later attempt's coordinator that it had not applied the put
        /// does not carry out an earlier one that arrives after that: nobody waits for it any more.
        attempt: u32 = 0,
    }
}

message! {
    /// A write that is done.
    PUT_REPLY, PutReply {
        /// The request's context and the new dot: for a further put of the same session.
        context: Blob,
        /// Who minted the version.
        actor: Actor,
        /// The dot's counter.
        counter: u64,
        /// How many replicas have acknowledged.
        replicas: u8,
        /// How many of them are home replicas.
        homes: u8,
        /// How many of the acknowledgements are from disk.
        durable: u8,
        /// Whether an earlier attempt may have been applied besides this one, because some home could not say.
        possible_duplicate: bool,
        /// Digest of the responder's membership history.
        view: Digest,
        /// Who coordinated, where the request was forwarded to it.
        coordinator: Option<NodeId> = None,
    }
}

message! {
    /// Lists live keys of one partition of a bucket, a page at a time, in byte order.
    LIST, List => ListReply {
        /// The bucket.
        bucket: String,
        /// The partition.
        partition: u32,
        /// Only keys that begin with this.
        prefix: Blob,
        /// Only keys after this one.
        after: Option<Blob>,
        /// At most about this many keys; a page may hold fewer and still not be the last.
        limit: u32,
        /// What is left of the caller's deadline, in milliseconds.
        timeout_ms: u32,
        /// How often this was forwarded.
        hops: Hops,
    }
}

message! {
    /// A page of keys.
    LIST_REPLY, ListReply {
        /// Live keys.
        keys: Vec<Blob>,
        /// Where the next page begins: after this key. `None`: the partition is done.
        next: Option<Blob>,
        /// Whether enough homes answered that no write can be missing that `w` homes had acknowledged. What is still kept as a
        /// hint for them may be.
        complete: bool,
        /// Digest of the responder's membership history.
        view: Digest,
    }
}

array! {
    /// What nodes know of a node besides its membership. Of two, the one with the higher boot counter is newer.
    pub NodeInfo {
        /// The node.
        id: NodeId,
        /// Where it is reached, `host:port`.
        address: String,
        /// Counts the node's starts, from 1 on each new disk; a node that finds itself known under a greater one takes one
        /// above that. 0: the node has not been heard of itself.
        boot: u64,
        /// Random identity of its disk, drawn when the data directory was made. 0: not known yet.
        disk: u64,
        /// The software's version.
        version: String,
    }
}

message! {
    /// Asks for the membership history and where the nodes are.
    VIEW, View => ViewReply {
        /// Digest of the history the caller has; zero for none.
        view: Digest,
    }
}

message! {
    /// The cluster as this node sees it.
    VIEW_REPLY, ViewReply {
        /// Digest of the history.
        view: Digest,
        /// The history (`dynkv_ring::History::to_bytes`), or nothing when the caller's digest is the same.
        history: Option<Blob>,
        /// Where the nodes are.
        nodes: Vec<NodeInfo>,
    }
}

message! {
    /// Asks how a node is.
    STATUS, Status => StatusReply {
        /// Nothing yet.
        reserved: u8,
    }
}

array! {
    /// A node's opinion of another.
    pub PeerStatus {
        /// The other node.
        id: NodeId,
        /// Whether a connection stands.
        connected: bool,
        /// Smoothed round trip time in microseconds; 0 without a connection.
        rtt_us: u64,
        /// What failed last, or empty.
        last_error: String,
        /// Whether the failure detector suspects it to be down.
        suspected: bool = false,
        /// How surprising its silence is: phi in thousandths.
        phi_milli: u64 = 0,
        /// Time since the last sign of life, also by way of others, in milliseconds; `None` when there was none.
        silent_ms: Option<u64> = None,
        /// Where it is believed to be, `host:port`.
        address: String = String::new(),
        /// Its boot counter, 0 if it has never been heard of.
        boot: u64 = 0,
        /// The version of its software.
        version: String = String::new(),
        /// What it last said that it carries.
        load: Option<NodeLoad> = None,
        /// The features that it last said it knows; `None` if it has not been heard of since the responder's start.
        features: Option<FeatureSet> = None,
    }
}

message! {
    /// How a node is.
    STATUS_REPLY, StatusReply {
        /// Who answers.
        node: NodeInfo,
        /// The cluster's name, as in the node's certificate.
        cluster: String,
        /// Whether it serves requests.
        serving: bool,
        /// Why not, or empty.
        reason: String,
        /// Time since its start, in milliseconds.
        uptime_ms: u64,
        /// Digest of its membership history.
        view: Digest,
        /// Records on its disk, tombstones included; approximate.
        records: u64,
        /// Bytes on its disk; approximate.
        disk_bytes: u64,
        /// What it thinks of the others.
        peers: Vec<PeerStatus>,
        /// Hints that it keeps for others.
        hints: u64 = 0,
        /// Age of the oldest of them in seconds; `None` without hints.
        oldest_hint_s: Option<u64> = None,
        /// Why old tombstones and context entries stay where they are, or empty: while a member is out of reach nothing settles.
        settling_paused: String = String::new(),
        /// Features of the protocol that it knows.
        features: FeatureSet = FeatureSet::default(),
        /// Why its store takes no writes until it is restarted, or empty.
        store_failed: String = String::new(),
    }
}

message! {
    /// Asks for a node's metrics.
    METRICS, Metrics => MetricsReply {
        /// Nothing yet.
        reserved: u8,
    }
}

message! {
    /// A node's metrics.
    METRICS_REPLY, MetricsReply {
        /// OpenMetrics text.
        text: String,
    }
}

message! {
    /// An operator's change of the history: a founding, bucket properties, a feature to switch on, or changes of members.
    PROPOSE, Propose => ProposeReply {
        /// The change as an entry (`dynkv_ring::Entry::to_bytes`) whose time and issuer count for nothing: the node
        /// that takes it stamps its own.
        entry: Blob,
        /// Where founding members, or such that join, are.
        nodes: Vec<NodeInfo>,
        /// Further changes of members, or features that a founding switches on, as `entry`, in order: all become part of the history at once, or
        /// none does.
        more: Vec<Blob> = Vec::new(),
        /// Digest of the history that the changes are meant for: with any other one the node refuses them. `None`: whatever it is.
        expect: Option<Digest> = None,
    }
}

impl Propose {
    /// Changes in one proposal, at most.
    pub const CHANGES_MAX: usize = 1024;
}

message! {
    /// A change that is now part of the history.
    PROPOSE_REPLY, ProposeReply {
        /// The entry (`dynkv_ring::Entry::to_bytes`).
        entry: Blob,
        /// Digest of the history with it.
        view: Digest,
        /// The entries of the further changes.
        more: Vec<Blob> = Vec::new(),
    }
}

message! {
    /// Reads a replica's state of a key. The reply's body is the state, unless its digest is the caller's.
    REPLICA_GET, ReplicaGet => ReplicaGetReply {
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
        /// Configuration and settled state under which the caller asks.
        stamp: Stamp,
        /// Digest of the state that the caller has, to which a short "the same" is enough. `None`: of no state at all.
        have: Option<Digest>,
        /// Whether the replica is to promise what `stamp` says before it reads: the caller could not take the state otherwise.
        promise: bool = false,
    }
}

message! {
    /// A replica's state; body: `State::encode`, empty when the replica holds what the caller has.
    REPLICA_GET_REPLY, ReplicaGetReply {
        /// Whether the caller's state is this replica's, too.
        same: bool,
        /// Configuration and settled state when the state was read from storage.
        stamp: Stamp,
    }
}

message! {
    /// Unites a state into a replica's. Body: `State::encode`, stored as it is where the replica has nothing else.
    REPLICA_PUT, ReplicaPut => ReplicaPutReply {
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
        /// Configuration and settled state when the state was read from storage.
        stamp: Stamp,
        /// Whether to acknowledge from disk, or from memory. Hints are always acknowledged from disk.
        durable: bool,
        /// The home that this is a hint for: the replica keeps it apart from its own record, and hands it over when that
        /// home is back. `None`: the replica is a home itself.
        hint_for: Option<NodeId> = None,
    }
}

message! {
    /// The state is united, as durably as was asked for.
    REPLICA_PUT_REPLY, ReplicaPutReply {
        /// Configuration and settled state of the replica.
        stamp: Stamp,
    }
}

message! {
    /// A page of what a replica holds in a partition of a bucket, in byte order of the keys.
    REPLICA_LIST, ReplicaList => ReplicaListReply {
        /// The bucket.
        bucket: String,
        /// The partition.
        partition: u32,
        /// Only keys that begin with this.
        prefix: Blob,
        /// Only keys after this one.
        after: Option<Blob>,
        /// At most this many keys.
        limit: u32,
    }
}

array! {
    /// One key of a replica.
    pub ListedKey {
        /// The key.
        key: Blob,
        /// Digest of its state.
        digest: Digest,
        /// Whether a reader would see a value.
        live: bool,
    }
}

message! {
    /// A page of keys with the digests of their states.
    REPLICA_LIST_REPLY, ReplicaListReply {
        /// The keys.
        keys: Vec<ListedKey>,
        /// Whether there may be more behind the last one.
        more: bool,
    }
}

/// What a node remembers of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Seen {
    /// Its version is or was here, and within the retry window no other one.
    #[serde(rename = "a")]
    Applied,
    /// Its version is or was here; another one was, too, or the node's memory does not reach back far enough.
    #[serde(rename = "t")]
    AppliedPerhapsTwice,
    /// It certainly was not here within the retry window.
    #[serde(rename = "n")]
    NotApplied,
    /// The node's memory does not reach back far enough.
    #[serde(rename = "u")]
    CannotSay,
}

message! {
    /// Asks a node whether it has applied a put, before another coordinator carries out its retry.
    PUT_SEEN, PutSeen => PutSeenReply {
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
        /// The put.
        put_id: PutId,
        /// Which attempt asks.
        attempt: u32 = 0,
        /// Configuration and settled state under which the caller asks: what it could not take is not read before the same is promised.
        stamp: Stamp = Stamp::default(),
    }
}

message! {
    /// What a home remembers of a put; body: its state of the key when it was applied.
    PUT_SEEN_REPLY, PutSeenReply {
        /// The answer.
        seen: Seen,
        /// Who minted the put's version; meaningful when it was applied.
        actor: Actor,
        /// The dot's counter.
        counter: u64,
        /// Configuration and settled state when the state was read from storage.
        stamp: Stamp,
    }
}

message! {
    /// A message of the gossip between nodes. Body: the message in CBOR (`dynkv_gossip::Message`); what it carries is the
    /// nodes' business.
    GOSSIP, Gossip => GossipReply {
        /// Nothing yet.
        reserved: u8,
    }
}

message! {
    /// The other side's answer; body: the next message of the exchange, or nothing when there is no more to say.
    GOSSIP_REPLY, GossipReply {
        /// Nothing yet.
        reserved: u8,
    }
}

array! {
    /// What a node has to carry, roughly: the others are told of great changes only.
    #[derive(Default)]
    pub NodeLoad {
        /// Records on its disk, tombstones included.
        records: u64,
        /// Bytes on its disk.
        disk_bytes: u64,
        /// Hints that it keeps for others.
        hints: u64,
        /// Age of the oldest of them in seconds; `None` without hints.
        oldest_hint_s: Option<u64>,
    }
}

array! {
    /// What a node says about itself in the gossip, beside its id and boot counter.
    pub Announcement {
        /// Where it is reached, `host:port`.
        address: String,
        /// Random identity of its disk; 0 when others say it, who do not know.
        disk: u64,
        /// The software's version.
        version: String,
        /// What it has to carry.
        load: NodeLoad,
        /// Features of the protocol that it knows.
        features: FeatureSet = FeatureSet::default(),
    }
}
