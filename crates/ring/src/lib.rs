//! Consistent hashing as in Dynamo: partitions, weights, failure domains, preference lists and a mergeable membership history

mod change;
mod codec;
mod diff;
mod history;
mod id;
mod member;
mod membership;
mod position;
mod ring;
pub mod strategy;

pub use change::{Change, Entry, Founding, InvalidChange};
pub use codec::DecodeError;
pub use diff::{IncomparableRings, PartitionChange, RingDiff, Traffic, Transfer};
pub use history::{Entries, History, HistoryFull};
pub use id::{InvalidNodeId, NodeId};
pub use member::{InvalidMember, Member};
pub use membership::{Departure, Ignored, IgnoredReason, MemberState, Membership, Status};
pub use position::{InvalidPartitionCount, PartitionCount, PartitionId, Position};
pub use ring::{Load, Preference, Ring};
