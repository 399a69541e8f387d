//! Deterministic simulation of whole dynkv clusters.
//!
//! The real node and the real client, QUIC and TLS included, run over an in-memory network and in-memory disks, in one thread
//! under paused time, from one seed: the same seed gives the same run. Faults happen, clients work, and a checker that knows
//! every invocation and answer verifies what the store promises.
//!
//! - [`network`]: datagrams with latency, loss, duplication, reordering and cut links.
//! - [`disk`]: a store that loses at a crash what was not synced, and whose writes may fail.
//! - [`world`]: hosts, clocks, starting and crashing nodes.
//! - [`workload`]: sessions of clients, and the history of what they did.
//! - [`checker`]: the promises, held against that history.
//! - [`run`]: one seed from beginning to end.

pub mod checker;
pub mod disk;
pub mod network;
pub mod run;
pub mod workload;
pub mod world;
