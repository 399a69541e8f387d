//! Endpoints against each other, against hostile peers, and over a simulated network.

mod hostile;
mod rpc;
mod security;
mod simulated;
mod support;
