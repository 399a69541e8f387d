//! `dyn verify`

mod watch;

use std::time::Duration;

use clap::Args;
use dynkv_client::Error;
use dynkv_client::proto::{FailureCode, VerifyReply};
use dynkv_client::ring::NodeId;

use self::watch::Watch;
use crate::commands::status::nodes;
use crate::connection::{Connection, block_on, known};
use crate::each::{Row, ask_each};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;
use crate::signals::Stop;

/// A node that is up answers sooner; waiting longer for one that is down helps nobody.
const ANSWER_WITHIN: Duration = Duration::from_millis(2500);

/// Read and verify all that nodes have on disk
///
/// Every record and hint is read: checksums of head, header and values, and the digest index against the records in both directions.
/// What is damaged is healed from the other homes of its partition. It is background work at a limited rate, and the node serves
/// meanwhile. Nodes do the same by themselves all the time, slowly. Ctrl-C stops it on the nodes, too. Takes an administrator's
/// certificate. Exit code 3 if something damaged is not healed, 5 if something could not be verified.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The node [default: all nodes, at once]
    #[arg(value_name = "NODE")]
    node: Option<NodeId>,
    /// Bytes that each node reads in a second at most, for example 8MiB [default: 32MiB]
    #[arg(long, value_name = "BYTES/s", value_parser = parse_rate)]
    rate: Option<u64>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Verify {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        block_on(async {
            let client = self.connection.client().await?;
            let view = client.view();
            let nodes = match self.node {
                Some(node) => vec![known(&view, node)?],
                None => nodes(&view).iter().map(|info| info.id).collect(),
            };
            let mut stop = Stop::listen()?;
            let limit = client.options().timeout.min(ANSWER_WITHIN);
            let orders = ask_each(&nodes, |node| {
                let verify = client.verify(node).timeout(limit);
                match self.rate {
                    Some(rate) => verify.rate(rate),
                    None => verify,
                }
            });
            let mut orders = orders.await;
            if let Some(at) = orders.iter().position(is_refusal) {
                let Row { node, answer } = orders.swap_remove(at);
                let what = format!("verify at {node}");
                return Err(answer.err().map_or(CliError::Refused(what.clone()), CliError::of(what)));
            }
            let joined: Vec<String> = orders
                .iter()
                .filter_map(Row::answered)
                .filter(|(_, reply)| !reply.started)
                .map(|(node, _)| node.to_string())
                .collect();
            if !joined.is_empty() {
                output::note(format_args!(
                    "a verification was under way already at {}: it is watched",
                    joined.join(", ")
                ));
            }
            let mut watch = Watch::new(orders);
            let interrupted = tokio::select! {
                signal = stop.recv() => Some(signal),
                () = watch.follow(&client) => None,
            };
            if interrupted.is_some() {
                watch.stop(&client, limit).await;
            }
            if self.json {
                output::json(&watch.as_json())?;
            } else {
                output::line(watch.as_table())?;
            }
            match interrupted {
                Some("Ctrl-C") => {
                    output::note("stopped on the nodes, too");
                    Ok(Exit::Interrupted)
                }
                Some(signal) => Err(CliError::Refused(format!("stopped by {signal}, on the nodes, too"))),
                None => watch.problem().map_or(Ok(Exit::Ok), Err),
            }
        })
    }
}

fn is_refusal(row: &Row<VerifyReply>) -> bool {
    matches!(&row.answer, Err(Error::NotDone { code: FailureCode::Forbidden | FailureCode::UnknownKind, .. }))
}

/// Reads `8MiB`, `500kB`, `1000000`, each with or without `/s`.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    let amount = text.strip_suffix("/s").unwrap_or(text);
    let digits = amount.len() - amount.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = amount.split_at(digits);
    let unit: Option<u64> = match unit {
        "" | "B" => Some(1),
        "kB" => Some(1000),
        "KiB" => Some(1 << 10),
        "MB" => Some(1_000_000),
        "MiB" => Some(1 << 20),
        "GB" => Some(1_000_000_000),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    match bytes {
        Some(bytes @ 1024..) => Ok(bytes),
        _ => Err("write bytes in a second, 1KiB at least, for example 500kB, 8MiB or 1GiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, bytes) in [
            ("1024", 1024),
            ("4KiB", 4096),
            ("500kB", 500_000),
            ("8MiB", 8 << 20),
            ("8MiB/s", 8 << 20),
            ("1GB/s", 1_000_000_000),
            ("2000B", 2000),
        ] {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
        for text in ["", "/s", "0", "1023", "8 MiB", "8mib", "-1", "1.5MiB", "99999999999GiB", "é"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
