//! A node of the dynkv key-value store: coordinator, replica and storage.
//!
//! A request's way, by file names: `server` takes it off a connection; `coordinator` counts answers and decides, or forwards;
//! `replica` reads, unites and mints on every home; `storage` keeps the records. `cluster` is what the node knows of the
//! membership, `gossip` how that travels and who is suspected to be down, `peers` the connections to the others. `hints` are
//! kept for homes that are out of reach; `trees` are what replicas hold in short, `entropy` compares them and mends what differs;
//! `settle` lets tombstones and old context entries go; `background` bounds what no client waits for.
//!
//! # What this crate does not do
//!
//! It starts no runtime, installs no signal handlers and reads no configuration files: `dynkv-cli` does. It asks the world for
//! nothing but a UDP socket, a [`Storage`](storage::Storage), tokio's time and an [`Env`].

mod actor;
mod background;
mod chain;
mod cluster;
mod coordinator;
mod damaged;
mod data_dir;
mod entropy;
mod env;
mod features;
mod gossip;
mod held;
mod hints;
mod incoming;
mod join;
mod key;
mod metrics;
mod news;
mod node;
mod peers;
#[cfg(dynkv_planted)]
pub mod planted;
#[cfg(not(dynkv_planted))]
#[expect(unreachable_pub, reason = "the simulator sees it in a build that has planted bugs")]
mod planted;
mod propose;
mod put_ids;
mod record;
mod repair;
mod replica;
mod server;
mod settle;
mod shared;
pub mod storage;
mod trees;

pub use cluster::{LoadError, NotServing};
pub use data_dir::DataDirError;
pub use entropy::{CompareError, KeyDifference};
pub use env::Env;
pub use join::JoinError;
pub use news::Listener;
pub use settle::admission::is_old as disk_is_old;

pub use node::{HINT_BYTES_MAX, Node, NodeConfig, Parts, StartError};

pub use dynkv_net as net;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
