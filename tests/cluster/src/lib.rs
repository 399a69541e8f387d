#![doc = include_str!("../README.md")]

pub mod cluster;
pub mod files;
pub mod peer;
pub mod process;
pub mod wait;
