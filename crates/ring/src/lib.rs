#![doc = include_str!("../README.md")]
//!
//! # Where to begin
//!
//! [`History`] and [`Membership`] for a cluster whose nodes must agree; [`strategy::EqualTokens`] for a ring without a
//! history; [`Ring`] for what both lead to; [`Plan`] before changes are made.

mod change;
mod codec;
mod diff;
mod history;
mod homes;
mod id;
mod member;
mod membership;
mod plan;
mod position;
mod ring;
mod spread;
pub mod strategy;

pub use change::{Change, Entry, Founding, InvalidChange};
pub use codec::DecodeError;
pub use diff::{IncomparableRings, PartitionChange, RingDiff, Traffic, Transfer};
pub use history::{Entries, History, HistoryFull};
pub use id::{InvalidNodeId, NodeId};
pub use member::{InvalidMember, Member};
pub use membership::{Departure, Ignored, IgnoredReason, MemberState, Membership, Status};
pub use plan::{ParsePlanIdError, Plan, PlanError, PlanId, PlannedMove, PlannedShare, Warning};
pub use position::{InvalidPartitionCount, PartitionCount, PartitionId, Position};
pub use ring::{Load, Preference, Ring};
pub use spread::Spread;
