//! Clusters in one process, used through the client library and, where a test must speak to one certain node, through
//! bare connections.

mod anti_entropy;
mod failures;
mod founding;
mod hints;
mod identity;
mod listing;
mod operators;
mod plans;
mod refusals;
mod routing;
mod security;
mod settlement;
mod siblings;
mod support;
mod upgrade;
