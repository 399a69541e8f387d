//! `dyn transfers limit`

use clap::Args;
use dynkv_client::ring::NodeId;
use serde_json::{Value, json};

use super::{ANSWER_WITHIN, ask};
use crate::commands::repair::{asked, refusal};
use crate::commands::verify::parse_rate;
use crate::connection::Connection;
use crate::each::{Row, ask_each, names, silence, silent};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Limit what nodes receive when data moves, in bytes per second and node, or show the limits
///
/// It is in force at once, and in memory only: a node that is restarted has none. Without a limit nodes give way to their clients' requests, which is most often
/// enough. What is read last of a partition, while its requests wait, is never held up. Setting one takes an administrator's certificate.
#[derive(Debug, Args)]
pub(crate) struct Limit {
    /// For example 8MiB; `none` for no limit [default: show the limits]
    #[arg(value_name = "RATE", value_parser = parse_limit)]
    limit: Option<To>,
    /// Only this node's [default: all nodes']
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// A limit to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct To(Option<u64>);

fn parse_limit(text: &str) -> Result<To, String> {
    match text {
        "none" => Ok(To(None)),
        text => parse_rate(text).map(|bytes| To(Some(bytes))).map_err(|error| format!("{error}, or none")),
    }
}

impl Limit {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let nodes = asked(&client.view(), self.node)?;
        let rows = match self.limit {
            Some(To(limit)) => {
                let within = client.options().timeout.min(ANSWER_WITHIN);
                let set = ask_each(&nodes, |node| client.limit_transfers(node, limit).timeout(within)).await;
                let set = refusal("transfers limit", set)?;
                set.into_iter().map(|row| Row { node: row.node, answer: row.answer.map(|_| limit) }).collect()
            }
            None => {
                let told = ask(&client, &nodes).await.into_iter();
                told.map(|row| Row { node: row.node, answer: row.answer.map(|reply| reply.limit_bytes) })
                    .collect::<Vec<_>>()
            }
        };
        if self.json {
            output::json(&as_json(&rows))?;
        } else {
            output::line(as_table(&rows))?;
        }
        let missing = names(&silent(&rows));
        match self.limit {
            Some(_) if !missing.is_empty() => Err(CliError::Unknown(format!(
                "no answer from {missing}, where the limit may be as it was: see `dyn status`, then repeat"
            ))),
            _ => Ok(Exit::Ok),
        }
    }
}

/// A limit in words.
pub(super) fn text(limit: Option<u64>) -> String {
    limit.map_or_else(|| "none".into(), |bytes| format!("{}/s", output::bytes(bytes)))
}

fn as_table(rows: &[Row<Option<u64>>]) -> String {
    let rows = rows.iter().map(|row| match &row.answer {
        Ok(limit) => {
            let note = if limit.is_some() { "until it is restarted" } else { "" };
            [row.node.to_string(), text(*limit), note.into()]
        }
        Err(error) => [row.node.to_string(), "no answer".into(), silence(error)],
    });
    output::table(["node", "limit", "note"], &[1], rows.collect())
}

fn as_json(rows: &[Row<Option<u64>>]) -> Value {
    let nodes = rows.iter().map(|Row { node, answer }| match answer {
        Ok(limit) => json!({"node": node.to_string(), "answers": true, "limit_bytes": limit}),
        Err(error) => json!({"node": node.to_string(), "answers": false, "error": error.to_string()}),
    });
    json!({ "nodes": nodes.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(parse_limit("none"), Ok(To(None)));
        assert_eq!(parse_limit("8MiB/s"), Ok(To(Some(8 << 20))));
        for text in ["", "0", "100", "None", "all"] {
            assert!(parse_limit(text).unwrap_err().ends_with("or none"), "{text}");
        }
        let row = |node: &str, limit| Row { node: node.parse().unwrap(), answer: Ok(limit) };
        let table = as_table(&[row("n1", None), row("n2", Some(8 << 20))]);
        assert!(table.contains("8.0 MiB/s  until it is restarted") && table.contains("none"), "{table}");
    }
}
