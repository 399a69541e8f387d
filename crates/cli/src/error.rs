//! Why a command failed, and with which exit code.

use std::io;
use std::path::PathBuf;

use dynkv_client::net::certs::CertsError;
use dynkv_client::net::{IdentityError, NameError};
use dynkv_client::proto::{BucketError, FailureCode};
use dynkv_client::{ClusterFileError, ConnectError, Error, ParseContextError};
use dynkv_node::StartError;
use thiserror::Error;

use crate::address::AddressError;
use crate::config::ConfigError;
use crate::exit::Exit;
use crate::member::MemberError;
use crate::value::ValueError;

/// Why a command failed: what happened, why, what to do next.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error("--context: {0}")]
    Context(#[from] ParseContextError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Certs(#[from] CertsError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    ClusterFile(ClusterFileError),
    #[error("the certificate in the cluster file {}: {source}", path.display())]
    ClusterCertificate { path: PathBuf, source: ClusterFileError },
    #[error("the node's certificate {}: {source}", path.display())]
    NodeCertificate { path: PathBuf, source: IdentityError },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{what}: {source}")]
    Request { what: String, source: Error },
    #[error(transparent)]
    Start(#[from] StartError),
    /// A file of ours; `action` is a verb.
    #[error("cannot {action} {} ({source}): check the path and its permissions", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot write to stdout ({0}): check where it leads to")]
    Output(io::Error),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Unreachable(String),
}

impl CliError {
    /// For `map_err`: the request that `what` names failed.
    pub(crate) fn of(what: impl Into<String>) -> impl FnOnce(Error) -> CliError {
        let what = what.into();
        move |source| CliError::Request { what, source }
    }

    /// For `map_err`: a file could not be used.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CliError {
        let path = path.into();
        move |source| CliError::File { action, path, source }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            CliError::Address(_)
            | CliError::Context(_)
            | CliError::Bucket(_)
            | CliError::Member(_)
            | CliError::Name(_)
            | CliError::Certs(_)
            | CliError::Config(_)
            | CliError::ClusterFile(_)
            | CliError::ClusterCertificate { .. }
            | CliError::NodeCertificate { .. }
            | CliError::File { .. }
            | CliError::Usage(_)
            | CliError::Value(ValueError::NoFile | ValueError::Read { .. })
            | CliError::Connect(ConnectError::ClusterFile(_) | ConnectError::NoSeeds { .. }) => Exit::Usage,
            CliError::Value(ValueError::TooLarge { .. })
            | CliError::Start(_)
            | CliError::Output(_)
            | CliError::Refused(_) => Exit::Refused,
            CliError::NotFound(_) => Exit::NotFound,
            CliError::Unknown(_) => Exit::Unknown,
            CliError::Connect(_) | CliError::Unreachable(_) => Exit::Connect,
            CliError::Request { source, .. } => request_exit(source),
        }
    }
}

/// The exit code of a request that did not succeed.
pub(crate) fn request_exit(error: &Error) -> Exit {
    match error {
        Error::Unknown { .. } => Exit::Unknown,
        Error::Connect { .. } => Exit::Connect,
        Error::NotDone { code: FailureCode::Invalid | FailureCode::Context, .. } => Exit::Usage,
        // Errors of later versions, too, are refusals unless they say otherwise.
        _ => Exit::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_their_exit_codes() {
        let not_done = |code| Error::NotDone { code, node: None, message: "no".into() };
        let table = [
            (not_done(FailureCode::Invalid), Exit::Usage),
            (not_done(FailureCode::Context), Exit::Usage),
            (not_done(FailureCode::TooLarge), Exit::Refused),
            (not_done(FailureCode::SiblingLimit), Exit::Refused),
            (not_done(FailureCode::Forbidden), Exit::Refused),
            (not_done(FailureCode::NotServing), Exit::Refused),
            (not_done(FailureCode::Quorum), Exit::Refused),
            (not_done(FailureCode::Timeout), Exit::Refused),
            (not_done(FailureCode::Other(77)), Exit::Refused),
            (Error::Damaged { nodes: vec![], message: "x".into() }, Exit::Refused),
            (Error::Connect { message: "x".into() }, Exit::Connect),
            (
                // Whatever the code: what may have been done is unknown.
                Error::Unknown {
                    code: Some(FailureCode::Invalid),
                    node: None,
                    put_id: None,
                    message: "x".into(),
                },
                Exit::Unknown,
            ),
        ];
        for (error, expected) in table {
            assert_eq!(request_exit(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn bad_input_and_refusals_differ() {
        let exit = |error: CliError| error.exit();
        assert_eq!(exit(ValueError::NoFile.into()), Exit::Usage);
        let too_large = ValueError::TooLarge { what: "stdin".into(), bucket: "b".into(), limit: 1 };
        assert_eq!(exit(too_large.into()), Exit::Refused);
        assert_eq!(exit(ConnectError::NoSeeds { cluster: "c".into() }.into()), Exit::Usage);
        let unreachable = ConnectError::Unreachable { cluster: "c".into(), seeds: vec![] };
        assert_eq!(exit(unreachable.into()), Exit::Connect);
        assert_eq!(exit(AddressError::EmptyKey { text: "b/".into() }.into()), Exit::Usage);
    }
}
