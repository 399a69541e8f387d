//! Measuring a cluster: workloads, load generation, and the report.
//!
//! ```text
//! workload.rs   which operations a phase consists of
//! keys.rs       which key each is for
//! values.rs     what is written
//! contexts.rs   what this client knows of each key, so that its writes replace one another
//! turns.rs      when each operation begins: as soon as another ends, or at a fixed rate
//! stats.rs      what happened, counted
//! work.rs       what each worker does
//! run.rs        a phase, run with all of these
//! process.rs    CPU time and memory of processes on this machine
//! cluster.rs    a throw-away cluster of separate processes
//! report.rs     the figures as JSON and as a table
//! chart.rs      the latencies as a picture
//! ```

pub(crate) mod chart;
pub(crate) mod cluster;
mod contexts;
mod keys;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod stats;
mod turns;
pub(crate) mod values;
mod work;
pub(crate) mod workload;

pub(crate) use keys::Popularity;
