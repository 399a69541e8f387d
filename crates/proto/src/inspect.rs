//! What operators ask to see of replicas: their trees, where two of them differ, and what each holds of a key.

use dynkv_ring::NodeId;
use dynkv_vclock::{CausalContext, Dot};
use serde::{Deserialize, Serialize};

use crate::{
    Actor, Blob, Digest,
    array::{array, message},
};

message! {
    /// Asks a node for its Merkle trees: a page of those of the partitions that it is a home of.
    TREES, Trees => TreesReply {
        /// Only this partition.
        partition: Option<u32>,
        /// Only partitions behind this one.
        after: Option<u32>,
        /// At most this many trees.
        limit: u32,
    }
}

array! {
    /// The tree of one partition.
    pub TreeStatus {
        /// The partition.
        partition: u32,
        /// Its root; `None` while it is being built. Replicas that hold the same have the same roots.
        root: Option<Digest>,
        /// How many places it covers: as many as there are records, tombstones included. 0 while it is being built.
        entries: u64,
        /// Levels below its root; 0 while it is being built.
        depth: u8,
    }
}

message! {
    /// A node's trees.
    TREES_REPLY, TreesReply {
        /// Who answers.
        node: NodeId,
        /// Digest of its membership history.
        view: Digest,
        /// The trees, in the order of their partitions.
        trees: Vec<TreeStatus>,
        /// Whether there are more behind the last one.
        more: bool,
        /// How many partitions the node is a home of.
        partitions: u32,
        /// How many of those have no tree yet.
        building: u32,
    }
}

message! {
    /// Has a node compare itself with another one, and say where they differ. Nothing is changed.
    DIFF, Diff => DiffReply {
        /// The other node.
        peer: NodeId,
        /// Only this partition.
        partition: Option<u32>,
        /// Whether to name keys, or only partitions.
        keys: bool,
        /// At most this many keys.
        limit: u32,
        /// What is left of the caller's deadline, in milliseconds.
        timeout_ms: u32,
    }
}

/// How the states of one key on two nodes stand to each other. Of two, one is older when the union of both is the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Relation {
    /// The node that was asked has none.
    #[serde(rename = "mh")]
    MissingHere,
    /// The peer has none.
    #[serde(rename = "mt")]
    MissingThere,
    /// The peer has all that the node has, and more.
    #[serde(rename = "oh")]
    OlderHere,
    /// The node has all that the peer has, and more.
    #[serde(rename = "ot")]
    OlderThere,
    /// Each has what the other lacks.
    #[serde(rename = "c")]
    Concurrent,
    /// The node's record is damaged.
    #[serde(rename = "dh")]
    DamagedHere,
    /// The peer's record is damaged.
    #[serde(rename = "dt")]
    DamagedThere,
}

array! {
    /// One side of a difference.
    pub DiffSide {
        /// Digest of the state.
        digest: Digest,
        /// Bytes of the state, with its values.
        bytes: u64,
        /// Versions in it, tombstones included.
        versions: u32,
    }
}

array! {
    /// A key on which two nodes differ.
    pub DiffKey {
        /// Its partition.
        partition: u32,
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
        /// How its states stand to each other.
        relation: Relation,
        /// What the node that was asked has; `None`: nothing, or nothing intact.
        here: Option<DiffSide>,
        /// What the peer has.
        there: Option<DiffSide>,
    }
}

message! {
    /// Where two nodes differ.
    DIFF_REPLY, DiffReply {
        /// Who answers.
        node: NodeId,
        /// How many partitions both are homes of, of those that were asked for.
        shared: u32,
        /// Those of them that could not be compared: one of the two has no tree of it yet.
        skipped: Vec<u32>,
        /// Those whose roots differ.
        differing: Vec<u32>,
        /// Keys on which they differ, if they were asked for. Those that became equal while they were looked at are left out.
        keys: Vec<DiffKey>,
        /// Whether there may be more keys.
        more: bool,
    }
}

message! {
    /// Asks what a node itself holds of a key. No other node is asked, and nothing is repaired.
    HELD, Held => HeldReply {
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
    }
}

array! {
    /// A version, without its value.
    pub HeldVersion {
        /// Who minted it.
        actor: Actor,
        /// The dot's counter.
        counter: u64,
        /// When it was written, in milliseconds of the coordinator's clock.
        time_ms: u64,
        /// Whether it is a delete.
        tombstone: bool,
        /// Length of the value, in bytes.
        len: u64,
    }
}

array! {
    /// What a node holds of a key in one place.
    pub HeldState {
        /// The home that it is kept for, as a hint; `None`: in the node's own record.
        hint_for: Option<NodeId>,
        /// Digest of the state.
        digest: Digest,
        /// Bytes of the state, with its values.
        bytes: u64,
        /// Every dot that it has seen.
        context: CausalContext<Actor>,
        /// Its versions, tombstones included.
        versions: Vec<HeldVersion>,
    }
}

impl HeldState {
    /// Whether it has all that `other` has, so that uniting the two would give it again.
    ///
    /// Contexts alone do not say it: in `lww` buckets a version goes although no context has replaced it.
    pub fn covers(&self, other: &HeldState) -> bool {
        let dot = |version: &HeldVersion| Dot { actor: version.actor, counter: version.counter };
        let dropped = |version: &HeldVersion| {
            let held = other.versions.iter().any(|held| dot(held) == dot(version));
            other.context.contains(&dot(version)) && !held
        };
        self.context.includes(&other.context) && !self.versions.iter().any(dropped)
    }
}

message! {
    /// What a node itself holds of a key.
    HELD_REPLY, HeldReply {
        /// Who answers.
        node: NodeId,
        /// Whether the node takes itself for a home of the key.
        home: bool,
        /// The record, if there is one, then hints.
        states: Vec<HeldState>,
        /// What is damaged, one text for each.
        damaged: Vec<String>,
    }
}
