//! What can go wrong, and what is certain then.

use std::fmt;

use dynkv_net::BindError;
use dynkv_proto::{FailureCode, Outcome, PutId};
use dynkv_ring::NodeId;
use thiserror::Error;

use crate::ClusterFileError;

/// Why a client cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The cluster file or the certificates in it are of no use.
    #[error(transparent)]
    ClusterFile(#[from] ClusterFileError),
    /// No local socket could be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The cluster file names no nodes.
    #[error(
        "the cluster file of '{cluster}' has no seeds: add the address of a node, for example seeds = [\"127.0.0.1:7401\"]"
    )]
    NoSeeds {
        /// The cluster.
        cluster: String,
    },
    /// No seed answered.
    #[error(
        "no node of cluster '{cluster}' answers ({}): start the cluster, or correct the seeds in its cluster file",
        seeds.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Unreachable {
        /// The cluster.
        cluster: String,
        /// Each seed, in the order of the cluster file.
        seeds: Vec<SeedFailure>,
    },
}

/// A seed that did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedFailure {
    /// Its address, as in the cluster file.
    pub seed: String,
    /// Why.
    pub reason: String,
}

/// `address: reason`, or the reason alone where it names the address.
impl fmt::Display for SeedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.contains(&self.seed) {
            return f.write_str(&self.reason);
        }
        write!(f, "{}: {}", self.seed, self.reason)
    }
}

/// A request that was not answered with success.
///
/// A request has three possible answers: done, certainly not done, and unknown. Success is the first;
/// [`outcome`](Error::outcome) tells the other two apart. Reading changes nothing, so a read that failed is never unknown.
///
/// ```
/// use dynkv_client::proto::{FailureCode, Outcome};
/// use dynkv_client::{Client, Context};
///
/// # async fn example(client: &Client, context: &Context) {
/// match client.put("carts", "alice", "2 apples").context(context).await {
///     Ok(stored) => println!("stored on {} nodes", stored.replicas),
///     Err(error) if error.outcome() == Outcome::Unknown => println!("perhaps: {error}"),
///     Err(error) if error.code() == Some(FailureCode::Context) => println!("get it again: {error}"),
///     Err(error) => println!("nothing was written: {error}"),
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// Refused or failed; certainly nothing was done, nor will be.
    #[error("{message}")]
    NotDone {
        /// Why, for programs.
        code: FailureCode,
        /// The node that said so, or none if the request was not sent.
        node: Option<NodeId>,
        /// Why and what to do next, for people.
        message: String,
    },
    /// It may have been done, or may still surface.
    #[error("it is unknown whether this was done ({message}): look at the result before repeating it")]
    Unknown {
        /// Why, if a node said so; nothing if it fell silent.
        code: Option<FailureCode>,
        /// The node whose answer is unknown.
        node: Option<NodeId>,
        /// The put's id: [`Put::retry_of`](crate::Put::retry_of) goes on with it, without writing twice. Nothing for
        /// other requests.
        put_id: Option<PutId>,
        /// What happened and what to do next, for people.
        message: String,
    },
    /// No node that could have answered was reached; certainly nothing was done.
    #[error("{message}")]
    Connect {
        /// Which nodes and why.
        message: String,
    },
    /// Every node asked sent a value that does not have the checksum its writer gave it. None of it was returned.
    #[error("{message}")]
    Damaged {
        /// The nodes, in the order in which they were asked.
        nodes: Vec<NodeId>,
        /// What to do next, for people.
        message: String,
    },
}

impl Error {
    /// What is certain about the request.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Unknown { .. } => Outcome::Unknown,
            Error::NotDone { .. } | Error::Connect { .. } | Error::Damaged { .. } => Outcome::NotDone,
        }
    }

    /// Why, where a node or the client's own checks said so.
    pub fn code(&self) -> Option<FailureCode> {
        match self {
            Error::NotDone { code, .. } => Some(*code),
            Error::Unknown { code, .. } => *code,
            Error::Connect { .. } | Error::Damaged { .. } => None,
        }
    }

    /// The node the answer came from, or failed to come from.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Error::NotDone { node, .. } | Error::Unknown { node, .. } => *node,
            Error::Damaged { nodes, .. } => nodes.last().copied(),
            Error::Connect { .. } => None,
        }
    }

    /// A refusal of the client's own, before anything was sent.
    pub(crate) fn refused(code: FailureCode, message: impl fmt::Display) -> Error {
        Error::NotDone { code, node: None, message: message.to_string() }
    }

    /// What this error is for the retry of a request whose earlier outcome is unknown: that stays unknown.
    pub(crate) fn after_unknown(self) -> Error {
        let (code, node) = (self.code(), self.node());
        match self {
            unknown @ Error::Unknown { .. } => unknown,
            other => {
                Error::Unknown { code, node, put_id: None, message: format!("the retry failed: {other}") }
            }
        }
    }

    /// The same error with the id of the put that met it.
    pub(crate) fn of_put(mut self, id: PutId) -> Error {
        if let Error::Unknown { put_id, .. } = &mut self {
            *put_id = Some(id);
        }
        self
    }
}
