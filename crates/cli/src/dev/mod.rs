//! A cluster in one process: its folder, its certificates, its nodes.

pub(crate) mod folder;
pub(crate) mod host;

/// The name of every such cluster.
pub(crate) const CLUSTER: &str = "dev";
