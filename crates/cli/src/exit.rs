//! What the exit code says.

use std::process::ExitCode;

/// How a command ended. The numbers are part of the interface: scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    /// The key, bucket or node is not there.
    NotFound = 1,
    /// The command line, a file or a token is wrong; nothing was asked of the cluster, or it found the request wrong.
    Usage = 2,
    /// Refused or failed, certainly not done.
    Refused = 3,
    /// The key has siblings, so that there is no one value to print.
    Siblings = 4,
    /// Perhaps done, or the answer is known to be incomplete.
    Unknown = 5,
    /// No node was reached.
    Connect = 6,
    /// Stopped by Ctrl-C; what shells expect.
    Interrupted = 130,
}

/// The list at the end of the help page.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  not found
  2  wrong usage or bad input
  3  refused or failed, certainly not done
  4  the key has siblings
  5  unknown: perhaps done, or the answer is incomplete
  6  cannot connect
  130  interrupted

Environment:
  DYN_CLUSTER  the cluster file, as --cluster
  DYN_LOG      what is logged to stderr: debug, or for example dynkv_node=debug
  NO_COLOR     when set, no colours";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
