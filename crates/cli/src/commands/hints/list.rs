//! `dyn hints list`

use clap::Args;
use dynkv_client::Client;
use serde_json::{Value, json};

use super::{ANSWER_WITHIN, Row, ask_all, holders, names, owed, silence, silent, totals_json};
use crate::connection::Connection;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// A store of hints this full deserves a warning.
const FULL_PERCENT: u64 = 80;

/// List how many hints each node keeps for which others
///
/// A node that does not answer is listed as such; what it keeps is not known.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl List {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let holders = holders(&client.view(), None, None)?;
        let rows = ask_all(&client, &holders, ANSWER_WITHIN).await;
        if self.json {
            output::json(&as_json(&client, &rows))?;
        } else {
            if let Some(table) = as_table(&rows) {
                output::line(table)?;
            }
            output::line(summary(&rows))?;
            for warning in warnings(&rows) {
                output::note(warning);
            }
        }
        Ok(Exit::Ok)
    }
}

/// A line for each holder and target; nothing when there is nothing to tell.
fn as_table(rows: &[Row]) -> Option<String> {
    let mut lines = Vec::new();
    for Row { node, answer } in rows {
        let holder = node.to_string();
        match answer {
            Ok(reply) => lines.extend(reply.totals.iter().map(|totals| {
                [
                    holder.clone(),
                    totals.target.to_string(),
                    totals.hints.to_string(),
                    output::bytes(totals.bytes),
                    output::duration(totals.oldest_ms),
                    if totals.reachable { "in reach" } else { "out of reach" }.into(),
                    totals.last_error.clone(),
                ]
            })),
            Err(error) => {
                let none = String::new;
                lines.push([holder, "no answer".into(), none(), none(), none(), none(), silence(error)]);
            }
        }
    }
    let header = ["holder", "target", "hints", "bytes", "oldest", "target is", "note"];
    (!lines.is_empty()).then(|| output::table(header, &[2, 3, 4], lines))
}

/// The sum of it all.
fn summary(rows: &[Row]) -> String {
    let (hints, bytes) = sum(rows);
    let silent = silent(rows);
    let all = silent.is_empty();
    let text = match hints {
        0 if all => "no hints: nothing waits to be handed to its home".to_owned(),
        0 => "no hints at the nodes that answer".to_owned(),
        _ => {
            let who = if all { "the cluster owes" } else { "the nodes that answer owe" };
            format!("{who} {} ({})", output::count(hints, "hint"), output::bytes(bytes))
        }
    };
    if all { text } else { format!("{text}; what {} may keep is not known", names(&silent)) }
}

fn sum(rows: &[Row]) -> (u64, u64) {
    let owed = owed(rows, None);
    let sum = |of: fn(&super::Owed<'_>) -> u64| owed.iter().map(of).fold(0, u64::saturating_add);
    (sum(|owed| owed.totals.hints), sum(|owed| owed.totals.bytes))
}

/// Stores that are or were too small.
fn warnings(rows: &[Row]) -> Vec<String> {
    let mut warnings = Vec::new();
    for Row { node, answer } in rows {
        let Ok(reply) = answer else { continue };
        let kept: u64 = reply.totals.iter().map(|totals| totals.bytes).fold(0, u64::saturating_add);
        let full = u128::from(kept) * 100 > u128::from(reply.limit_bytes) * u128::from(FULL_PERCENT);
        if full {
            warnings.push(format!(
                "{node}: its hints take {} of the {} they may: beyond that it takes no more; bring the targets back, or raise hint_bytes_max",
                output::bytes(kept),
                output::bytes(reply.limit_bytes),
            ));
        }
        if reply.refused_full > 0 {
            warnings.push(format!(
                "{node}: refused {} since its start because the store was full; other nodes were asked to keep them",
                output::count(reply.refused_full, "hint"),
            ));
        }
    }
    warnings
}

fn as_json(client: &Client, rows: &[Row]) -> Value {
    let nodes: Value = rows.iter().map(node_json).collect();
    let (hints, bytes) = sum(rows);
    json!({
        "cluster": client.cluster(),
        "hints": hints,
        "bytes": bytes,
        "complete": silent(rows).is_empty(),
        "nodes": nodes,
    })
}

fn node_json(row: &Row) -> Value {
    match &row.answer {
        Ok(reply) => json!({
            "node": row.node.to_string(),
            "answers": true,
            "limit_bytes": reply.limit_bytes,
            "refused_full": reply.refused_full,
            "targets": reply.totals.iter().map(totals_json).collect::<Vec<_>>(),
        }),
        Err(error) => {
            json!({"node": row.node.to_string(), "answers": false, "error": error.to_string()})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{row, silent_row, totals};
    use super::*;

    #[test]
    fn every_holder_and_every_silent_node_has_a_line() {
        let rows = [
            row("n1", vec![totals("n2", 3, false, "timed out\nagain"), totals("n3", 65, true, "")]),
            silent_row("n2"),
            row("n3", vec![]),
        ];
        let table = as_table(&rows).unwrap();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["HOLDER", "TARGET", "HINTS", "BYTES", "OLDEST", "TARGET", "IS", "NOTE"]);
        assert_eq!(
            lines[1],
            ["n1", "n2", "3", "3.0", "KiB", "3s", "out", "of", "reach", "timed", "out", "again"]
        );
        assert_eq!(lines[2], ["n1", "n3", "65", "65.0", "KiB", "1m", "5s", "in", "reach"]);
        assert_eq!(lines[3][..5], ["n2", "no", "answer", "is", "down,"]);
        assert_eq!(lines.len(), 4, "{table}");
        assert_eq!(
            summary(&rows),
            "the nodes that answer owe 68 hints (68.0 KiB); what n2 may keep is not known"
        );
        let json = rows.iter().map(node_json).collect::<Value>();
        assert_eq!(json[0]["targets"][0]["reachable"], false);
        assert_eq!((&json[1]["answers"], &json[2]["targets"]), (&false.into(), &json!([])));
    }

    #[test]
    fn nothing_owed_is_one_line() {
        let rows = [row("n1", vec![]), row("n2", vec![])];
        assert_eq!(as_table(&rows), None);
        assert_eq!(summary(&rows), "no hints: nothing waits to be handed to its home");
        assert!(warnings(&rows).is_empty());
        let unknown = summary(&[row("n1", vec![]), silent_row("n2")]);
        assert_eq!(unknown, "no hints at the nodes that answer; what n2 may keep is not known");
        let one = [row("n1", vec![totals("n2", 1, true, "")])];
        assert_eq!(summary(&one), "the cluster owes 1 hint (1.0 KiB)");
    }

    #[test]
    fn stores_that_are_too_small_are_named() {
        // 1 MiB is the limit: at 80 % there is no warning yet.
        let (mut full, quiet) =
            (row("n1", vec![totals("n2", 820, true, "")]), row("n2", vec![totals("n1", 819, true, "")]));
        if let Ok(reply) = &mut full.answer {
            reply.refused_full = 7;
        }
        let warnings = warnings(&[full, quiet, silent_row("n3")]);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("n1: its hints take 820.0 KiB of the 1.0 MiB"), "{warnings:?}");
        assert!(warnings[1].contains("n1: refused 7 hints"), "{warnings:?}");
    }
}
