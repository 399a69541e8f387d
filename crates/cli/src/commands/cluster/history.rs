//! `dyn cluster history`

use std::collections::BTreeMap;

use clap::Args;
use dynkv_client::ClusterView;
use dynkv_client::proto::Conflict;
use dynkv_client::ring::Entry;
use dynkv_client::vclock::HybridTime;
use serde_json::{Value, json};

use super::describe;
use crate::connection::Connection;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Show the changes that were made, in order, and which had no effect
///
/// Every change of the members and of buckets is an entry for ever. Nodes unite what they hear, and apply the entries in this order:
/// by time, which is as late as what the issuer had seen. Of operators who act at the same time each gets the change, unless it makes no
/// sense after the other's. Numbers are places in the order, and may shift when an entry of an earlier time is heard of late.
#[derive(Debug, Args)]
pub(crate) struct HistoryCommand {
    /// Only entries behind this one, by its number: the next page
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: usize,
    /// How many entries to show
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// An entry with its place and effect.
struct Line<'a> {
    number: usize,
    entry: &'a Entry,
    /// Why it has none; `None`: it has one.
    ignored: Option<String>,
}

impl HistoryCommand {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let view = client.view();
        let mut lines = all(&view);
        let total = lines.len();
        lines.drain(..self.after.min(total));
        lines.truncate(self.limit);
        let last = lines.last().map_or(self.after, |line| line.number);
        if self.json {
            output::json(&json!({
                "cluster": client.cluster(),
                "view": view.digest().to_string(),
                "total": total,
                "more": last < total,
                "entries": lines.iter().map(Line::as_json).collect::<Vec<_>>(),
            }))?;
            return Ok(Exit::Ok);
        }
        if !lines.is_empty() {
            output::line(table(lines))?;
        }
        let digest = view.digest();
        let entries = match total {
            1 => "1 entry".to_owned(),
            total => format!("{total} entries"),
        };
        output::line(match last < total {
            true => format!("{entries}, digest {digest}; go on with --after {last}"),
            false => format!("{entries}, digest {digest}"),
        })?;
        Ok(Exit::Ok)
    }
}

fn all(view: &ClusterView) -> Vec<Line<'_>> {
    let membership = view.membership();
    let mut ignored = membership.ignored().iter().peekable();
    let mut policies = BTreeMap::new();
    let line = |(number, entry): (usize, &'_ Entry)| {
        // Both are in the order of the history.
        let reason =
            ignored.next_if(|ignored| ignored.entry == *entry).map(|ignored| ignored.reason.to_string());
        (number, reason.or_else(|| policy_ignored(entry, &mut policies)))
    };
    let effects: Vec<_> = (1..).zip(view.history()).map(line).collect();
    let lines = effects.into_iter().zip(view.history());
    lines.map(|((number, ignored), entry)| Line { number, entry, ignored }).collect()
}

/// A bucket's conflict policy is the first that was set; what came later, or at the same time elsewhere, changes the rest only.
fn policy_ignored(entry: &Entry, policies: &mut BTreeMap<String, Conflict>) -> Option<String> {
    let change = describe::bucket(entry.change())?;
    let set = *policies.entry(change.bucket).or_insert(change.conflict.unwrap_or_default());
    let wanted = change.conflict.filter(|wanted| *wanted != set)?;
    Some(format!("conflict={wanted} has none: the bucket was set to conflict={set} before"))
}

fn table(lines: Vec<Line<'_>>) -> String {
    let rows = lines.into_iter().map(|line| {
        [
            line.number.to_string(),
            output::utc(HybridTime::from_u64(line.entry.time()).wall_ms()),
            line.entry.issuer().to_string(),
            describe::text(line.entry.change()),
            line.ignored.map_or_else(|| "yes".into(), |reason| format!("none: {reason}")),
        ]
    });
    output::table(["number", "time", "issuer", "change", "effect"], &[0], rows.collect())
}

impl Line<'_> {
    fn as_json(&self) -> Value {
        let time = HybridTime::from_u64(self.entry.time());
        json!({
            "number": self.number,
            "time": output::utc(time.wall_ms()),
            "time_ms": time.wall_ms(),
            "logical": time.logical(),
            "issuer": self.entry.issuer().to_string(),
            "entry": describe::as_json(self.entry.change()),
            "effect": self.ignored.is_none(),
            "reason": self.ignored,
        })
    }
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::BucketChange;

    use super::*;

    #[test]
    fn the_first_policy_of_a_bucket_stays() {
        let mut policies = BTreeMap::new();
        let mut set = |properties: &[(&str, &str)]| {
            let mut change = BucketChange::new("b");
            properties.iter().for_each(|(name, value)| change.set(name, value).unwrap());
            let entry = Entry::new(1, "n1".parse().unwrap(), change.to_change()).unwrap();
            policy_ignored(&entry, &mut policies)
        };
        assert_eq!(set(&[("r", "1")]), None);
        assert_eq!(set(&[("conflict", "siblings")]), None);
        let reason = set(&[("conflict", "lww"), ("r", "2")]).unwrap();
        assert_eq!(reason, "conflict=lww has none: the bucket was set to conflict=siblings before");
    }

    #[test]
    fn entries_say_when_who_what_and_why_not() {
        let entry = |change| Entry::new(1_709_251_199_000 << 16, "n1".parse().unwrap(), change).unwrap();
        let leave = entry(dynkv_client::ring::Change::Leave("n3".parse().unwrap()));
        let lines = vec![
            Line { number: 1, entry: &leave, ignored: None },
            Line { number: 2, entry: &leave, ignored: Some("the node is leaving already".into()) },
        ];
        assert_eq!(lines[1].as_json()["effect"], false);
        let table = table(lines);
        let rows: Vec<&str> = table.lines().skip(1).map(str::trim).collect();
        assert_eq!(rows[0], "1  2024-02-29T23:59:59Z  n1      n3 leaves  yes");
        assert!(rows[1].ends_with("none: the node is leaving already"), "{table}");
    }
}
