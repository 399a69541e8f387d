#![doc = include_str!("../README.md")]

pub mod cluster;
pub mod peer;
pub mod process;
pub mod wait;
