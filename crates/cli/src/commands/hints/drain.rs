//! `dyn hints drain`

use std::time::Duration;

use clap::Args;
use dynkv_client::proto::FailureCode;
use dynkv_client::ring::NodeId;
use dynkv_client::{Client, Error};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{ANSWER_WITHIN, Row, ask_all, holders, names, owed, silence, silent, silent_json};
use crate::connection::Connection;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// How long it may take in all, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often the holders are asked how it goes.
const PERIOD: Duration = Duration::from_millis(200);

/// With all targets out of reach and nothing moving for so long, waiting is in vain. An attempt to connect takes two
/// seconds, is repeated after one, and delivery looks once a second.
const IN_VAIN_AFTER: Duration = Duration::from_secs(5);

/// Have hints delivered now, and watch until they are
///
/// Nodes deliver by themselves once a target is back; this makes them try at once, and says what stands in the way. It gives up
/// early when no target can be reached. Takes an administrator's certificate. Exit code 0 only if nothing is left, 5 if some node
/// did not answer, so that hints may be left there.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The node whose hints to deliver [default: all nodes']
    #[arg(value_name = "TARGET")]
    target: Option<NodeId>,
    /// Only those that this node keeps [default: all nodes]
    #[arg(long, value_name = "NODE")]
    holder: Option<NodeId>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Why the watching ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Those that answer keep nothing any more.
    Empty,
    /// No target can be reached.
    InVain,
    /// The time is up.
    Late,
}

impl Drain {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let holders = holders(&client.view(), self.holder, self.target)?;
        let started = Instant::now();
        let mut watch = Watch::new(self.target, ask_all(&client, &holders, ANSWER_WITHIN).await, started);
        let busy: Vec<NodeId> = owed(&watch.rows, self.target).iter().map(|owed| owed.holder).collect();
        order(&client, &busy, self.target).await?;
        let bar = bar(watch.before);
        let timeout = self.connection.timeout().unwrap_or(TIMEOUT);
        let end = loop {
            if let Some(end) = watch.end(Instant::now(), timeout) {
                break end;
            }
            bar.set_position(watch.delivered());
            bar.set_message(watch.out_of_reach());
            sleep(PERIOD).await;
            watch.update(ask_all(&client, &busy, ANSWER_WITHIN).await, Instant::now());
        };
        bar.finish_and_clear();
        let took = started.elapsed();
        if self.json {
            output::json(&watch.as_json(end, took))?;
        }
        watch.problem(end, took).map_or(Ok(()), Err)?;
        if !self.json {
            output::line(watch.success(took))?;
        }
        Ok(Exit::Ok)
    }
}

