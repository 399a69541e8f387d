//! `dyn merkle diff`

use std::time::Duration;

use clap::Args;
use dynkv_client::proto::{DiffKey, DiffReply, DiffSide, Relation};
use dynkv_client::ring::NodeId;
use serde_json::{Map, Value, json};

use crate::address::to_hex;
use crate::connection::{Connection, known};
use crate::error::CliError;
use crate::exit::Exit;
use crate::json::add_key;
use crate::output;

/// How long it may take, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Digits of a digest that are shown to people: enough to tell two apart.
const DIGEST_DIGITS: usize = 12;

/// Show where two nodes differ
///
/// The first node compares itself with the second one; nothing is changed. Writes that are on their way make nodes differ for
/// some milliseconds. "Older" is a state that lacks what the other has, and has nothing of its own; of two "concurrent" ones each
/// has what the other lacks. What differs is mended by the nodes themselves, at once by `dyn repair start`. Exit code 5 if
/// something could not be compared.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The node that compares
    #[arg(value_name = "NODE")]
    node: NodeId,
    /// The node it compares itself with
    #[arg(value_name = "NODE")]
    peer: NodeId,
    /// Only this partition
    #[arg(long, value_name = "P")]
    partition: Option<u32>,
    /// Also show which keys differ, and how
    #[arg(long)]
    keys: bool,
    /// How many keys to show
    #[arg(long, value_name = "N", default_value_t = 100, requires = "keys", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Print keys in hexadecimal, as `get --key-hex` takes them
    #[arg(long, conflicts_with = "json", requires = "keys")]
    key_hex: bool,
    /// Print it as JSON: keys exactly as they are, those that are not UTF-8 as "key_hex"
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Diff {
    pub(crate) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let view = client.view();
        let (node, peer) = (known(&view, self.node)?, known(&view, self.peer)?);
        if node == peer {
            return Err(CliError::Usage(format!("{node} is to be compared with itself: name two nodes")));
        }
        let mut diff = client.diff(node, peer).timeout(self.connection.timeout().unwrap_or(TIMEOUT));
        if let Some(partition) = self.partition {
            diff = diff.partition(partition);
        }
        if self.keys {
            diff = diff.keys(self.limit);
        }
        let reply = diff.await.map_err(CliError::of(format!("merkle diff {node} {peer}")))?;
        if self.json {
            output::json(&self.as_json(&reply))?;
        } else {
            output::line(self.summary(&reply))?;
            if !reply.keys.is_empty() {
                output::line(self.as_table(&reply.keys))?;
            }
            if self.keys && !reply.differing.is_empty() {
                output::line(self.keys_summary(&reply))?;
            }
        }
        if reply.skipped.is_empty() {
            return Ok(Exit::Ok);
        }
        Err(CliError::Unknown(format!(
            "{} could not be compared, because {node} or {peer} has not built all its trees yet: see `dyn merkle roots`, then repeat",
            output::count(reply.skipped.len() as u64, "partition"),
        )))
    }

    fn summary(&self, reply: &DiffReply) -> String {
        let (node, peer) = (self.node, self.peer);
        let what = match self.partition {
            Some(partition) => format!("{node} and {peer}, partition {partition}"),
            None => {
                let shared = output::count(reply.shared.into(), "partition");
                format!("{node} and {peer} share {shared}")
            }
        };
        let compared = u64::from(reply.shared) - reply.skipped.len() as u64;
        match (reply.differing.len(), compared) {
            (_, 0) => format!("{what}: not compared"),
            (0, _) => format!("{what}: equal"),
            (1, 1) => format!("{what}: differs"),
            (differing, _) => {
                let names: Vec<String> = reply.differing.iter().take(20).map(u32::to_string).collect();
                let more = if differing > names.len() { ", ..." } else { "" };
                format!("{what}, of which {differing} differ: {}{more}", names.join(", "))
            }
        }
    }

    fn keys_summary(&self, reply: &DiffReply) -> String {
        match (reply.keys.len() as u64, reply.more) {
            (0, _) => "no key differs any more: what differed was a write on its way, or is mended".into(),
            (1, false) => "1 key differs".into(),
            (keys, false) => format!("{keys} keys differ"),
            (keys, true) => {
                format!("the first {keys} keys that differ: see more with --limit, or with --partition")
            }
        }
    }

    /// How the states stand to each other, in words.
    fn relation(&self, relation: Relation) -> String {
        let (here, there) = (self.node, self.peer);
        match relation {
            Relation::MissingHere => format!("missing on {here}"),
            Relation::MissingThere => format!("missing on {there}"),
            Relation::OlderHere => format!("older on {here}"),
            Relation::OlderThere => format!("older on {there}"),
            Relation::Concurrent => "concurrent".into(),
            Relation::DamagedHere => format!("damaged on {here}"),
            Relation::DamagedThere => format!("damaged on {there}"),
            _ => "differs".into(),
        }
    }

    fn as_table(&self, keys: &[DiffKey]) -> String {
        let side = |side: &Option<DiffSide>| match side {
            None => "-".to_owned(),
            Some(side) => {
                let digest = side.digest.to_string();
                let versions = output::count(side.versions.into(), "version");
                format!("{} {versions}, {}", &digest[..DIGEST_DIGITS], output::bytes(side.bytes))
            }
        };
        let rows = keys.iter().map(|key| {
            let name = match self.key_hex {
                true => to_hex(&key.key),
                // As `ls` prints it to a terminal.
                false => output::printable(&String::from_utf8_lossy(&key.key)),
            };
            vec![
                key.bucket.clone(),
                name,
                key.partition.to_string(),
                self.relation(key.relation),
                side(&key.here),
                side(&key.there),
            ]
        });
        let on = |node: NodeId| format!("ON {}", node.to_string().to_uppercase());
        let header = ["BUCKET", "KEY", "PARTITION", "DIFFERENCE"].map(str::to_owned).into_iter();
        let header = header.chain([on(self.node), on(self.peer)]).collect();
        output::table_of(header, &[2], rows.collect())
    }

    fn as_json(&self, reply: &DiffReply) -> Value {
        let side = |side: &Option<DiffSide>| {
            side.as_ref().map(|side| {
                json!({"digest": side.digest.to_string(), "bytes": side.bytes, "versions": side.versions})
            })
        };
        let keys = reply.keys.iter().map(|key| {
            let mut object = Map::new();
            object.insert("bucket".into(), key.bucket.as_str().into());
            add_key(&mut object, &key.key);
            object.insert("partition".into(), key.partition.into());
            object.insert("difference".into(), self.relation(key.relation).into());
            object.insert("here".into(), side(&key.here).into());
            object.insert("there".into(), side(&key.there).into());
            Value::Object(object)
        });
        json!({
            "node": self.node.to_string(),
            "peer": self.peer.to_string(),
            "shared": reply.shared,
            "skipped": reply.skipped,
            "differing": reply.differing,
            "keys": self.keys.then(|| keys.collect::<Vec<_>>()),
            "more": reply.more,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use dynkv_client::proto::Digest;

    use super::*;

    fn diff(args: &[&str]) -> Diff {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            diff: Diff,
        }
        Line::parse_from([&["diff", "n1", "n2"], args].concat()).diff
    }

    fn reply(shared: u32, skipped: Vec<u32>, differing: Vec<u32>) -> DiffReply {
        let node = "n1".parse().unwrap();
        DiffReply { node, shared, skipped, differing, keys: vec![], more: false }
    }

    #[test]
    fn the_first_line_says_what_differs() {
        let all = diff(&[]);
        assert_eq!(all.summary(&reply(16, vec![], vec![])), "n1 and n2 share 16 partitions: equal");
        assert_eq!(
            all.summary(&reply(16, vec![], vec![3, 9])),
            "n1 and n2 share 16 partitions, of which 2 differ: 3, 9"
        );
        assert_eq!(all.summary(&reply(1, vec![0], vec![])), "n1 and n2 share 1 partition: not compared");
        let many = all.summary(&reply(256, vec![], (0..30).collect()));
        assert!(many.contains("30 differ: 0, 1, ") && many.ends_with("19, ..."), "{many}");
        let one = diff(&["--partition", "3"]);
        assert_eq!(one.summary(&reply(1, vec![], vec![3])), "n1 and n2, partition 3: differs");
        assert_eq!(one.summary(&reply(1, vec![], vec![])), "n1 and n2, partition 3: equal");
    }

    #[test]
    fn keys_are_shown_with_how_they_differ() {
        let side =
            |digest: u128, versions| Some(DiffSide { digest: Digest(digest << 80), bytes: 2048, versions });
        let key = |key: &'static [u8], relation, here, there| DiffKey {
            partition: 7,
            bucket: "carts".into(),
            key: bytes::Bytes::from_static(key).into(),
            relation,
            here,
            there,
        };
        let mut reply = reply(16, vec![], vec![7]);
        reply.keys = vec![
            key(b"alice", Relation::OlderThere, side(0xabc, 2), side(0xdef, 1)),
            key(b"\x1b\xff", Relation::MissingHere, None, side(1, 1)),
        ];
        let shown = diff(&["--keys"]);
        let table = shown.as_table(&reply.keys);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["BUCKET", "KEY", "PARTITION", "DIFFERENCE", "ON", "N1", "ON", "N2"]);
        let alice =
            "carts alice 7 older on n2 000000000abc 2 versions, 2.0 KiB 000000000def 1 version, 2.0 KiB";
        assert_eq!(lines[1], alice.split(' ').collect::<Vec<_>>());
        assert!(table.contains("missing on n1") && table.contains("\\u{1b}"), "{table}");
        assert!(diff(&["--keys", "--key-hex"]).as_table(&reply.keys).contains("1bff"));
        assert_eq!(shown.keys_summary(&reply), "2 keys differ");
        reply.more = true;
        assert!(shown.keys_summary(&reply).contains("--limit"));
        let json = shown.as_json(&reply);
        assert_eq!(
            (&json["keys"][0]["difference"], &json["keys"][1]["key_hex"], &json["keys"][1]["here"]),
            (&"older on n2".into(), &"1bff".into(), &Value::Null)
        );
        assert_eq!(diff(&[]).as_json(&reply)["keys"], Value::Null);
    }
}
