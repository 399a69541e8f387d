//! `dyn import`

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use dynkv_client::proto::{DEFAULT_BUCKET, Outcome, check_bucket_name};
use dynkv_client::{Client, Error};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::address::show_key;
use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::import::pass::{self, End, Limits, Told};
use crate::import::source::Source;
use crate::import::{Entry, ItemError, Target};
use crate::output;
use crate::signals::Stop;

/// An import keeps the nodes busy: its requests may wait longer than one that somebody waits for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// So many bytes of values are under way at a time, however many entries may be: large ones would hold each other up until
/// all are late.
const IN_FLIGHT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// So many failures one after the other are the cluster's or the file's, not the entries'.
const FAILURES_IN_A_ROW_MAX: u32 = 50;
/// So many keys are remembered as failed, or as read back differently; with more the import is broken off.
const FAILED_KEYS_MAX: usize = 10_000;

/// Import a file of JSON lines, or a tree of files
///
/// A file has one entry a line: {"key": ..., "value": ...} or {"key": ..., "value_base64": ...}. In a folder each file is an
/// entry, its relative path the key. What a key holds is read first: an equal value is left as it is, so an import that
/// was interrupted is resumed by repeating it. What is refused (too large, no entry) is listed, and the rest goes on.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// A file of JSON lines, or a folder
    path: PathBuf,
    /// The bucket to import to
    #[arg(long, value_name = "BUCKET", default_value = DEFAULT_BUCKET)]
    bucket: String,
    /// How many entries are written at a time; fewer when they are large
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Afterwards read back everything that was accepted, and compare
    #[arg(long)]
    verify: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// What a write came to.
enum Written {
    Stored { siblings_replaced: usize },
    Unchanged,
}

/// What has happened so far.
#[derive(Debug, Default)]
struct Tally {
    stored: u64,
    stored_bytes: u64,
    unchanged: u64,
    refused: u64,
    unknown: u64,
    siblings_replaced: u64,
    verified: u64,
    /// Keys whose write failed.
    failed: BTreeSet<Vec<u8>>,
    /// Keys that hold something else than was accepted, with the place of the entry.
    different: BTreeMap<Vec<u8>, String>,
    in_a_row: u32,
    /// Whether the last failure was that no node was reached.
    disconnected: bool,
}

