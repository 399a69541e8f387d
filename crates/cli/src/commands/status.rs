//! `dyn status`

use std::time::Duration;

use clap::Args;
use dynkv_client::proto::{Digest, NodeInfo, StatusReply};
use dynkv_client::ring::NodeId;
use dynkv_client::{Client, ClusterView, Error};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// A node that is up answers sooner; waiting longer for one that is down helps nobody.
const ANSWER_WITHIN: Duration = Duration::from_millis(2500);

/// Show how every node is
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// A node and what it answered.
pub(crate) struct Row {
    pub(crate) info: NodeInfo,
    pub(crate) answer: Result<StatusReply, Error>,
}

impl Status {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        block_on(async {
            let client = self.connection.client().await?;
            let rows = ask_all(&client, ANSWER_WITHIN).await;
            if self.json {
                output::json(&as_json(&client, &rows))?;
            } else {
                output::line(summary(&client))?;
                output::line(as_table(client.view().digest(), &rows))?;
            }
            Ok(Exit::Ok)
        })
    }
}

/// Asks all nodes at once: one that is down must not hold up the others, and none longer than `limit`.
pub(crate) async fn ask_all(client: &Client, limit: Duration) -> Vec<Row> {
    let limit = client.options().timeout.min(limit);
    let mut asked = JoinSet::new();
    for info in nodes(&client.view()) {
        let status = client.status(info.id).timeout(limit);
        asked.spawn(async move { Row { info, answer: status.await } });
    }
    let mut rows = asked.join_all().await;
    rows.sort_by_key(|row| row.info.id);
    rows
}

/// The members, or before the founding all nodes that are known. Nodes that merely once said hello are nobody's concern.
pub(crate) fn nodes(view: &ClusterView) -> Vec<NodeInfo> {
    let membership = view.membership();
    let belongs = |info: &&NodeInfo| !membership.founded() || membership.member(&info.id).is_some();
    view.nodes().filter(belongs).cloned().collect()
}

/// One line about the cluster.
pub(crate) fn summary(client: &Client) -> String {
    let view = client.view();
    let membership = view.membership();
    if !membership.founded() {
        return format!("cluster {}: not founded yet, run `dyn cluster create`", client.cluster());
    }
    let members = output::count(membership.members().len() as u64, "member");
    let (partitions, replicas) = (membership.partitions(), membership.replicas());
    format!("cluster {}: {members}, {partitions} partitions, {replicas} replicas each", client.cluster())
}

fn as_table(view: Digest, rows: &[Row]) -> String {
    let asked: Vec<NodeId> = rows.iter().map(|row| row.info.id).collect();
    let rows = rows.iter().map(|Row { info, answer }| {
        let (id, address) = (info.id.to_string(), info.address.clone());
        match answer {
            Ok(status) => [
                id,
                address,
                if status.serving { "serving" } else { "not serving" }.into(),
                output::duration(status.uptime_ms),
                status.records.to_string(),
                output::bytes(status.disk_bytes),
                status.node.version.clone(),
                note(view, &asked, status),
            ],
            Err(error) => {
                let none = String::new;
                let note = match error {
                    // What was tried in vain, and why, is for --json.
                    Error::Connect { .. } => "is down, or cannot be reached from here".into(),
                    other => other.to_string(),
                };
                [id, address, "no answer".into(), none(), none(), none(), info.version.clone(), note]
            }
        }
    });
    let header = ["node", "address", "state", "up", "records", "disk", "version", "note"];
    output::table(header, &[3, 4, 5], rows.collect())
}

/// What deserves attention.
fn note(view: Digest, asked: &[NodeId], status: &StatusReply) -> String {
    let mut notes = Vec::new();
    if !status.reason.is_empty() {
        notes.push(status.reason.clone());
    }
    let lost = status.peers.iter().filter(|peer| !peer.connected && asked.contains(&peer.id));
    let lost: Vec<String> = lost.map(|peer| peer.id.to_string()).collect();
    if !lost.is_empty() {
        notes.push(format!("no connection to {}", lost.join(", ")));
    }
    if status.view != view {
        notes.push("its view of the cluster differs".into());
    }
    notes.join("; ")
}

fn as_json(client: &Client, rows: &[Row]) -> Value {
    let view = client.view();
    let nodes = rows.iter().map(|Row { info, answer }| {
        let mut node = json!({"node": info.id.to_string(), "address": info.address});
        let more = match answer {
            Err(error) => json!({"answers": false, "error": error.to_string()}),
            Ok(status) => json!({
                "answers": true,
                "serving": status.serving,
                "reason": status.reason,
                "uptime_ms": status.uptime_ms,
                "records": status.records,
                "disk_bytes": status.disk_bytes,
                "version": status.node.version,
                "boot": status.node.boot,
                "view": status.view.to_string(),
                "peers": status.peers.iter().map(|peer| json!({
                    "node": peer.id.to_string(),
                    "connected": peer.connected,
                    "rtt_us": peer.rtt_us,
                    "last_error": peer.last_error,
                })).collect::<Vec<_>>(),
            }),
        };
        if let (Value::Object(node), Value::Object(more)) = (&mut node, more) {
            node.extend(more);
        }
        node
    });
    json!({
        "cluster": client.cluster(),
        "founded": view.membership().founded(),
        "partitions": view.membership().partitions().get(),
        "replicas": view.membership().replicas(),
        "view": view.digest().to_string(),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::PeerStatus;

    use super::*;

    fn info(id: &str) -> NodeInfo {
        let address = format!("{id}.example:7401");
        NodeInfo { id: id.parse().unwrap(), address, boot: 1, disk: 0, version: "0.1.0".into() }
    }

    #[test]
    fn the_table_shows_what_deserves_attention() {
        let peer = |id: &str, connected| PeerStatus {
            id: id.parse().unwrap(),
            connected,
            rtt_us: 90,
            last_error: String::new(),
        };
        let status = StatusReply {
            node: info("n1"),
            cluster: "c".into(),
            serving: true,
            reason: String::new(),
            uptime_ms: 61_000,
            view: Digest(1),
            records: 12,
            disk_bytes: 2048,
            peers: vec![peer("n2", true), peer("n3", false), peer("stranger", false)],
        };
        let rows = [
            Row { info: info("n1"), answer: Ok(status) },
            Row { info: info("n3"), answer: Err(Error::Connect { message: "long".into() }) },
        ];
        let table = as_table(Digest(2), &rows);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[1].contains("serving") && lines[1].contains("2.0 KiB"), "{table}");
        assert!(lines[1].contains("no connection to n3; its view of the cluster differs"), "{table}");
        assert!(lines[2].contains("no answer") && lines[2].contains("is down"), "{table}");
        assert!(!as_table(Digest(1), &rows).contains("differs"));
    }
}
