//! Deterministic simulation of whole dynkv clusters.
//!
//! The real node and the real client, QUIC and TLS included, run over an in-memory network and in-memory disks, in one thread
//! under paused time, from one plan: the same plan gives the same run. Faults happen, clients work, and a checker that knows
//! every invocation and answer verifies what the store promises.
//!
//! - [`plan`]: what a run will be, as data, drawn from a seed or written by hand ([`plans`]).
//! - [`run`]: a plan from beginning to end; [`batch`]: many of them.
//! - [`network`]: datagrams with latency, loss, doubling, reordering and cut links; [`disk`]: a store that loses at a crash what
//!   was not synced, and whose operations may fail; [`gate`]: a process that stands still.
//! - [`world`]: hosts, clocks, starting and ending nodes.
//! - [`buckets`], [`workload`]: what clients do; [`history`]: what they asked and were answered.
//! - [`checker`]: the promises, held against that history; [`replicas`], [`copies`]: what the nodes hold.
//! - [`rounds`]: what a member says to rounds of settlement that it must not answer.
//! - [`report`], [`log`]: what a person reads; [`shrink`]: less of it.
//! - [`planted`]: bugs that the checker must catch.
//! - [`scale`]: what membership costs as clusters grow.

pub mod batch;
pub mod buckets;
pub mod checker;
mod converge;
pub mod copies;
pub mod disk;
mod draw;
mod faults;
pub mod gate;
mod heal;
pub mod history;
pub mod log;
pub mod network;
pub mod plan;
pub mod plans;
pub mod planted;
pub mod replicas;
pub mod report;
pub mod rounds;
pub mod run;
pub mod scale;
mod settled;
pub mod shrink;
pub mod workload;
pub mod world;
