//! `dyn bucket`

use std::time::Duration;

use clap::{Args, Subcommand};
use dynkv_client::Client;
use dynkv_client::proto::{BucketChange, BucketProperties, check_bucket_name};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::commands::status::ask_all;
use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// How often the nodes are asked whether they have a change.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// A node that does not answer within this is down, and not waited for.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Show and set the properties of buckets
#[derive(Debug, Args)]
pub(crate) struct Bucket {
    #[command(subcommand)]
    command: BucketCommand,
}

#[derive(Debug, Subcommand)]
enum BucketCommand {
    Set(Set),
    Show(Show),
    List(List),
}

/// Set properties of a bucket; those not named stay as they are
///
/// Properties: r, w, dw, pr, pw (quorums), conflict (siblings or lww; fixed when the bucket is first set), key_bytes_max,
/// value_bytes_max, siblings_max, grace_ms (how long a deleted key rests before its last traces may go). Takes an admin's certificate.
#[derive(Debug, Args)]
struct Set {
    /// The bucket
    bucket: String,
    /// Properties, for example r=2 w=2 conflict=lww
    #[arg(required = true, value_name = "PROPERTY=VALUE")]
    properties: Vec<String>,
    /// Print the properties as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Show the properties of a bucket
#[derive(Debug, Args)]
struct Show {
    /// The bucket
    bucket: String,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// List the buckets that were ever set (any other bucket has the defaults, and exists as soon as it is used)
#[derive(Debug, Args)]
struct List {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Bucket {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        match self.command {
            BucketCommand::Set(set) => set.run(),
            BucketCommand::Show(show) => show.run(),
            BucketCommand::List(list) => list.run(),
        }
    }
}

/// Reads `PROPERTY=VALUE` arguments.
fn parse_change(bucket: &str, properties: &[String]) -> Result<BucketChange, CliError> {
    check_bucket_name(bucket)?;
    let mut change = BucketChange::new(bucket);
    for text in properties {
        let (property, value) = text.split_once('=').ok_or_else(|| {
            CliError::Usage(format!("'{text}' sets no property: write PROPERTY=VALUE, for example r=2"))
        })?;
        change.set(property, value)?;
    }
    Ok(change)
}

impl Set {
    fn run(self) -> Result<Exit, CliError> {
        let change = parse_change(&self.bucket, &self.properties)?;
        block_on(async {
            let client = self.connection.client().await?;
            let view = client.view();
            if view.membership().founded() {
                view.buckets().preview(&change, view.membership().replicas())?;
            }
            let what = format!("bucket set {}", self.bucket);
            client.propose(change.to_change(), vec![]).await.map_err(CliError::of(what))?;
            wait_everywhere(&client).await;
            print(&self.bucket, client.view().buckets().get(&self.bucket), self.json)
        })
    }
}

/// Waits until every node that answers has the change, so that the next command finds it wherever it asks. A node that
/// is down learns it when it is back.
pub(crate) async fn wait_everywhere(client: &Client) {
    let deadline = Instant::now() + client.options().timeout;
    loop {
        // Others may change the history meanwhile: then theirs is what the nodes have.
        let view = client.refresh().await.unwrap_or_else(|_| client.view());
        let rows = ask_all(client, ANSWER_WITHIN).await;
        let late =
            rows.iter().filter(|row| row.answer.as_ref().is_ok_and(|status| status.view != view.digest()));
        let late: Vec<String> = late.map(|row| row.info.id.to_string()).collect();
        if late.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            let late = late.join(", ");
            output::note(format_args!("the change is made; {late} will learn it from the other nodes"));
            return;
        }
        sleep(ASK_EVERY).await;
    }
}

impl Show {
    fn run(self) -> Result<Exit, CliError> {
        check_bucket_name(&self.bucket)?;
        block_on(async {
            let client = self.connection.client().await?;
            let view = client.view();
            if !self.json && !view.buckets().iter().any(|(name, _)| name == self.bucket) {
                output::note(format_args!("bucket '{}' was never set: these are the defaults", self.bucket));
            }
            print(&self.bucket, view.buckets().get(&self.bucket), self.json)
        })
    }
}

impl List {
    fn run(self) -> Result<Exit, CliError> {
        block_on(async {
            let client = self.connection.client().await?;
            let view = client.view();
            if self.json {
                let all: Value =
                    view.buckets().iter().map(|(name, properties)| as_json(name, properties)).collect();
                output::json(&all)?;
                return Ok(Exit::Ok);
            }
            let rows: Vec<[String; 11]> = view
                .buckets()
                .iter()
                .map(|(name, properties)| {
                    let mut row = std::array::from_fn(|_| name.to_owned());
                    for (cell, (_, value)) in row[1..].iter_mut().zip(texts(properties)) {
                        *cell = value;
                    }
                    row
                })
                .collect();
            if rows.is_empty() {
                output::note("no bucket was ever set: all have the defaults");
                return Ok(Exit::Ok);
            }
            let mut header = ["bucket"; 11];
            header[1..].copy_from_slice(&BucketChange::PROPERTIES);
            output::line(output::table(header, &[1, 2, 3, 4, 5, 7, 8, 9, 10], rows))?;
            Ok(Exit::Ok)
        })
    }
}

/// Every property with its value, in the order of [`BucketChange::PROPERTIES`].
fn texts(properties: &BucketProperties) -> [(&'static str, String); 10] {
    let BucketProperties {
        r,
        w,
        dw,
        pr,
        pw,
        conflict,
        key_bytes_max,
        value_bytes_max,
        siblings_max,
        grace_ms,
    } = properties;
    [
        ("r", r.to_string()),
        ("w", w.to_string()),
        ("dw", dw.to_string()),
        ("pr", pr.to_string()),
        ("pw", pw.to_string()),
        ("conflict", conflict.to_string()),
        ("key_bytes_max", key_bytes_max.to_string()),
        ("value_bytes_max", value_bytes_max.to_string()),
        ("siblings_max", siblings_max.to_string()),
        ("grace_ms", grace_ms.to_string()),
    ]
}

fn as_json(bucket: &str, properties: &BucketProperties) -> Value {
    let BucketProperties {
        r,
        w,
        dw,
        pr,
        pw,
        conflict,
        key_bytes_max,
        value_bytes_max,
        siblings_max,
        grace_ms,
    } = properties;
    json!({
        "bucket": bucket, "r": r, "w": w, "dw": dw, "pr": pr, "pw": pw, "conflict": conflict.to_string(),
        "key_bytes_max": key_bytes_max, "value_bytes_max": value_bytes_max, "siblings_max": siblings_max,
        "grace_ms": grace_ms,
    })
}

fn print(bucket: &str, properties: &BucketProperties, json: bool) -> Result<Exit, CliError> {
    if json {
        output::json(&as_json(bucket, properties))?;
    } else {
        let lines = texts(properties).map(|(name, value)| format!("{name}={value}\n"));
        output::data(lines.concat().as_bytes())?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn what_is_printed_can_be_set_again() {
        let properties = BucketProperties { r: 1, siblings_max: 7, ..BucketProperties::default() };
        let lines = texts(&properties).map(|(name, value)| format!("{name}={value}"));
        let change = parse_change("b", &lines).unwrap();
        assert_eq!((change.r, change.siblings_max, change.w), (Some(1), Some(7), Some(2)));
        let names = texts(&properties).map(|(name, _)| name);
        assert_eq!(names, BucketChange::PROPERTIES);
        let json = as_json("b", &properties);
        assert!(names.iter().all(|name| json.get(name).is_some()), "{json}");
    }

    #[test]
    fn bad_properties_are_named() {
        for (text, expected) in
            [("rw=2", "'rw'"), ("r", "PROPERTY=VALUE"), ("r=x", "'x'"), ("conflict=crdt", "siblings or lww")]
        {
            let error = parse_change("b", &[text.to_owned()]).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
            assert_eq!(error.exit(), Exit::Usage);
        }
        assert!(parse_change("a/b", &["r=1".to_owned()]).is_err());
    }
}
