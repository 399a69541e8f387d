//! Following verifications, and what comes of them.

use std::io::{self, IsTerminal};
use std::time::Duration;

use dynkv_client::proto::{KeyName, RunState, VerifyPhase, VerifyReply, VerifyRun};
use dynkv_client::ring::NodeId;
use dynkv_client::{Client, Error};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::ANSWER_WITHIN;
use crate::address::show_key;
use crate::each::{Row, ask_each, run_state, silence, silent};
use crate::error::CliError;
use crate::json::add_key;
use crate::output;

/// How often nodes are asked how it goes.
const PERIOD: Duration = Duration::from_millis(200);

/// How often a line says how it goes where there is no terminal for a bar.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// Answers in a row that a node may owe before it is waited for no more.
const SILENT_MAX: u32 = 10;

/// Damaged records that are named to people, for each node.
const KEYS_NAMED: usize = 20;

/// How it goes.
pub(super) struct Watch {
    /// The latest answer of each node; `None`: the node was restarted.
    rows: Vec<Row<Option<VerifyRun>>>,
    /// The numbers of the runs that are watched.
    numbers: Vec<(NodeId, u64)>,
}

impl Watch {
    pub(super) fn new(orders: Vec<Row<VerifyReply>>) -> Watch {
        let numbers = orders.iter().filter_map(Row::answered).map(|(node, reply)| (node, reply.run.number));
        let numbers = numbers.collect();
        let rows = orders
            .into_iter()
            .map(|row| Row { node: row.node, answer: row.answer.map(|reply| Some(reply.run)) });
        Watch { rows: rows.collect(), numbers }
    }

    fn runs(&self) -> impl Iterator<Item = (NodeId, &VerifyRun)> {
        self.rows.iter().filter_map(Row::answered).filter_map(|(node, run)| Some((node, run.as_ref()?)))
    }

    /// Asks until no run is under way any more, with a bar, or a line now and then.
    pub(super) async fn follow(&mut self, client: &Client) {
        let bar = bar();
        let limit = client.options().timeout.min(ANSWER_WITHIN);
        let asked: Vec<NodeId> = self.numbers.iter().map(|(node, _)| *node).collect();
        let (mut owed, mut line_at) = (0, Instant::now() + LINE_PERIOD);
        loop {
            bar.set_length(self.runs().map(|(_, run)| run.steps_all).sum());
            bar.set_position(self.runs().map(|(_, run)| run.steps).sum());
            bar.set_message(self.message());
            if Instant::now() >= line_at && !io::stderr().is_terminal() {
                output::note(self.message());
                line_at += LINE_PERIOD;
            }
            let running = self.runs().any(|(_, run)| run.state == RunState::Running);
            let silent = silent(&self.rows).iter().any(|(node, _)| asked.contains(node));
            owed = if silent { owed + 1 } else { 0 };
            if !running && (owed == 0 || owed >= SILENT_MAX) {
                bar.finish_and_clear();
                return;
            }
            sleep(PERIOD).await;
            let rows = ask_each(&asked, |node| client.verify_status(node).timeout(limit)).await;
            for row in rows {
                self.update(row.node, row.answer.map(|reply| reply.run));
            }
        }
    }

    fn update(&mut self, node: NodeId, answer: Result<Option<VerifyRun>, Error>) {
        let number = self.numbers.iter().find(|(known, _)| *known == node).map(|(_, number)| *number);
        // Of another process, or one that somebody has begun after this one.
        let answer = answer.map(|run| run.filter(|run| Some(run.number) == number));
        if let Some(row) = self.rows.iter_mut().find(|row| row.node == node) {
            row.answer = answer;
        }
    }

    /// Stops the runs.
    pub(super) async fn stop(&mut self, client: &Client, limit: Duration) {
        let asked: Vec<NodeId> = self.numbers.iter().map(|(node, _)| *node).collect();
        for row in ask_each(&asked, |node| client.stop_verify(node).timeout(limit)).await {
            self.update(row.node, row.answer.map(|reply| reply.run));
        }
    }

    fn message(&self) -> String {
        let sum =
            |of: fn(&VerifyRun) -> u64| self.runs().map(|(_, run)| of(run)).fold(0, u64::saturating_add);
        let healing = self.runs().all(|(_, run)| run.phase == VerifyPhase::Healing);
        let mut text = format!(
            "{}, {}",
            output::count(sum(|run| run.records), "record"),
            output::bytes(sum(|run| run.bytes))
        );
        match sum(|run| run.damaged) {
            0 => {}
            damaged => text += &format!(", {damaged} damaged"),
        }
        if healing { text + ", healing" } else { text }
    }