/// Tells all of `holders` to deliver. That one does not answer is seen in what comes next; a refusal is not.
async fn order(client: &Client, holders: &[NodeId], target: Option<NodeId>) -> Result<(), CliError> {
    let mut orders = JoinSet::new();
    for &holder in holders {
        let mut drain = client.drain_hints(holder).timeout(client.options().timeout.min(ANSWER_WITHIN));
        if let Some(target) = target {
            drain = drain.target(target);
        }
        orders.spawn(async move { (holder, drain.await) });
    }
    for (holder, order) in orders.join_all().await {
        match order {
            Err(source @ Error::NotDone { code: FailureCode::Forbidden | FailureCode::UnknownKind, .. }) => {
                return Err(CliError::Request { what: format!("hints drain at {holder}"), source });
            }
            Err(error) => tracing::debug!(%holder, %error, "not told to deliver"),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// How it goes, without I/O.
struct Watch {
    target: Option<NodeId>,
    /// The latest answer of each holder, and the silence of those that gave none at the beginning.
    rows: Vec<Row>,
    /// Those that gave an answer earlier, and none any more.
    lost: Vec<(NodeId, String)>,
    before: u64,
    left: u64,
    started: Instant,
    moved: Instant,
}

impl Watch {
    fn new(target: Option<NodeId>, rows: Vec<Row>, now: Instant) -> Watch {
        let before = left(&rows, target);
        Watch { target, rows, lost: Vec::new(), before, left: before, started: now, moved: now }
    }

    /// Takes newer answers. One that is silent now is taken to keep what it kept.
    fn update(&mut self, rows: Vec<Row>, now: Instant) {
        self.lost.clear();
        for row in rows {
            match &row.answer {
                Ok(_) => {
                    self.rows.retain(|known| known.node != row.node);
                    self.rows.push(row);
                }
                Err(error) => self.lost.push((row.node, silence(error))),
            }
        }
        self.rows.sort_by_key(|row| row.node);
        let left = left(&self.rows, self.target);
        if left < self.left {
            self.moved = now;
        }
        self.left = left;
    }

    fn end(&self, now: Instant, timeout: Duration) -> Option<End> {
        let waits_for_nobody = || {
            owed(&self.rows, self.target)
                .iter()
                .all(|owed| !owed.totals.reachable || self.lost.iter().any(|(lost, _)| *lost == owed.holder))
        };
        if self.left == 0 {
            Some(End::Empty)
        } else if now.duration_since(self.started) >= timeout {
            Some(End::Late)
        } else if now.duration_since(self.moved) >= IN_VAIN_AFTER && waits_for_nobody() {
            Some(End::InVain)
        } else {
            None
        }
    }

    /// Under load this is less than what went, for new ones come.
    fn delivered(&self) -> u64 {
        self.before.saturating_sub(self.left)
    }

    fn out_of_reach(&self) -> String {
        let owed = owed(&self.rows, self.target);
        let mut targets: Vec<String> = owed
            .iter()
            .filter(|owed| !owed.totals.reachable)
            .map(|owed| owed.totals.target.to_string())
            .collect();
        targets.sort_unstable();
        targets.dedup();
        if targets.is_empty() { String::new() } else { format!("({} out of reach)", targets.join(", ")) }
    }

    fn success(&self, took: Duration) -> String {
        let to = self.target.map(|target| format!(" for {target}")).unwrap_or_default();
        match self.before {
            0 => format!("no hints{to}, there was nothing to deliver"),
            before => format!(
                "delivered {}{to} in {}, none are left",
                output::count(before, "hint"),
                output::duration(took.as_millis() as u64)
            ),
        }
    }

    /// What there is to say short of success.
    fn problem(&self, end: End, took: Duration) -> Option<CliError> {
        let silent = silent(&self.rows);
        if end == End::Empty {
            return (!silent.is_empty()).then(|| {
                let silent = names(&silent);
                CliError::Unknown(format!(
                    "{}; what {silent} may keep is not known, without an answer: see `dyn status`, then repeat",
                    self.success(took),
                ))
            });
        }
        let went = format!(
            "{} delivered, {} left after {}",
            output::count(self.delivered(), "hint"),
            self.left,
            output::duration(took.as_millis() as u64)
        );
        let mut reasons: Vec<String> =
            owed(&self.rows, self.target).iter().map(|owed| self.reason(owed)).collect();
        if !silent.is_empty() {
            reasons.push(format!("what {} may keep is not known", names(&silent)));
        }
        let next = match end {
            End::InVain => "they go by themselves once their targets are back: see `dyn status`",
            _ => "delivery goes on by itself: see `dyn hints list`",
        };
        Some(CliError::Refused(format!("{went}: {}; {next}", reasons.join("; "))))
    }

    /// Why hints are left.
    fn reason(&self, owed: &super::Owed<'_>) -> String {
        let super::Owed { holder, totals } = owed;
        let why = match self.lost.iter().find(|(lost, _)| lost == holder) {
            Some((_, silence)) => format!(", but {silence}"),
            None if !totals.reachable => {
                format!(", which it cannot reach{}", in_brackets(&totals.last_error))
            }
            None => in_brackets(&totals.last_error),
        };
        format!("{holder} keeps {} for {}{why}", totals.hints, totals.target)
    }

    fn as_json(&self, end: End, took: Duration) -> Value {
        let left = owed(&self.rows, self.target).into_iter().map(|owed| {
            json!({
                "holder": owed.holder.to_string(),
                "target": owed.totals.target.to_string(),
                "hints": owed.totals.hints,
                "bytes": owed.totals.bytes,
                "reachable": owed.totals.reachable,
                "last_error": owed.totals.last_error,
            })
        });
        json!({
            "target": self.target.map(|target| target.to_string()),
            "before": self.before,
            "delivered": self.delivered(),
            "left": self.left,
            "in_vain": end == End::InVain,
            "took_ms": took.as_millis() as u64,
            "holders": left.collect::<Vec<_>>(),
            "silent": silent_json(&self.rows),
        })
    }
}

fn left(rows: &[Row], target: Option<NodeId>) -> u64 {
    owed(rows, target).iter().map(|owed| owed.totals.hints).fold(0, u64::saturating_add)
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// Progress on stderr; nothing where that is no terminal.
fn bar(hints: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(hints), ProgressDrawTarget::stderr());
    // The template is one of ours; with the default style nothing but its looks would be lost.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} hints {msg}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::super::tests::{id, row, silent_row, totals};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn n1_for_n3(hints: u64, reachable: bool) -> Vec<Row> {
        let kept = if hints == 0 { vec![] } else { vec![totals("n3", hints, reachable, "timed out")] };
        vec![row("n1", kept)]
    }

    #[test]
    fn it_ends_when_nothing_is_left() {
        let now = Instant::now();
        let mut watch = Watch::new(None, n1_for_n3(5, true), now);
        assert_eq!(watch.end(now, MINUTE), None);
        watch.update(n1_for_n3(2, true), now + SECOND);
        assert_eq!((watch.end(now + SECOND, MINUTE), watch.delivered()), (None, 3));
        watch.update(n1_for_n3(0, true), now + 2 * SECOND);
        assert_eq!(watch.end(now + 2 * SECOND, MINUTE), Some(End::Empty));
        assert!(watch.problem(End::Empty, SECOND).is_none());
        assert_eq!(watch.success(2 * SECOND), "delivered 5 hints in 2s, none are left");
        let nothing = Watch::new(Some(id("n3")), n1_for_n3(0, true), now);
        assert_eq!(nothing.end(now, MINUTE), Some(End::Empty));
        assert_eq!(nothing.success(SECOND), "no hints for n3, there was nothing to deliver");
    }

    #[test]
    fn it_waits_in_vain_only_while_nothing_moves_and_nobody_is_in_reach() {
        let now = Instant::now();
        let mut watch = Watch::new(None, n1_for_n3(5, false), now);
        assert_eq!(watch.end(now + 4 * SECOND, MINUTE), None);
        watch.update(n1_for_n3(4, false), now + 4 * SECOND);
        assert_eq!(watch.end(now + 8 * SECOND, MINUTE), None);
        // New ones are no progress.
        watch.update(n1_for_n3(9, false), now + 8 * SECOND);
        assert_eq!(watch.end(now + 9 * SECOND, MINUTE), Some(End::InVain));
        watch.update(n1_for_n3(9, true), now + 9 * SECOND);
        assert_eq!(watch.end(now + 59 * SECOND, MINUTE), None);
        assert_eq!(watch.end(now + MINUTE, MINUTE), Some(End::Late));
    }

    #[test]
    fn what_is_left_is_said_with_the_reason() {
        let now = Instant::now();
        let mut rows = n1_for_n3(5, false);
        rows.push(row("n2", vec![totals("n3", 2, true, ""), totals("n1", 1, true, "refuses")]));
        rows.push(silent_row("n3"));
        let mut watch = Watch::new(Some(id("n3")), rows, now);
        let error = watch.problem(End::InVain, 6 * SECOND).unwrap();
        assert_eq!(error.exit(), Exit::Refused);
        assert_eq!(
            error.to_string(),
            "0 hints delivered, 7 left after 6s: n1 keeps 5 for n3, which it cannot reach (timed out); n2 keeps 2 for n3; \
             what n3 may keep is not known; they go by themselves once their targets are back: see `dyn status`"
        );
        assert_eq!(watch.out_of_reach(), "(n3 out of reach)");
        // A holder that falls silent still keeps what it kept.
        watch.update(vec![silent_row("n1"), row("n2", vec![])], now);
        assert_eq!(watch.end(now + 5 * SECOND, MINUTE), Some(End::InVain));
        let error = watch.problem(End::InVain, 6 * SECOND).unwrap().to_string();
        assert!(error.contains("2 hints delivered, 5 left"), "{error}");
        assert!(error.contains("n1 keeps 5 for n3, but is down"), "{error}");
        let json = watch.as_json(End::InVain, SECOND);
        assert_eq!((&json["before"], &json["left"], &json["in_vain"]), (&7.into(), &5.into(), &true.into()));
        assert_eq!((&json["holders"][0]["holder"], &json["silent"][0]["node"]), (&"n1".into(), &"n3".into()));
    }

    #[test]
    fn a_node_that_was_never_heard_leaves_it_open_whether_all_is_done() {
        let mut rows = n1_for_n3(0, true);
        rows.push(silent_row("n2"));
        let watch = Watch::new(None, rows, Instant::now());
        let error = watch.problem(End::Empty, SECOND).unwrap();
        assert_eq!(error.exit(), Exit::Unknown);
        assert!(error.to_string().contains("what n2 may keep is not known"), "{error}");
    }
}
