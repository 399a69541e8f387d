//! Real processes, real files, real signals: what `dyn` does as its users run it.
#![cfg(unix)]

mod bench;
mod dev;
mod faults;
mod fleet;
mod load;
mod moving;
mod namespaces;
mod partitions;
mod refusals;
mod survival;

const DYN: &str = env!("CARGO_BIN_EXE_dyn-under-test");
