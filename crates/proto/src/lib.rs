//! Messages of the dynkv key-value store and their encoding, without I/O.
//!
//! - [`Frame`]: the unit on the wire: kind, CBOR header, raw body.
//! - [`State`]: the versions of one key and their causal context, as replicas store and send it.
//! - [`ContextToken`]: what a read hands to the next write.
//! - [`Buckets`]: bucket properties, folded from the membership history.
//! - [`Feature`]: what all members have to know before any of them does it, and [`Features`], what a cluster has switched on.
//! - the messages themselves, each with its kind in [`kinds`].
//!
//! ```
//! use dynkv_proto::{Frame, Get, Hops};
//!
//! let get = Get { bucket: "carts".into(), key: "alice".into(), r: None, pr: None, timeout_ms: 5000, hops: Hops(0) };
//! let frame = Frame::new(&get, bytes::Bytes::new());
//! assert_eq!(frame.message::<Get>()?, get);
//! # Ok::<(), dynkv_proto::DecodeError>(())
//! ```
//!
//! # Version rules
//!
//! Headers are arrays. A field is only ever added at the end, with a default for peers that do not send it; surplus fields are
//! skipped. A message kind this version does not know is answered with [`FailureCode::UnknownKind`]. What takes all members
//! to know it is a [`Feature`], and rests until it is switched on. What cannot be said that way needs another ALPN than [`ALPN`].
//!
//! # What this crate does not do
//!
//! No sockets, no clocks, no randomness, and no decisions: which replica to ask and when a request is done is the node's.
//! Every decoder survives every byte string, without panicking and without allocating more than the input justifies.

mod array;
mod blob;
mod bucket;
mod chain;
mod context;
mod error;
mod failure;
mod feature;
mod frame;
mod hints;
mod ids;
mod inspect;
mod messages;
mod runs;
mod settle;
mod state;
mod transfers;
mod trees;

pub use blob::Blob;
pub use bucket::{
    BUCKET_BYTES_MAX, BUCKET_CHANGE_KIND, BucketChange, BucketError, BucketProperties, Buckets, Conflict,
    DEFAULT_BUCKET, KEY_BYTES_MAX, VALUE_BYTES_MAX, check_bucket_name,
};
pub use chain::{
    Accepted, ChainAccept, ChainAcceptReply, ChainJoin, ChainJoinReply, ChainPrepare, ChainPrepareReply,
    ChainReady, ChainReadyReply, ChainTell, ChainTellReply, Configuration, Holder, Vote,
};
pub use context::{CONTEXT_BYTES_MAX, ContextError, ContextToken};
pub use error::DecodeError;
pub use failure::{Failure, FailureCode, Outcome};
pub use feature::{
    FEATURE_CHANGE_KIND, Feature, FeatureChange, FeatureOff, FeatureSet, Features, UnknownFeature,
};
pub use frame::{FRAME_PREFIX_BYTES, Frame, HEADER_BYTES_MAX, Message, Request};
pub use hints::{DrainHints, DrainHintsReply, HintEntry, HintTotals, Hints, HintsReply};
pub use ids::{Actor, Digest, Marks, PutId, Round, Stamp, TreePosition, display_dot};
pub use inspect::{
    Diff, DiffKey, DiffReply, DiffSide, Held, HeldReply, HeldState, HeldVersion, Relation, TreeStatus, Trees,
    TreesReply,
};
pub use messages::{
    Announcement, Get, GetReply, Gossip, GossipReply, Hops, List, ListReply, ListedKey, Metrics,
    MetricsReply, NodeInfo, NodeLoad, PeerStatus, Propose, ProposeReply, Put, PutReply, PutSeen,
    PutSeenReply, ReplicaGet, ReplicaGetReply, ReplicaList, ReplicaListReply, ReplicaPut, ReplicaPutReply,
    Seen, Status, StatusReply, View, ViewReply, kinds,
};
pub use runs::{
    KeyName, Repair, RepairReply, RepairRun, RepairStatus, RepairStatusReply, RunState, StopRepair,
    StopRepairReply, StopVerify, StopVerifyReply, Verify, VerifyPhase, VerifyReply, VerifyRun, VerifyStatus,
    VerifyStatusReply,
};
pub use settle::{
    Admit, AdmitReply, PartitionMarks, SettleDecide, SettleDecideReply, SettleDrop, SettleDropReply,
    SettleKey, SettleMarks, SettleMarksReply, SettlePrepare, SettlePrepareReply,
};
pub use state::{Merge, State, Version, VersionHeader, value_hash};
pub use transfers::{
    LimitTransfers, LimitTransfersReply, Transfer, TransferState, Transfers, TransfersReply,
};
pub use trees::{
    StateAsked, StateFound, States, StatesReply, TreeCompare, TreeCompareReply, TreeRoots, TreeRootsReply,
};

/// The protocol's name in the TLS handshake.
pub const ALPN: &[u8] = b"dynkv/1";

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
