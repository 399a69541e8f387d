//! Runs that operators order and watch: a repair of replicas, and a verification of a disk. One of each may be under way on a
//! node; what came of the latest is kept in its memory.

use dynkv_ring::NodeId;
use serde::{Deserialize, Serialize};

use crate::{
    Blob,
    array::{array, message},
};

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RunState {
    /// It is under way.
    #[serde(rename = "r")]
    Running,
    /// It has come to its end. Whether it could do everything say its errors.
    #[serde(rename = "d")]
    Done,
    /// It was stopped before its end.
    #[serde(rename = "s")]
    Stopped,
    /// It was given up: its last error says why.
    #[serde(rename = "f")]
    Failed,
}

array! {
    /// A repair: a node compares itself with the other homes of its partitions, and mends what differs.
    pub RepairRun {
        /// Counts the runs of one process, from 1 on.
        number: u64,
        /// The only partition that is looked at; `None`: all.
        partition: Option<u32>,
        /// How it stands.
        state: RunState,
        /// Time since it began, in milliseconds.
        age_ms: u64,
        /// Time that it took, or has taken so far.
        took_ms: u64,
        /// Comparisons that are done: one for each partition and each other home of it.
        compared: u64,
        /// Comparisons to be done.
        comparisons: u64,
        /// Entries that were found to differ. One that was found with two other nodes counts twice.
        differences: u64,
        /// States taken over from others.
        pulled: u64,
        /// States given to others.
        pushed: u64,
        /// Bytes of states that were moved.
        bytes: u64,
        /// How many things went wrong.
        errors: u64,
        /// The latest of them.
        last_errors: Vec<String>,
    }
}

message! {
    /// Has a node begin a repair.
    REPAIR, Repair => RepairReply {
        /// Only this partition.
        partition: Option<u32>,
    }
}

message! {
    /// The repair that is under way.
    REPAIR_REPLY, RepairReply {
        /// Whether it is the one that was asked for. Otherwise an earlier one is under way, and no other was begun.
        started: bool,
        /// It.
        run: RepairRun,
    }
}

message! {
    /// Asks how a node's repair stands. Asking changes nothing.
    REPAIR_STATUS, RepairStatus => RepairStatusReply {
        /// Nothing yet.
        reserved: u8,
    }
}

message! {
    /// How a node's repair stands.
    REPAIR_STATUS_REPLY, RepairStatusReply {
        /// Who answers.
        node: NodeId,
        /// The one under way, or the latest; `None`: there was none since the node's start.
        run: Option<RepairRun>,
    }
}

message! {
    /// Ends a node's repair. The comparisons that nodes make by themselves go on.
    STOP_REPAIR, StopRepair => StopRepairReply {
        /// Nothing yet.
        reserved: u8,
    }
}

message! {
    /// The repair is stopped.
    STOP_REPAIR_REPLY, StopRepairReply {
        /// Whether one was under way.
        stopped: bool,
        /// It, or the latest.
        run: Option<RepairRun>,
    }
}

/// What a verification looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum VerifyPhase {
    /// Every record that the digest index names, and the trees.
    #[serde(rename = "r")]
    Records,
    /// Whether the index names every record.
    #[serde(rename = "i")]
    Index,
    /// Every hint.
    #[serde(rename = "h")]
    Hints,
    /// Nothing any more: what was found damaged is being healed.
    #[serde(rename = "w")]
    Healing,
}

array! {
    /// A key by its name.
    pub KeyName {
        /// The bucket.
        bucket: String,
        /// The key.
        key: Blob,
    }
}

array! {
    /// A verification: a node reads all that it stores.
    pub VerifyRun {
        /// Counts the runs of one process, from 1 on.
        number: u64,
        /// How it stands.
        state: RunState,
        /// What it is looking at.
        phase: VerifyPhase,
        /// Bytes it reads in a second at most.
        rate_bytes: u64,
        /// Time since it began, in milliseconds.
        age_ms: u64,
        /// Time that it took, or has taken so far.
        took_ms: u64,
        /// Steps that are done: records by the index, records against it, hints.
        steps: u64,
        /// Steps to be done; approximate, since it is written to meanwhile.
        steps_all: u64,
        /// Records read and verified.
        records: u64,
        /// Hints read and verified.
        hints: u64,
        /// Bytes read.
        bytes: u64,
        /// Records found damaged, or gone though the index names them.
        damaged: u64,
        /// Those of them that are whole again.
        healed: u64,
        /// Hints found damaged. When their targets are back they are given up, and the comparison of replicas brings what the
        /// targets lack.
        hints_damaged: u64,
        /// Trees or entries of the index that did not say what is stored, and are set right.
        drifts: u64,
        /// How many things could not be read at all.
        errors: u64,
        /// The latest of them.
        last_errors: Vec<String>,
        /// Records that are still damaged; the first ones.
        unhealed: Vec<KeyName>,
    }
}

message! {
    /// Has a node begin to verify its disk.
    VERIFY, Verify => VerifyReply {
        /// Bytes to read in a second at most; `None`: the node's default. A run under way takes it over.
        rate_bytes: Option<u64>,
    }
}

message! {
    /// The verification that is under way.
    VERIFY_REPLY, VerifyReply {
        /// Whether it was begun now, or was under way already.
        started: bool,
        /// It.
        run: VerifyRun,
    }
}

message! {
    /// Asks how a node's verification stands. Asking changes nothing.
    VERIFY_STATUS, VerifyStatus => VerifyStatusReply {
        /// Nothing yet.
        reserved: u8,
    }
}

message! {
    /// How a node's verification stands.
    VERIFY_STATUS_REPLY, VerifyStatusReply {
        /// Who answers.
        node: NodeId,
        /// The one under way, or the latest; `None`: there was none since the node's start.
        run: Option<VerifyRun>,
    }
}

message! {
    /// Ends a node's verification. Nodes go on to check what they store, slowly, by themselves.
    STOP_VERIFY, StopVerify => StopVerifyReply {
        /// Nothing yet.
        reserved: u8,
    }
}

message! {
    /// The verification is stopped.
    STOP_VERIFY_REPLY, StopVerifyReply {
        /// Whether one was under way.
        stopped: bool,
        /// It, or the latest.
        run: Option<VerifyRun>,
    }
}