impl Import {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        check_bucket_name(&self.bucket)?;
        let read = || CliError::file("read", &self.path);
        let source = Source::of(&self.path).map_err(read())?;
        block_on(async {
            let client = self.connection.client().await?;
            let properties = client.view().buckets().get(&self.bucket).clone();
            let target = Target {
                bucket: self.bucket.clone(),
                key_bytes_max: properties.key_bytes_max.into(),
                value_bytes_max: properties.value_bytes_max.into(),
            };
            let mut stop = Stop::listen()?;
            let started = Instant::now();
            let mut tally = Tally::default();
            let bar = bar(source.total_bytes());
            let items = source.items(&target).map_err(read())?;
            let mut end = self.write_all(&client, items, &bar, &mut tally, &mut stop).await;
            let took = started.elapsed();
            if self.verify && end == End::Finished {
                bar.reset();
                let items = source.items(&target).map_err(read())?;
                end = self.verify_all(&client, items, &bar, &mut tally, &mut stop).await;
            }
            bar.finish_and_clear();
            self.report(&tally, end, took)
        })
    }

    fn timeout(&self) -> Duration {
        self.connection.timeout().unwrap_or(TIMEOUT)
    }

    fn limits(&self) -> Limits {
        Limits { entries: self.concurrency.into(), bytes: IN_FLIGHT_BYTES_MAX }
    }

    async fn write_all(
        &self,
        client: &Client,
        items: Box<dyn Iterator<Item = crate::import::Item> + Send>,
        bar: &ProgressBar,
        tally: &mut Tally,
        stop: &mut Stop,
    ) -> End {
        let write = |entry: Entry| write(client.clone(), self.bucket.clone(), entry, self.timeout());
        let told = |told: Told<Result<Written, Error>>| {
            bar.set_position(told.read_bytes.max(bar.position()));
            let problem = tally.written(told);
            bar.set_message(output::count(tally.stored + tally.unchanged, "key"));
            if let Some(problem) = problem {
                bar.suspend(|| output::note(problem));
            }
            tally.go_on()
        };
        let interrupted = async {
            stop.recv().await;
        };
        pass::run(items, self.limits(), write, told, interrupted).await
    }

    async fn verify_all(
        &self,
        client: &Client,
        items: Box<dyn Iterator<Item = crate::import::Item> + Send>,
        bar: &ProgressBar,
        tally: &mut Tally,
        stop: &mut Stop,
    ) -> End {
        // Neither was accepted, nor is it known what the key holds.
        let failed = std::mem::take(&mut tally.failed);
        let read_back = |entry: Entry| {
            let skip = failed.contains(&entry.key);
            let (client, bucket, timeout) = (client.clone(), self.bucket.clone(), self.timeout());
            async move { if skip { Ok(None) } else { holds(client, bucket, entry, timeout).await.map(Some) } }
        };
        let told = |told: Told<Result<Option<bool>, Error>>| {
            bar.set_position(told.read_bytes.max(bar.position()));
            let problem = tally.read_back(told);
            bar.set_message(format!("{} verified", output::count(tally.verified, "key")));
            if let Some(problem) = problem {
                bar.suspend(|| output::note(problem));
            }
            tally.go_on()
        };
        let interrupted = async {
            stop.recv().await;
        };
        let end = pass::run(items, self.limits(), read_back, told, interrupted).await;
        tally.failed = failed;
        end
    }

    fn report(&self, tally: &Tally, end: End, took: Duration) -> Result<Exit, CliError> {
        for (key, place) in &tally.different {
            output::note(format_args!(
                "{place}: {} does not hold this value: somebody else wrote it, or see `dyn status`",
                show_key(key)
            ));
        }
        let rate = tally.stored as f64 / took.as_secs_f64().max(0.001);
        if self.json {
            output::json(&json!({
                "bucket": self.bucket,
                "stored": tally.stored,
                "stored_bytes": tally.stored_bytes,
                "unchanged": tally.unchanged,
                "refused": tally.refused,
                "unknown": tally.unknown,
                "siblings_replaced": tally.siblings_replaced,
                "verified": self.verify.then_some(tally.verified),
                "different": tally.different.len(),
                "took_ms": took.as_millis() as u64,
                "finished": end == End::Finished,
            }))?;
        } else {
            let (stored, bytes) = (output::count(tally.stored, "key"), output::bytes(tally.stored_bytes));
            let seconds = output::duration(took.as_millis() as u64);
            let mut line = format!(
                "stored {stored} ({bytes}) in {seconds}, {rate:.0} keys/s; unchanged {}",
                tally.unchanged
            );
            for (number, what) in [
                (tally.siblings_replaced, "siblings replaced"),
                (tally.refused, "refused"),
                (tally.unknown, "unknown"),
                (tally.different.len() as u64, "different when read back"),
            ] {
                if number > 0 {
                    line += &format!("; {what} {number}");
                }
            }
            if self.verify {
                line += &format!("; verified {}", tally.verified);
            }
            output::note(line);
        }
        let again = "repeat the command to go on where it stopped";
        match end {
            End::Interrupted => {
                output::note(format_args!("dyn: interrupted: {again}"));
                Ok(Exit::Interrupted)
            }
            End::BrokenOff => {
                output::note(format_args!(
                    "dyn: broken off after too many failures: see `dyn status`, then {again}"
                ));
                Ok(if tally.disconnected { Exit::Connect } else { tally.exit() })
            }
            End::Finished => Ok(tally.exit()),
        }
    }
}

impl Tally {
    /// Takes note of a write; what to tell about it, if there is anything.
    fn written(&mut self, told: Told<Result<Written, Error>>) -> Option<String> {
        let Told { place, key, value_bytes, result, .. } = told;
        let problem = match result {
            Ok(Ok(written)) => {
                self.in_a_row = 0;
                // A later line may have the same key.
                self.failed.remove(&key);
                match written {
                    Written::Unchanged => self.unchanged += 1,
                    Written::Stored { siblings_replaced } => {
                        self.stored += 1;
                        self.stored_bytes += value_bytes;
                        self.siblings_replaced += siblings_replaced as u64;
                    }
                }
                return None;
            }
            Ok(Err(error)) => {
                self.failure(&error);
                self.failed.insert(key);
                error.to_string()
            }
            Err(error) => {
                self.refused += 1;
                self.in_a_row +=
                    u32::from(matches!(error, ItemError::Syntax { .. } | ItemError::Line { .. }));
                error.to_string()
            }
        };
        Some(output::one_line(&format!("{place}: not imported: {problem}")))
    }

    /// Takes note of what was read back: nothing for an entry that was not accepted, else whether it is there.
    fn read_back(&mut self, told: Told<Result<Option<bool>, Error>>) -> Option<String> {
        let Told { place, key, result, .. } = told;
        match result {
            // Told in the first pass.
            Err(_) | Ok(Ok(None)) => None,
            Ok(Ok(Some(true))) => {
                self.in_a_row = 0;
                self.verified += 1;
                // An earlier line had another value for this key.
                self.different.remove(&key);
                None
            }
            Ok(Ok(Some(false))) => {
                self.in_a_row = 0;
                self.different.insert(key, place);
                None
            }
            Ok(Err(error)) => {
                // Whether it is there is what nobody knows now.
                self.in_a_row += 1;
                self.unknown += 1;
                self.disconnected = matches!(error, Error::Connect { .. });
                Some(output::one_line(&format!("{place}: cannot be read back: {error}")))
            }
        }
    }

