//! `dyn hints show`

use std::collections::VecDeque;

use clap::Args;
use dynkv_client::proto::HintEntry;
use dynkv_client::ring::NodeId;
use dynkv_client::{Client, Error};
use serde_json::{Value, json};

use super::{ANSWER_WITHIN, Row, ask_all, holders, names, owed, silent, silent_json};
use crate::address::to_hex;
use crate::connection::Connection;
use crate::error::CliError;
use crate::exit::Exit;
use crate::json::add_key;
use crate::output;

/// Hints asked for at a time: a page that a node makes up in a moment.
const PAGE_HINTS: u32 = 500;

/// Show the single hints for a node, oldest first
///
/// Exit code 5 if some node did not answer, so that hints may be missing.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The node that the hints are for
    #[arg(value_name = "TARGET")]
    target: NodeId,
    /// Only those that this node keeps [default: all nodes]
    #[arg(long, value_name = "NODE")]
    holder: Option<NodeId>,
    /// How many to show
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print keys in hexadecimal, as `get --key-hex` takes them
    #[arg(long, conflicts_with = "json")]
    key_hex: bool,
    /// Print them as JSON: keys exactly as they are, those that are not UTF-8 as "key_hex"
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// A hint and who keeps it.
struct Shown {
    holder: NodeId,
    hint: HintEntry,
}

impl Show {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let holders = holders(&client.view(), self.holder, Some(self.target))?;
        let mut rows = ask_all(&client, &holders, ANSWER_WITHIN).await;
        let owed = owed(&rows, Some(self.target));
        let total = owed.iter().map(|owed| owed.totals.hints).fold(0, u64::saturating_add);
        let limit = self.limit as usize;
        let mut pages: Vec<_> = owed.iter().map(|owed| Pages::of(owed.holder)).collect();
        let mut shown = Vec::new();
        while shown.len() < limit {
            for pages in &mut pages {
                if let Err(error) = pages.refill(&client, self.target, limit).await {
                    // It has stopped answering: the others go on.
                    rows.retain(|row| row.node != pages.holder);
                    rows.push(Row { node: pages.holder, answer: Err(error) });
                    pages.more = false;
                }
            }
            let Some(oldest) = oldest(&mut pages) else { break };
            shown.push(oldest);
        }
        let total = total.max(shown.len() as u64);
        if self.json {
            output::json(&self.as_json(&shown, total, &rows))?;
        } else if !shown.is_empty() {
            output::line(self.as_table(&shown))?;
        }
        let target = self.target;
        let what = match total {
            0 => format!("no hints for {target}"),
            _ => format!("{} of {} for {target}", shown.len(), output::count(total, "hint")),
        };
        let silent = silent(&rows);
        if !silent.is_empty() {
            let names = names(&silent);
            return Err(CliError::Unknown(format!(
                "{what}, but that may not be all: {names} did not answer; see `dyn status`, then repeat"
            )));
        }
        if total == 0 {
            output::note(what);
        } else if total > shown.len() as u64 {
            output::note(format_args!("{what}: see more with --limit"));
        }
        Ok(Exit::Ok)
    }

    fn as_table(&self, shown: &[Shown]) -> String {
        let rows = shown.iter().map(|Shown { holder, hint }| {
            let key = match self.key_hex {
                true => to_hex(&hint.key),
                // As `ls` prints it to a terminal.
                false => output::printable(&String::from_utf8_lossy(&hint.key)),
            };
            [
                holder.to_string(),
                hint.bucket.clone(),
                key,
                output::bytes(hint.bytes),
                output::duration(hint.age_ms),
            ]
        });
        output::table(["holder", "bucket", "key", "bytes", "age"], &[3, 4], rows.collect())
    }

    fn as_json(&self, shown: &[Shown], total: u64, rows: &[Row]) -> Value {
        let hints = shown.iter().map(|Shown { holder, hint }| {
            let mut object = serde_json::Map::new();
            object.insert("holder".into(), holder.to_string().into());
            object.insert("bucket".into(), hint.bucket.as_str().into());
            add_key(&mut object, &hint.key);
            object.insert("bytes".into(), hint.bytes.into());
            object.insert("age_ms".into(), hint.age_ms.into());
            object.insert("sequence".into(), hint.sequence.into());
            Value::Object(object)
        });
        json!({
            "target": self.target.to_string(),
            "total": total,
            "hints": hints.collect::<Vec<_>>(),
            "silent": silent_json(rows),
        })
    }
}

