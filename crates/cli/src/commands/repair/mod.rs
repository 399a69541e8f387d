//! `dyn repair`

mod start;
mod status;
mod stop;

use std::time::Duration;

use clap::{Args, Subcommand};
use dynkv_client::proto::{FailureCode, RepairRun, RunState};
use dynkv_client::ring::NodeId;
use dynkv_client::{Client, ClusterView, Error};
use serde_json::{Value, json};

use crate::commands::status::nodes;
use crate::connection::{block_on, known};
use crate::each::{Row, ask_each, run_state, silence};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// A node that is up answers sooner; waiting longer for one that is down helps nobody.
const ANSWER_WITHIN: Duration = Duration::from_millis(2500);

/// Have nodes compare themselves and mend what differs, now
///
/// Nodes do so all the time by themselves, each pair every five seconds, whether this command is used or not. It is for those who
/// do not want to wait, or want to see how it goes: after a disk was lost, for example.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    #[command(subcommand)]
    command: RepairCommand,
}

#[derive(Debug, Subcommand)]
enum RepairCommand {
    Start(start::Start),
    Status(status::Status),
    Stop(stop::Stop),
}

impl Repair {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        match self.command {
            RepairCommand::Start(start) => block_on(start.run()),
            RepairCommand::Status(status) => block_on(status.run()),
            RepairCommand::Stop(stop) => block_on(stop.run()),
        }
    }
}

/// `node`, or all nodes.
pub(super) fn asked(view: &ClusterView, node: Option<NodeId>) -> Result<Vec<NodeId>, CliError> {
    match node {
        Some(node) => Ok(vec![known(view, node)?]),
        None => Ok(nodes(view).iter().map(|info| info.id).collect()),
    }
}

/// Asks nodes how their repairs stand.
async fn ask_status(client: &Client, nodes: &[NodeId]) -> Vec<Row<Option<RepairRun>>> {
    let limit = client.options().timeout.min(ANSWER_WITHIN);
    let rows = ask_each(nodes, |node| client.repair_status(node).timeout(limit)).await;
    let run = |row: Row<dynkv_client::proto::RepairStatusReply>| Row {
        node: row.node,
        answer: row.answer.map(|reply| reply.run),
    };
    rows.into_iter().map(run).collect()
}

/// The refusal, if a node has refused an order: it concerns all.
pub(super) fn refusal<T>(what: &str, rows: Vec<Row<T>>) -> Result<Vec<Row<T>>, CliError> {
    let refuses = |row: &Row<T>| {
        let refused = [FailureCode::Forbidden, FailureCode::UnknownKind, FailureCode::Invalid];
        matches!(&row.answer, Err(Error::NotDone { code, .. }) if refused.contains(code))
    };
    let mut rows = rows;
    match rows.iter().position(refuses) {
        None => Ok(rows),
        Some(at) => {
            let row = rows.swap_remove(at);
            let what = format!("{what} at {}", row.node);
            row.answer.map_or_else(|source| Err(CliError::Request { what, source }), |_| Ok(Vec::new()))
        }
    }
}

/// Bytes moved in a second.
fn rate(run: &RepairRun) -> u64 {
    u64::try_from(u128::from(run.bytes) * 1000 / u128::from(run.took_ms.max(1))).unwrap_or(u64::MAX)
}

/// The time that is left, if it goes on as it did.
fn eta_ms(run: &RepairRun) -> Option<u64> {
    let left = run.comparisons.saturating_sub(run.compared);
    let known = run.state == RunState::Running && run.compared > 0;
    let eta = u128::from(run.took_ms) * u128::from(left) / u128::from(run.compared.max(1));
    known.then(|| u64::try_from(eta).unwrap_or(u64::MAX))
}

fn as_table(rows: &[Row<Option<RepairRun>>]) -> String {
    let rows = rows.iter().map(|Row { node, answer }| {
        let dash = || "-".to_owned();
        let plain = |state: &str, note: String| {
            let mut row = [(); 11].map(|()| dash());
            (row[0], row[1], row[10]) = (node.to_string(), state.into(), note);
            row
        };
        match answer {
            Err(error) => plain("no answer", silence(error)),
            Ok(None) => plain("none", "none was ordered since its start".into()),
            Ok(Some(run)) => [
                node.to_string(),
                run_state(run.state, run.errors).into(),
                run.partition.map_or_else(|| "all".into(), |partition| partition.to_string()),
                format!("{}/{}", run.compared, run.comparisons),
                run.differences.to_string(),
                run.pulled.to_string(),
                run.pushed.to_string(),
                format!("{} ({}/s)", output::bytes(run.bytes), output::bytes(rate(run))),
                output::duration(run.took_ms),
                eta_ms(run).map_or_else(dash, output::duration),
                note(run),
            ],
        }
    });
    let header = [
        "node",
        "state",
        "partition",
        "compared",
        "differing",
        "pulled",
        "pushed",
        "moved",
        "took",
        "left",
        "note",
    ];
    output::table(header, &[3, 4, 5, 6, 7, 8, 9], rows.collect())
}