    fn failure(&mut self, error: &Error) {
        self.in_a_row += 1;
        self.disconnected = matches!(error, Error::Connect { .. });
        match error.outcome() {
            Outcome::NotDone => self.refused += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }

    fn go_on(&self) -> ControlFlow<()> {
        let too_many = self.in_a_row >= FAILURES_IN_A_ROW_MAX
            || self.failed.len() >= FAILED_KEYS_MAX
            || self.different.len() >= FAILED_KEYS_MAX;
        if too_many { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn exit(&self) -> Exit {
        if self.unknown > 0 || !self.different.is_empty() {
            Exit::Unknown
        } else if self.refused > 0 {
            Exit::Refused
        } else {
            Exit::Ok
        }
    }
}

/// Writes an entry, unless the key holds just that.
async fn write(client: Client, bucket: String, entry: Entry, timeout: Duration) -> Result<Written, Error> {
    let Entry { key, value } = entry;
    let (key, value) = (Bytes::from(key), Bytes::from(value));
    let current = client.get(&bucket, key.clone()).timeout(timeout).await?;
    if current.value() == Some(&value) {
        return Ok(Written::Unchanged);
    }
    client.put(&bucket, key, value).context(&current.context).timeout(timeout).await?;
    let siblings = current.siblings.len();
    Ok(Written::Stored { siblings_replaced: if siblings > 1 { siblings } else { 0 } })
}

/// Whether the key holds the entry's value; beside it there may be what others have written meanwhile.
async fn holds(client: Client, bucket: String, entry: Entry, timeout: Duration) -> Result<bool, Error> {
    let current = client.get(&bucket, entry.key).timeout(timeout).await?;
    Ok(current.siblings.iter().any(|sibling| sibling.value == entry.value))
}

/// Progress on stderr; nothing where that is no terminal.
fn bar(total_bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
    let template = "{bar:30} {bytes}/{total_bytes} {msg}, {binary_bytes_per_sec}, {eta} left";
    // The template is one of ours; with the default style nothing but its looks would be lost.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::FailureCode;

    use super::*;

    fn told<T>(key: &str, result: Result<T, ItemError>) -> Told<T> {
        Told { place: format!("line of {key}"), read_bytes: 0, key: key.into(), value_bytes: 3, result }
    }

    fn refusal() -> Error {
        Error::NotDone { code: FailureCode::Quorum, node: None, message: "too\nfew".into() }
    }

    fn unknown() -> Error {
        Error::Unknown { code: None, node: None, put_id: None, message: "silence".into() }
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst() {
        let mut tally = Tally::default();
        assert_eq!(tally.written(told("a", Ok(Ok(Written::Stored { siblings_replaced: 2 })))), None);
        assert_eq!(tally.written(told("b", Ok(Ok(Written::Unchanged)))), None);
        assert_eq!((tally.exit(), tally.stored, tally.unchanged, tally.stored_bytes), (Exit::Ok, 1, 1, 3));
        let line = tally.written(told("c", Err(ItemError::Value { bytes: 9, limit: 8 }))).unwrap();
        assert_eq!(line, "line of c: not imported: the value has 9 bytes, the limit is 8");
        assert_eq!(tally.exit(), Exit::Refused);
        assert!(!tally.written(told("d", Ok(Err(refusal())))).unwrap().contains('\n'));
        assert_eq!(tally.exit(), Exit::Refused);
        tally.written(told("e", Ok(Err(unknown()))));
        assert_eq!((tally.exit(), tally.refused, tally.unknown), (Exit::Unknown, 2, 1));
        assert_eq!(tally.failed.len(), 2);
    }

    #[test]
    fn a_later_line_of_the_same_key_is_what_counts() {
        let mut tally = Tally::default();
        tally.read_back(told("a", Ok(Ok(Some(false)))));
        assert_eq!(tally.exit(), Exit::Unknown);
        tally.read_back(told("a", Ok(Ok(Some(true)))));
        tally.read_back(told("b", Ok(Ok(None))));
        assert_eq!((tally.exit(), tally.verified), (Exit::Ok, 1));
    }

    #[test]
    fn failures_in_a_row_break_off_but_large_files_do_not() {
        let mut tally = Tally::default();
        for _ in 0..FAILURES_IN_A_ROW_MAX * 2 {
            tally.written(told("a", Err(ItemError::Value { bytes: 9, limit: 8 })));
        }
        assert!(tally.go_on().is_continue());
        for _ in 1..FAILURES_IN_A_ROW_MAX {
            tally.written(told("a", Ok(Err(refusal()))));
        }
        assert!(tally.go_on().is_continue());
        tally.written(told("a", Ok(Ok(Written::Unchanged))));
        for _ in 0..FAILURES_IN_A_ROW_MAX {
            assert!(tally.go_on().is_continue());
            tally.written(told("a", Err(ItemError::Syntax { reason: "x".into() })));
        }
        assert!(tally.go_on().is_break());
    }
}
