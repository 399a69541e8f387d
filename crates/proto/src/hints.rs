//! Messages about hints: what a node keeps for homes that were out of reach.

use dynkv_ring::NodeId;

use crate::{
    Blob,
    array::{array, message},
};

message! {
    /// Asks a node for the hints it keeps: totals for each target, and a page of hints for one of them.
    HINTS, Hints => HintsReply {
        /// Whose hints to list; `None`: only totals.
        target: Option<NodeId>,
        /// Only hints behind this one (`HintEntry::sequence`).
        after: Option<u64>,
        /// At most this many hints.
        limit: u32,
    }
}

array! {
    /// What a node keeps for one target.
    pub HintTotals {
        /// The home that the hints are for.
        target: NodeId,
        /// How many there are.
        hints: u64,
        /// Bytes of their states.
        bytes: u64,
        /// Age of the oldest one, in milliseconds by the holder's clock.
        oldest_ms: u64,
        /// Whether the holder can reach the target.
        reachable: bool,
        /// What came of the latest attempt to deliver, or empty when all went well.
        last_error: String,
    }
}

array! {
    /// One hint.
    pub HintEntry {
        /// Orders the hints of one holder by age.
        sequence: u64,
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
        /// Bytes of the state.
        bytes: u64,
        /// Since when the target owes this, in milliseconds by the holder's clock.
        age_ms: u64,
    }
}

message! {
    /// What a node keeps for others.
    HINTS_REPLY, HintsReply {
        /// Who answers.
        node: NodeId,
        /// For each target, in the order of their names.
        totals: Vec<HintTotals>,
        /// A page of the target's hints, oldest first.
        hints: Vec<HintEntry>,
        /// Whether there are more behind the last one.
        more: bool,
        /// Bytes that hints take on this node's disk at most.
        limit_bytes: u64,
        /// Hints that were refused because the store was full, since the node's start.
        refused_full: u64,
    }
}

message! {
    /// Has a node try at once to deliver its hints, whatever came of the attempts before.
    DRAIN_HINTS, DrainHints => DrainHintsReply {
        /// Whose; `None`: all.
        target: Option<NodeId>,
    }
}

message! {
    /// The attempt has begun; ask for the hints to see how it goes.
    DRAIN_HINTS_REPLY, DrainHintsReply {
        /// Hints that are to be delivered.
        hints: u64,
    }
}