fn note(run: &RepairRun) -> String {
    match (run.errors, run.last_errors.last()) {
        (0, _) => String::new(),
        (1, Some(last)) => last.clone(),
        (errors, Some(last)) => format!("{last} (the latest of {errors} errors)"),
        (errors, None) => output::count(errors, "error"),
    }
}

fn run_json(run: &RepairRun) -> Value {
    json!({
        "number": run.number,
        "partition": run.partition,
        "state": match run.state {
            RunState::Running => "running",
            RunState::Done => "done",
            RunState::Stopped => "stopped",
            RunState::Failed => "failed",
        },
        "age_ms": run.age_ms,
        "took_ms": run.took_ms,
        "compared": run.compared,
        "comparisons": run.comparisons,
        "differences": run.differences,
        "pulled": run.pulled,
        "pushed": run.pushed,
        "bytes": run.bytes,
        "bytes_per_s": rate(run),
        "eta_ms": eta_ms(run),
        "errors": run.errors,
        "last_errors": run.last_errors,
    })
}

fn as_json(rows: &[Row<Option<RepairRun>>]) -> Value {
    let nodes = rows.iter().map(|Row { node, answer }| match answer {
        Ok(run) => json!({"node": node.to_string(), "answers": true, "run": run.as_ref().map(run_json)}),
        Err(error) => json!({"node": node.to_string(), "answers": false, "error": error.to_string()}),
    });
    json!({ "nodes": nodes.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn run(state: RunState, compared: u64) -> RepairRun {
        RepairRun {
            number: 1,
            partition: None,
            state,
            age_ms: 9000,
            took_ms: 4000,
            compared,
            comparisons: 32,
            differences: 5,
            pulled: 3,
            pushed: 2,
            bytes: 8192,
            errors: 0,
            last_errors: vec![],
        }
    }

    pub(super) fn row(node: &str, run: Option<RepairRun>) -> Row<Option<RepairRun>> {
        Row { node: node.parse().unwrap(), answer: Ok(run) }
    }

    pub(super) fn silent_row<T>(node: &str) -> Row<T> {
        Row { node: node.parse().unwrap(), answer: Err(Error::Connect { message: "long".into() }) }
    }

    #[test]
    fn the_table_shows_how_each_repair_stands() {
        let mut part = run(RunState::Done, 16);
        (part.errors, part.last_errors) = (2, vec!["a".into(), "n3 is out of reach".into()]);
        let rows = [
            row("n1", Some(run(RunState::Running, 8))),
            row("n2", Some(part)),
            row("n3", None),
            silent_row("n4"),
        ];
        let table = as_table(&rows);
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = table.lines().map(words).collect();
        assert_eq!(lines[1], "n1 running all 8/32 5 3 2 8.0 KiB (2.0 KiB/s) 4s 12s");
        assert!(lines[2].starts_with("n2 done in part all 16/32"), "{table}");
        assert!(lines[2].ends_with("- n3 is out of reach (the latest of 2 errors)"), "{table}");
        assert!(lines[3].starts_with("n3 none -") && lines[4].contains("no answer"), "{table}");
        let json = as_json(&rows);
        assert_eq!(
            (&json["nodes"][0]["run"]["eta_ms"], &json["nodes"][2]["run"]),
            (&12_000.into(), &Value::Null)
        );
        assert_eq!(json["nodes"][3]["answers"], false);
    }

    #[test]
    fn no_time_is_foretold_before_anything_is_done_or_after_the_end() {
        assert_eq!(eta_ms(&run(RunState::Running, 0)), None);
        assert_eq!(eta_ms(&run(RunState::Done, 32)), None);
        assert_eq!(eta_ms(&run(RunState::Running, 16)), Some(4000));
    }
}
