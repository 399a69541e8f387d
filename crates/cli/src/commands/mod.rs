//! One file for each command.

pub(crate) mod bench;
pub(crate) mod bucket;
pub(crate) mod cert;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod delete;
pub(crate) mod dev;
pub(crate) mod get;
pub(crate) mod hints;
pub(crate) mod import;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod merkle;
pub(crate) mod metrics;
pub(crate) mod node;
pub(crate) mod put;
pub(crate) mod repair;
pub(crate) mod ring;
pub(crate) mod status;
pub(crate) mod transfers;
pub(crate) mod verify;