/// The hints of one holder, a page at a time.
struct Pages {
    holder: NodeId,
    page: VecDeque<HintEntry>,
    after: Option<u64>,
    more: bool,
}

impl Pages {
    fn of(holder: NodeId) -> Pages {
        Pages { holder, page: VecDeque::new(), after: None, more: true }
    }

    /// Gets the next page if this one is used up and there is one.
    async fn refill(&mut self, client: &Client, target: NodeId, limit: usize) -> Result<(), Error> {
        if !self.page.is_empty() || !self.more {
            return Ok(());
        }
        let mut hints = client.hints(self.holder).target(target).limit(PAGE_HINTS.min(limit as u32));
        if let Some(after) = self.after {
            hints = hints.after(after);
        }
        let reply = hints.timeout(client.options().timeout.min(ANSWER_WITHIN)).await?;
        self.after = reply.hints.last().map(|hint| hint.sequence);
        // A page without hints, of a node that cannot read its own, leads nowhere.
        self.more = reply.more && self.after.is_some();
        self.page = reply.hints.into();
        Ok(())
    }
}

/// Takes the oldest hint of all. Ages are by the holders' clocks, and good enough for people.
fn oldest(pages: &mut [Pages]) -> Option<Shown> {
    let age = |pages: &&mut Pages| pages.page.front().map(|hint| hint.age_ms);
    let oldest = pages.iter_mut().rev().filter(|pages| !pages.page.is_empty()).max_by_key(age)?;
    Some(Shown { holder: oldest.holder, hint: oldest.page.pop_front()? })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{id, silent_row};
    use super::*;

    fn hint(key: &'static [u8], age_ms: u64) -> HintEntry {
        let key = bytes::Bytes::from_static(key).into();
        HintEntry { sequence: 1, bucket: "carts".into(), key, bytes: 2048, age_ms }
    }

    fn show(key_hex: bool) -> Show {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            show: Show,
        }
        let args = ["show", "n3", "--key-hex"];
        Line::parse_from(&args[..2 + usize::from(key_hex)]).show
    }

    #[test]
    fn hints_of_all_holders_come_oldest_first() {
        let pages = |holder: &str, ages: &[u64]| Pages {
            page: ages.iter().map(|age| hint(b"k", *age)).collect(),
            ..Pages::of(id(holder))
        };
        let mut all = [pages("n1", &[9, 5, 1]), pages("n2", &[]), pages("n4", &[7, 5])];
        let order: Vec<_> = std::iter::from_fn(|| oldest(&mut all))
            .map(|shown| (shown.hint.age_ms, shown.holder.to_string()))
            .collect();
        let expected = [(9, "n1"), (7, "n4"), (5, "n1"), (5, "n4"), (1, "n1")];
        assert_eq!(order, expected.map(|(age, holder)| (age, holder.to_owned())));
    }

    #[test]
    fn keys_are_shown_harmless_and_in_json_as_they_are() {
        let shown = [
            Shown { holder: id("n1"), hint: hint(b"alice", 61_000) },
            Shown { holder: id("n2"), hint: hint(b"\x1b\xff", 5) },
        ];
        let table = show(false).as_table(&shown);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["HOLDER", "BUCKET", "KEY", "BYTES", "AGE"]);
        assert_eq!(lines[1], ["n1", "carts", "alice", "2.0", "KiB", "1m", "1s"]);
        assert!(lines[2][2].contains("\\u{1b}\u{fffd}"), "{table}");
        assert!(show(true).as_table(&shown).contains("1bff"));

        let json = show(false).as_json(&shown, 9, &[silent_row("n4")]);
        assert_eq!((&json["target"], &json["total"]), (&"n3".into(), &9.into()));
        assert_eq!(
            (&json["hints"][0]["key"], &json["hints"][1]["key_hex"]),
            (&"alice".into(), &"1bff".into())
        );
        assert_eq!(json["silent"][0]["node"], "n4");
    }
}
