#![doc = include_str!("../README.md")]
//!
//! # Where to begin
//!
//! [`ClusterFile`] and [`Client::connect`]; then [`Client::get`], [`Client::put`], [`Client::delete`] and [`Client::list`], each a
//! builder to be awaited. [`Context`] carries what was read to the next write, [`Error`] tells what is certain after a failure.
//! [`ClusterView`], [`Client::status`], [`Client::metrics`], [`Client::hints`], [`Client::drain_hints`],
//! [`Client::trees`], [`Client::diff`], [`Client::repair`], [`Client::verify`], [`Client::held`], [`Client::transfers`],
//! [`Client::limit_transfers`] and [`Client::propose`] are for operators.
//!
//! The crates whose types appear here are re-exported as [`net`], [`proto`] and [`ring`].

mod admin;
mod attempts;
mod client;
mod cluster_file;
mod context;
mod detours;
mod error;
mod get;
mod health;
mod inner;
mod key;
mod list;
mod options;
mod pool;
mod put;
mod refresh;
mod request;
mod transfers;
mod upkeep;
mod view;

pub use admin::{Apply, DrainHints, Hints, Metrics, Propose, Status};
pub use client::Client;
pub use cluster_file::{ClusterFile, ClusterFileError};
pub use context::{Context, ParseContextError};
pub use error::{ConnectError, Error, SeedFailure};
pub use get::{Fetched, Get, Sibling};
pub use list::{List, Page};
pub use options::Options;
pub use put::{Delete, Put, Stored};
pub use transfers::{LimitTransfers, Transfers};
pub use upkeep::{Diff, Held, Repair, RepairStatus, StopRepair, StopVerify, Trees, Verify, VerifyStatus};
pub use view::ClusterView;

pub use dynkv_net as net;
pub use dynkv_proto as proto;
pub use dynkv_ring as ring;
pub use dynkv_vclock as vclock;