    pub(super) fn as_table(&self) -> String {
        let rows = self.rows.iter().map(|Row { node, answer }| {
            let plain = |state: &str, note: String| {
                let mut row = [(); 11].map(|()| "-".to_owned());
                (row[0], row[1], row[10]) = (node.to_string(), state.into(), note);
                row
            };
            match answer {
                Err(error) => plain("no answer", silence(error)),
                Ok(None) => {
                    plain("lost", "the node was restarted meanwhile, or begun anew by another".into())
                }
                Ok(Some(run)) => [
                    node.to_string(),
                    run_state(run.state, run.errors).into(),
                    run.records.to_string(),
                    run.hints.to_string(),
                    output::bytes(run.bytes),
                    output::duration(run.took_ms),
                    run.damaged.to_string(),
                    run.healed.to_string(),
                    run.hints_damaged.to_string(),
                    run.drifts.to_string(),
                    run.last_errors.last().cloned().unwrap_or_default(),
                ],
            }
        });
        let header = [
            "node",
            "state",
            "records",
            "hints",
            "bytes",
            "took",
            "damaged",
            "healed",
            "bad hints",
            "index drifts",
            "note",
        ];
        output::table(header, &[2, 3, 4, 5, 6, 7, 8, 9], rows.collect())
    }

    /// What there is to say short of success.
    pub(super) fn problem(&self) -> Option<CliError> {
        let mut damaged = Vec::new();
        let mut unknown = Vec::new();
        for (node, run) in self.runs() {
            let unhealed = run.damaged.saturating_sub(run.healed);
            if unhealed > 0 {
                let mut names: Vec<String> = run.unhealed.iter().take(KEYS_NAMED).map(name).collect();
                if unhealed > names.len() as u64 {
                    names.push("...".into());
                }
                let records = output::count(unhealed, "damaged record");
                damaged.push(format!("{node} has {records} not healed ({})", names.join(", ")));
            }
            if run.hints_damaged > 0 {
                damaged.push(format!("{node} has {}", output::count(run.hints_damaged, "damaged hint")));
            }
            if run.state != RunState::Done {
                unknown.push(format!("the verification at {node} {}", ended(run)));
            } else if run.errors > 0 {
                let last = run.last_errors.last().cloned().unwrap_or_default();
                unknown.push(format!("{node} could not read everything ({last})"));
            }
        }
        for (node, _) in silent(&self.rows) {
            unknown.push(format!("{node} does not answer"));
        }
        let lost = self.rows.iter().filter(|row| matches!(row.answer, Ok(None)));
        unknown.extend(lost.map(|row| format!("the verification at {} was lost, repeat it", row.node)));
        if !damaged.is_empty() {
            damaged.append(&mut unknown);
            return Some(CliError::Refused(format!(
                "{}: a record is healed once every other home of it answers and one has it whole, see `dyn status`; then repeat",
                damaged.join("; ")
            )));
        }
        (!unknown.is_empty())
            .then(|| CliError::Unknown(format!("not everything was verified: {}", unknown.join("; "))))
    }

    pub(super) fn as_json(&self) -> Value {
        let nodes = self.rows.iter().map(|Row { node, answer }| match answer {
            Ok(run) => {
                json!({"node": node.to_string(), "answers": true, "run": run.as_ref().map(run_json)})
            }
            Err(error) => {
                json!({"node": node.to_string(), "answers": false, "error": error.to_string()})
            }
        });
        let sum =
            |of: fn(&VerifyRun) -> u64| self.runs().map(|(_, run)| of(run)).fold(0, u64::saturating_add);
        json!({
            "records": sum(|run| run.records),
            "hints": sum(|run| run.hints),
            "bytes": sum(|run| run.bytes),
            "damaged": sum(|run| run.damaged),
            "healed": sum(|run| run.healed),
            "hints_damaged": sum(|run| run.hints_damaged),
            "drifts": sum(|run| run.drifts),
            "complete": self.rows.len() == self.runs().filter(|(_, run)| is_complete(run)).count(),
            "nodes": nodes.collect::<Vec<_>>(),
        })
    }
}

fn is_complete(run: &VerifyRun) -> bool {
    run.state == RunState::Done && run.errors == 0
}

fn ended(run: &VerifyRun) -> String {
    match run.state {
        RunState::Running => "goes on".into(),
        RunState::Stopped | RunState::Done => "was stopped".into(),
        RunState::Failed => {
            let last = run.last_errors.last().cloned().unwrap_or_default();
            format!("was given up after {} ({last})", output::count(run.errors, "error"))
        }
    }
}

fn name(key: &KeyName) -> String {
    format!("{}/{}", key.bucket, show_key(&key.key))
}

