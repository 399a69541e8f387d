//! `dyn import`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use dynkv_client::proto::{DEFAULT_BUCKET, check_bucket_name};
use dynkv_client::{Client, Error};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::address::show_key;
use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::import::pass::{self, End, Limits, Told};
use crate::import::source::Source;
use crate::import::tally::{Tally, Written};
use crate::import::{Entry, Item, Target};
use crate::output;
use crate::signals::Stop;

/// An import keeps the nodes busy: its requests may wait longer than one that somebody waits for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// So many bytes of values are under way at a time, however many entries may be: large ones would hold each other up until
/// all are late.
const IN_FLIGHT_BYTES_MAX: u64 = 8 * 1024 * 1024;

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
        items: Box<dyn Iterator<Item = Item> + Send>,
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
        items: Box<dyn Iterator<Item = Item> + Send>,
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