fn run_json(run: &VerifyRun) -> Value {
    let unhealed = run.unhealed.iter().map(|key| {
        let mut object = Map::new();
        object.insert("bucket".into(), key.bucket.as_str().into());
        add_key(&mut object, &key.key);
        Value::Object(object)
    });
    json!({
        "number": run.number,
        "state": match run.state {
            RunState::Running => "running",
            RunState::Done => "done",
            RunState::Stopped => "stopped",
            RunState::Failed => "failed",
        },
        "rate_bytes": run.rate_bytes,
        "took_ms": run.took_ms,
        "records": run.records,
        "hints": run.hints,
        "bytes": run.bytes,
        "damaged": run.damaged,
        "healed": run.healed,
        "unhealed": unhealed.collect::<Vec<_>>(),
        "hints_damaged": run.hints_damaged,
        "drifts": run.drifts,
        "errors": run.errors,
        "last_errors": run.last_errors,
    })
}

/// Progress on stderr; nothing where that is no terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    // The template is one of ours; with the default style nothing but its looks would be lost.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent} % {msg}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn run(state: RunState, damaged: u64, healed: u64) -> VerifyRun {
        VerifyRun {
            number: 3,
            state,
            phase: VerifyPhase::Healing,
            rate_bytes: 1 << 20,
            age_ms: 9000,
            took_ms: 4000,
            steps: 200,
            steps_all: 200,
            records: 100,
            hints: 2,
            bytes: 2048,
            damaged,
            healed,
            hints_damaged: 0,
            drifts: 1,
            errors: 0,
            last_errors: vec![],
            unhealed: (healed..damaged)
                .map(|number| KeyName {
                    bucket: "carts".into(),
                    key: bytes::Bytes::from(number.to_string()).into(),
                })
                .collect(),
        }
    }

    fn watch(runs: Vec<(&str, Option<VerifyRun>)>) -> Watch {
        let numbers = runs.iter().map(|(node, _)| (node.parse().unwrap(), 3)).collect();
        let rows = runs.into_iter().map(|(node, run)| Row { node: node.parse().unwrap(), answer: Ok(run) });
        Watch { rows: rows.collect(), numbers }
    }

    #[test]
    fn only_what_is_damaged_and_not_healed_is_a_failure() {
        assert!(watch(vec![("n1", Some(run(RunState::Done, 2, 2)))]).problem().is_none());
        let error = watch(vec![("n1", Some(run(RunState::Done, 3, 1))), ("n2", None)]).problem().unwrap();
        assert_eq!(error.exit(), Exit::Refused);
        let text = error.to_string();
        for expected in ["n1 has 2 damaged records not healed (carts/1, carts/2)", "n2 was lost"] {
            assert!(text.contains(expected), "{text}");
        }
        let mut hint = run(RunState::Done, 0, 0);
        hint.hints_damaged = 1;
        let error = watch(vec![("n1", Some(hint))]).problem().unwrap();
        assert!(error.exit() == Exit::Refused && error.to_string().contains("1 damaged hint"), "{error}");
    }

    #[test]
    fn what_was_not_verified_is_not_known_to_be_whole() {
        let mut failed = run(RunState::Failed, 0, 0);
        (failed.errors, failed.last_errors) = (1000, vec!["the disk is gone".into()]);
        let mut part = run(RunState::Done, 0, 0);
        (part.errors, part.last_errors) = (1, vec!["a block".into()]);
        let mut watch =
            watch(vec![("n1", Some(failed)), ("n2", Some(part)), ("n3", Some(run(RunState::Done, 0, 0)))]);
        watch.update("n3".parse().unwrap(), Err(Error::Connect { message: "long".into() }));
        let error = watch.problem().unwrap();
        assert_eq!(error.exit(), Exit::Unknown);
        let text = error.to_string();
        for expected in
            ["after 1000 errors (the disk is gone)", "n2 could not read everything (a block)", "n3 does not"]
        {
            assert!(text.contains(expected), "{text}");
        }
        let json = watch.as_json();
        assert_eq!((&json["records"], &json["complete"]), (&200.into(), &false.into()));
        assert_eq!(json["nodes"][2]["answers"], false);
        let table = watch.as_table();
        assert!(
            table.contains("failed") && table.contains("done in part") && table.contains("no answer"),
            "{table}"
        );
    }

    #[test]
    fn a_run_of_a_later_process_is_not_taken_for_the_one_that_was_begun() {
        let mut watch = watch(vec![("n1", Some(run(RunState::Running, 0, 0)))]);
        let other = VerifyRun { number: 1, ..run(RunState::Done, 0, 0) };
        watch.update("n1".parse().unwrap(), Ok(Some(other)));
        assert!(watch.runs().next().is_none());
        assert!(watch.problem().unwrap().to_string().contains("was lost"));
    }

    #[test]
    fn the_table_and_the_line_say_what_was_read() {
        let watch = watch(vec![("n1", Some(run(RunState::Done, 2, 2)))]);
        let table = watch.as_table();
        let words: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["n1", "done", "100", "2", "2.0", "KiB", "4s", "2", "2", "0", "1"]);
        assert_eq!(watch.message(), "100 records, 2.0 KiB, 2 damaged, healing");
    }
}
